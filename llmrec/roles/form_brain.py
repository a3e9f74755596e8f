"""The recommender's brain on a chat model behind an engine: the forms of `GrammarBrain`, asked in messages.

Where the engine takes JSON schemas, the answers are held by one, so the model chooses and never spells. Where it takes
none, the model answers freely and what it writes is mended (`llmrec.lm.repair`) and checked. Whatever stays the same
from turn to turn stands first in the prompt, so that a server reads it once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmrec.errors import OutputError
from llmrec.lm import toolcalls
from llmrec.lm.protocol import Completion, Constraint, LanguageModel, Message, Sampling, ToolCall
from llmrec.lm.repair import read_object
from llmrec.prompting import render
from llmrec.roles import understand
from llmrec.roles.brain import AnswerFacts
from llmrec.roles.choices import json_text
from llmrec.roles.planner import PlanForm
from llmrec.roles.planner_schema import plan_schema, read_plan
from llmrec.roles.request import Request
from llmrec.roles.turn_log import TurnLog, is_valid
from llmrec.roles.understand import Form
from llmrec.tools.base import Tool, function_schema

_FORM_TOKENS = 200
_PLAN_TOKENS = 400
_PROSE_TOKENS = 70
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


class FormBrain:
    """Understands, plans and writes with a chat model; greedy, so the seed changes nothing.

    Args:
        lm: any language model that takes messages.
        noun: what an item is called.
        adapter: LoRA adapter of the recommender role; None is the bare backbone.
        writes: whether it writes the prose; else the templates do.
    """

    def __init__(
        self, lm: LanguageModel, *, noun: str = "item", adapter: str | None = None, writes: bool = True
    ) -> None:
        self._lm = lm
        self._noun = noun
        self._adapter = adapter
        self._writes = writes

    @property
    def name(self) -> str:
        """Name of the language model and adapter."""
        return self._lm.name if self._adapter is None else f"{self._lm.name}/{self._adapter}"

    async def understand(self, blank: Form, *, seed: int, log: TurnLog | None = None) -> Request:
        """Read a message by choosing among what the catalogue found in it."""
        log = TurnLog() if log is None else log
        before = blank.before.model_dump_json(exclude_defaults=True) if blank.before else ""
        found = [{"words": one.words, "label": one.label} for one in blank.found]
        asked = render("agent/chat_understand_message", message=blank.message, before=before, found=found)
        messages = [_system("agent/form_understand", noun=self._noun), _user(asked)]
        answer = await self._ask(messages, understand.schema(blank), seed, log, most=_FORM_TOKENS)
        return understand.parse(blank, _filled(blank, answer, log))

    async def calls(
        self, plan: PlanForm, tools: Mapping[str, Tool], *, seed: int, log: TurnLog | None = None
    ) -> list[ToolCall]:
        """All calls at once; asked again only when they brought nothing or the last one failed."""
        log = TurnLog() if log is None else log
        if plan.done and plan.done[-1].n_after and not plan.done[-1].error:
            return []
        messages = [_system("agent/form_plan", noun=self._noun, tools=list(plan.tools)), _user(_plan_request(plan))]
        if "json_schema" not in self._lm.capabilities.constraints:
            return await self._free_calls(messages, tools, seed, log)
        schema = plan_schema(plan)
        if schema is None:  # none of the role's tools fits this request; the ranking fills the slate
            return []
        answer = await self._ask(messages, schema, seed, log, most=_PLAN_TOKENS)
        try:
            calls = read_plan(answer.text)
        except OutputError:
            log.calls_asked += 1
            raise
        log.calls_asked += len(calls)
        return calls

    async def prose(self, facts: AnswerFacts, *, seed: int, log: TurnLog | None = None) -> str | None:
        """Two sentences about the slate; None leaves it to the templates."""
        if not self._writes or not facts.titles:
            return None
        log = TurnLog() if log is None else log
        items = [{"title": t, "reason": r} for t, r in zip(facts.titles, facts.reasons, strict=True)]
        text = render("agent/form_answer", noun=self._noun, message=facts.message, items=items, notes=list(facts.notes))
        sampling = Sampling(max_tokens=_PROSE_TOKENS, temperature=0.0, seed=seed)
        answer = (await self._lm.generate([_user(text)], sampling=sampling, adapter=self._adapter))[0]
        log.answered(answer)
        return _whole_sentences(answer)

    async def _ask(
        self, messages: Sequence[Message], schema: dict[str, Any], seed: int, log: TurnLog, *, most: int
    ) -> Completion:
        held = "json_schema" in self._lm.capabilities.constraints
        sampling = Sampling(max_tokens=most, temperature=0.0, seed=seed)
        form = Constraint("json_schema", schema) if held else None
        answer = (await self._lm.generate(messages, sampling=sampling, constraint=form, adapter=self._adapter))[0]
        log.answered(answer)
        return answer

    async def _free_calls(
        self, messages: Sequence[Message], tools: Mapping[str, Tool], seed: int, log: TurnLog
    ) -> list[ToolCall]:
        schemas = [function_schema(tool) for tool in tools.values()]
        sampling = Sampling(max_tokens=_PLAN_TOKENS, temperature=0.0, seed=seed)
        answer = (await self._lm.generate(messages, sampling=sampling, tools=schemas, adapter=self._adapter))[0]
        parsed = toolcalls.parse(answer.raw or answer.text, fenced=True, tools=schemas)
        log.answered(replace(answer, repairs=parsed.repairs))
        log.calls_asked += len(parsed.calls) + len(parsed.broken)
        log.calls_repaired += sum(is_valid(tools, call) for call in parsed.calls) if parsed.repairs else 0
        if not parsed.calls:
            log.calls_asked += not parsed.broken
            raise OutputError(f"the model wrote no tool call that could be read, got {answer.text[:200]!r}")
        return list(parsed.calls)


def _system(template: str, **values: Any) -> Message:
    return {"role": "system", "content": render(template, **values).strip()}


def _user(text: str) -> Message:
    return {"role": "user", "content": text.strip()}


def _plan_request(plan: PlanForm) -> str:
    return render(
        "agent/form_plan_request",
        message=plan.message,
        want=[wish.text() for wish in plan.request.want],
        avoid=[wish.text() for wish in plan.request.avoid],
        like=list(plan.liked),
        query=plan.request.query,
        history=plan.history,
        done=[f"{event.name} {event.n_after}" for event in plan.done if not event.error],
        error=plan.done[-1].error if plan.done and plan.done[-1].error else "",
    )


def _filled(blank: Form, answer: Completion, log: TurnLog) -> str:
    """The answer as the compact JSON that `understand.parse` reads; what had to be mended is recorded."""
    if answer.finish_reason == "length":
        raise OutputError(f"the form was cut at {answer.n_tokens} tokens, got {answer.text[:200]!r}")
    found = read_object(answer.text)
    if found is None:
        raise OutputError(f"not JSON, got {answer.text[:200]!r}")
    log.mended(found.repairs)
    fields = found.value
    labels = [one.label for one in blank.found]
    missing = [name for name in ("turn", *labels, "query") if name not in fields]
    if "turn" in missing:
        raise OutputError(f"the form has no turn, got {answer.text[:200]!r}")
    log.mended(("missing field",) * len(missing))
    if "query" in fields and fields["query"] not in ("", *blank.spans):  # words that are not the user's
        log.mended(("unknown query",))
        fields = {**fields, "query": ""}
    allowed = {"want", "avoid", "ignore", "like", "dislike", "seen"}
    wrong = [name for name in labels if name in fields and fields[name] not in allowed]
    if wrong:
        raise OutputError(f"{wrong[0]!r} must be one of {', '.join(sorted(allowed))}, got {fields[wrong[0]]!r}")
    absent = dict.fromkeys(labels, "ignore") | {"query": ""}
    return json_text({name: fields.get(name, absent.get(name)) for name in ("turn", *labels, "query")})


def _whole_sentences(answer: Completion) -> str | None:
    """The text, cut after its last whole sentence where the model was cut; None when no sentence is whole."""
    text = " ".join(answer.text.split())
    if answer.finish_reason == "length":
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        text = text[: ends[-1]] if ends else ""
    return text or None
