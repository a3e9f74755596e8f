"""From the pool that a plan left to a slate: refusals enforced in code, wishes first, gaps filled and reported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmrec.errors import ToolError
from llmrec.lm.protocol import ToolCall
from llmrec.roles import answer, planner
from llmrec.roles.request import Request
from llmrec.roles.wording import plural
from llmrec.tools.base import ToolContext, ToolEvent, call
from llmrec.tools.pool import Candidate, CandidatePool
from llmrec.tools.registry import TOOLS
from llmrec.tools.wishes import Condition

FILLED = "added by the ranking step"
"""Note of calls that the code made because the plan left too few items."""


async def completed(
    pool: CandidatePool, request: Request, context: ToolContext, n: int, *, done: Sequence[ToolEvent] = ()
) -> tuple[CandidatePool, list[ToolEvent]]:
    """The pool without anything refused, filled up when fewer than `n` candidates do everything that was asked.

    First come items that meet every wish, then those of the plan that the code itself would make, then items that have
    one of the values, the rarest first, then what fits the history, then popular ones.

    Args:
        done: calls of the plan; what it tried already is not tried again.
    """
    events: list[ToolEvent] = []
    tried = [_key(event.name, event.arguments) for event in done]
    for wanted in _fillers(request, context):
        pool = _allowed(pool, request, context)
        full = sum(1 for row in pool.rows if len(request.met(context.catalogue, row)) == len(request.want))
        if full >= n or (wanted.name in ("popular", "recommend") and len(pool) >= n):
            break
        if _key(wanted.name, wanted.arguments) in tried:
            continue
        tried.append(_key(wanted.name, wanted.arguments))
        before = len(pool)
        try:
            brought, event = await call(TOOLS, wanted, CandidatePool(), context)
        except ToolError as error:  # such as: nothing is similar to a title
            events.append(ToolEvent(wanted.name, dict(wanted.arguments), before, before, FILLED, str(error)))
            continue
        pool = pool.merged(_below(pool, brought))
        note = f"{FILLED}; {event.note}" if event.note else FILLED
        events.append(ToolEvent(event.name, event.arguments, before, len(pool), note))
    return _allowed(pool, request, context), events


def slate_of(pool: CandidatePool, request: Request, context: ToolContext, n: int) -> tuple[CandidatePool, list[str]]:
    """The first `n` candidates and what the user should know about them.

    Candidates come by the sum of the rarity of the wishes they meet (a film by the director asked for says more than
    one of the length asked for); within equal sums the order of the pool stays.
    """
    rarity = {wish: context.resources.attributes.rarity(wish) for wish in request.want}
    met = {row: request.met(context.catalogue, row) for row in pool.rows}
    slate = pool.ordered(lambda candidate: sum(rarity[wish] for wish in met[candidate.item])).top(n)
    notes: list[str] = []
    full = sum(1 for row in slate.rows if len(met[row]) == len(request.want))
    if request.want and slate and full < len(slate):
        notes.append(_partial(full, slate, request, context))
    if request.query and not any(reason_of_words(one, request.query) for one in slate.candidates):
        notes.append(f"nothing matches the words: {request.query}")
    if len(slate) < n:
        notes.append(f"only {len(slate)} of {n} places could be filled")
    return slate, notes


def reason_of_words(candidate: Candidate, query: str) -> bool:
    """Whether a search for these words brought the candidate."""
    return f"matches the words: {query}" in candidate.reason


def _fillers(request: Request, context: ToolContext) -> list[ToolCall]:
    refused = [Condition(wish, exclude=True).text() for wish in request.avoid]
    rarest = sorted(request.want, key=context.resources.attributes.rarity, reverse=True)
    history = bool(context.history) and context.resources.recommender is not None
    own_plan = planner.gold_calls(request, context.catalogue, history=history)
    every = {"where": [*(wish.text() for wish in request.want), *refused]}
    calls = [ToolCall("search", every)] if request.want else []
    calls += [one for one in own_plan if one.name in ("search", "similar")]
    calls += [ToolCall("search", {"where": [wish.text(), *refused]}) for wish in rarest if wish.value is not None]
    if history:
        calls.append(ToolCall("recommend", {}))
    return [*calls, ToolCall("popular", {"where": refused})]


def _key(name: str, arguments: Mapping[str, Any]) -> str:
    return json.dumps([name, arguments], sort_keys=True, default=list)


def _allowed(pool: CandidatePool, request: Request, context: ToolContext) -> CandidatePool:
    mask = context.resources.attributes.allowed([Condition(wish, exclude=True) for wish in request.avoid])
    mask[list(context.banned)] = False
    return pool.restricted(lambda row: bool(mask[row]))


def _below(pool: CandidatePool, brought: CandidatePool) -> CandidatePool:
    """New candidates with scores under everything the plan found; what is in the pool already is left out."""
    floor = min((candidate.score for candidate in pool.candidates), default=1.0)
    fresh = brought.without(pool.items()).candidates
    n = len(fresh) + 1
    return CandidatePool(tuple(replace(one, score=floor * (1 - (place + 1) / n)) for place, one in enumerate(fresh)))


def _partial(full: int, slate: CandidatePool, request: Request, context: ToolContext) -> str:
    noun = context.resources.dataset.item_noun
    wanted = answer.described(request.want, plural(noun))
    if full:
        return f"{full} of {len(slate)} are {wanted}; the others come close"
    return f"there are no new {wanted}; these come close"
