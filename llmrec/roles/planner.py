"""Choosing tool calls: prompt and grammar with which a small model picks the next call, and training examples for it.

    ### Plan
    Want: genres=Comedy
    Avoid: genres=Horror
    Like: Alien (1979)
    History: yes
    Done: similar 60
    JSON:
    {"name":"filter","arguments":{"where":["genres=Comedy"]}}

Arguments are built from the request: conditions, titles and the query are chosen whole, never spelled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmrec.data.catalogue import Catalogue
from llmrec.errors import OutputError
from llmrec.lm.protocol import Constraint, ToolCall
from llmrec.prompting import render
from llmrec.roles.choices import grammar, json_text, literal, one_of, subset_rules
from llmrec.roles.request import Request
from llmrec.tools.base import ToolEvent

DONE = "done"
"""Name of the call that ends a plan."""
MAX_CALLS = 4
RANKINGS = ("match", "taste", "popularity")
ALL_TOOLS = ("search", "similar", "recommend", "popular", "filter", "rank")
"""Tools that a small model may plan with."""


@dataclass(frozen=True)
class PlanForm:
    """Everything that the choice of the next call depends on."""

    request: Request
    message: str
    """The user's words, for models that can read more than the request; empty when there are none."""
    liked: tuple[str, ...]
    """Titles the user likes, as displayed."""
    history: bool
    """Whether a history is known."""
    done: tuple[ToolEvent, ...] = ()
    tools: tuple[str, ...] = ALL_TOOLS
    """Tools the role may call."""


_WHERE, _TITLES, _BY = '"where":[', '"titles":[', '"by":"'


def plan_form(
    request: Request,
    catalogue: Catalogue,
    *,
    message: str = "",
    history: bool,
    done: Sequence[ToolEvent] = (),
    tools: Sequence[str] = ALL_TOOLS,
) -> PlanForm:
    """The form for the next call."""
    liked = tuple(catalogue.display(row) for row in request.like_titles[:4])
    return PlanForm(request, message, liked, history, tuple(done), tuple(tools))


def prompt(plan: PlanForm) -> str:
    """The prompt text; the model's answer starts on the next line."""
    return (
        render(
            "agent/plan",
            want=[wish.text() for wish in plan.request.want],
            avoid=[wish.text() for wish in plan.request.avoid],
            like=list(plan.liked),
            query=plan.request.query,
            history=plan.history,
            done=[f"{event.name} {event.n_after}" for event in plan.done if not event.error],
            error=plan.done[-1].error if plan.done and plan.done[-1].error else "",
        ).rstrip()
        + "\n"
    )


def constraint(plan: PlanForm) -> Constraint:
    """The grammar of the next call: one tool of the role, with arguments from the request, or ``done``."""
    calls, rules = argument_rules(plan)
    ending = {DONE: ""} if plan.done else {}  # a plan has at least one call
    for name, body in (calls | ending).items():
        rules[f"call_{name}"] = f"{literal(_head(name))} {body} {literal('}}')}"
    return grammar(" | ".join(f"call_{name}" for name in calls | ending), rules)


def argument_rules(plan: PlanForm) -> tuple[dict[str, str], dict[str, str]]:
    """The tools that make sense now, each with the grammar of the inside of its arguments; and rules these refer to."""
    rules: dict[str, str] = {}
    where = [json_text(condition.text()) for condition in plan.request.conditions()]
    if where:
        rules |= subset_rules("where", where)
    if plan.liked:
        rules |= subset_rules("titles", [json_text(title) for title in plan.liked])
    calls = {name: body for name, body in _argument_grammars(plan, bool(where)).items() if name in plan.tools}
    return calls, rules


def parse(text: str) -> ToolCall | None:
    """The call that the model wrote; None when the plan is done.

    Raises:
        OutputError: it is no call.
    """
    try:
        answer = json.loads(text)
        name, arguments = answer["name"], answer["arguments"]
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"not a tool call, got {text[:200]!r}") from error
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise OutputError(f"a call has a name and an object of arguments, got {text[:200]!r}")
    return None if name == DONE else ToolCall(name, arguments)


def completion(wanted: ToolCall | None) -> str:
    """The answer that stands for a call; None ends the plan."""
    if wanted is None:
        return json_text({"name": DONE, "arguments": {}})
    return json_text({"name": wanted.name, "arguments": dict(wanted.arguments)})


def gold_calls(request: Request, catalogue: Catalogue, *, history: bool) -> list[ToolCall]:
    """A sound plan for a request: the policy that training examples teach, and that tests compare with."""
    wanted = [wish.text() for wish in request.want]
    refused = [f"{wish.attribute}!={wish.value_text()}" for wish in request.avoid]
    where: dict[str, Any] = {"where": [*wanted, *refused]} if wanted or refused else {}
    liked = [catalogue.display(row) for row in request.like_titles[:4]]
    calls: list[ToolCall] = []
    if liked:
        calls.append(ToolCall("similar", {"titles": liked}))
        if where:
            calls.append(ToolCall("filter", where))
        return [*calls, ToolCall("rank", {"by": "taste"})] if history else calls
    if request.want or request.query:
        query = {"query": request.query} if request.query else {}
        calls.append(ToolCall("search", query | where))
        return [*calls, ToolCall("rank", {"by": "taste"})] if history else calls
    if history:
        return [ToolCall("recommend", {})]
    return [ToolCall("popular", where)]


def training_examples(
    message: str,
    catalogue: Catalogue,
    gold: Request,
    *,
    history: bool,
    sizes: Sequence[int] = (100, 60, 40, 30),
) -> list[tuple[str, str]]:
    """Prompt and completion for every call of the plan and for its end; no end token is added.

    Args:
        sizes: pool sizes shown after each call.
    """
    examples: list[tuple[str, str]] = []
    done: list[ToolEvent] = []
    for wanted in [*gold_calls(gold, catalogue, history=history), None]:
        plan = plan_form(gold, catalogue, message=message, history=history, done=done)
        examples.append((prompt(plan), completion(wanted)))
        if wanted is not None:
            done.append(ToolEvent(wanted.name, wanted.arguments, n_after=sizes[len(done) % len(sizes)]))
    return examples


def _argument_grammars(plan: PlanForm, conditions: bool) -> Mapping[str, str]:
    """Grammar of the inside of ``"arguments":{...}`` per tool that makes sense now."""
    where = f"{literal(_WHERE)} where {literal(']')}" if conditions else ""
    query = literal(f'"query":{json_text(plan.request.query)}') if plan.request.query else ""
    grammars = {"popular": f"({where})?" if where else ""}
    if plan.history:
        grammars["recommend"] = ""
    if query or where:
        both = f'{query} ("," {where})?' if query and where else query or where
        grammars["search"] = f"({both} | {where})" if query and where else both
    if plan.liked:
        grammars["similar"] = f"{literal(_TITLES)} titles {literal(']')}"
    if plan.done and plan.done[-1].n_after:  # there are candidates to rank and to filter
        rankings = RANKINGS if plan.history else [ranking for ranking in RANKINGS if ranking != "taste"]
        grammars["rank"] = f"{literal(_BY)} {one_of(rankings)} {literal(chr(34))}"
        if where:
            grammars["filter"] = where
    return grammars


def _head(name: str) -> str:
    return f'{{"name":"{name}","arguments":{{'
