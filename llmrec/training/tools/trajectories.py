"""Turns of tool calls from any catalogue, executed against the real tools, so that every observation is true.

A turn is what a user says (`llmrec.roles.phrases`, in one phrasing family), what it means, and the calls that serve it:
the plan of `llmrec.roles.planner.gold_calls`, mended where a call left nothing. Users and families are drawn from the
parts they are given, so a test is on users and on language that no training turn has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmrec.errors import DataError, ToolError
from llmrec.lm.protocol import ToolCall
from llmrec.roles import marks, phrases, planner, understand, wording
from llmrec.roles.choices import json_text
from llmrec.roles.inventory import TOOL_FAMILIES
from llmrec.roles.matching import reader_for
from llmrec.roles.planner import PlanForm
from llmrec.roles.request import Request, merged
from llmrec.roles.tool_text import ANSWER, READ, acting_prompt, reading_prompt
from llmrec.roles.understand import Form
from llmrec.seeding import derive, rng
from llmrec.tools.base import ToolContext, ToolEvent, call
from llmrec.tools.pool import CandidatePool
from llmrec.tools.registry import allowed

if TYPE_CHECKING:
    from llmrec.data.interactions import Interactions
    from llmrec.tools.resources import Resources

HISTORY_SHARE = 0.6
"""Share of turns of users whose history is known."""
_UNSERVABLE, _CORRECT, _FOLLOW_UP = 0.06, 0.15, 0.5  # shares: of first messages, of follow-ups, of dialogues


class Step(NamedTuple):
    """One assistant turn: a call as the model writes it, and the texts that stand before it."""

    name: str
    arguments: str
    """JSON; empty for `answer`."""
    before: str
    """Prompt in which earlier calls show their arguments."""
    before_names: str
    """Prompt in which earlier calls show their names alone."""
    choices: tuple[tuple[int, int], ...] = ()
    """Places in the arguments that a grammar leaves open, where it settles the rest; () where it settles little."""


Conversation = tuple[Step, ...]


@dataclass(frozen=True)
class Trajectory:
    """One turn of a user with a recommender."""

    family: str
    blank: Form
    """The message, and what the catalogue found in it."""
    meant: Request
    """What the message alone means, in the meanings that can be told apart."""
    request: Request
    """The dialogue so far, this message included."""
    user: int
    """User index."""
    history: tuple[int, ...]
    """Rows the recommender knows; () for a stranger."""
    plans: tuple[PlanForm, ...] = ()
    """Before each call, and before the end; () where the turn needs no tool."""
    calls: tuple[ToolCall, ...] = ()
    """One fewer than `plans` (none where there are none)."""
    pool: CandidatePool = field(default_factory=CandidatePool)
    """What the calls left."""

    def reading(self) -> Conversation:
        """The message is read, or answered at once."""
        prompt = reading_prompt(self.blank)
        if self.meant.smalltalk:
            return (Step(ANSWER, "", prompt, prompt),)
        written = marks.completion(self.blank, self.meant)
        return (Step(READ, written, prompt, prompt, marks.choices(written)),)

    def acting(self) -> Conversation:
        """The tools are called, then the turn is answered; () where it needs no tool."""
        texts = [(one.name, json_text(dict(one.arguments))) for one in self.calls]
        return tuple(
            Step(name, arguments, acting_prompt(plan, full=True), acting_prompt(plan, full=False))
            for plan, (name, arguments) in zip(self.plans, [*texts, (ANSWER, "")], strict=bool(self.plans))
        )


def trajectories(
    resources: Resources,
    train: Interactions,
    *,
    users: Sequence[int],
    n: int,
    seed: int,
    part: str,
    families: Sequence[str] = TOOL_FAMILIES,
    acting_share: float = 1.0,
) -> list[Trajectory]:
    """`n` turns, or one more where the last dialogue ends behind it.

    Args:
        resources: the tools work on; counts and neighbours must come from training interactions alone.
        train: whose histories are known.
        users: users of this part (training, validation or test).
        n: turns.
        seed: of the run.
        part: name of the part; parts of one seed are drawn apart.
        families: of `llmrec.roles.inventory.ALL_VOICES`.
        acting_share: share of dialogues whose calls are run; the turns of the others have none.

    Raises:
        DataError: there are no users.
    """
    if not len(users):
        raise DataError(f"the part {part!r} has no users; give it more of the dataset's users")

    async def collect() -> list[Trajectory]:
        made: list[Trajectory] = []
        dialogue = 0
        while len(made) < n:
            draw = rng(seed, "trajectories", part, dialogue)
            user = int(users[int(draw.integers(len(users)))])
            known = draw.random() < HISTORY_SHARE
            history = tuple(int(row) for row in train.history(user)) if known else ()
            family = wording.pick(draw, families)
            maker = _Maker(resources, user, history, family, seed)
            acts = draw.random() < acting_share
            made += [await maker.executed(one) if acts else one for one in maker.dialogue(draw)]
            dialogue += 1
        return made

    return asyncio.run(collect())


def users_of_part(train: Interactions, *, seed: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    """Users with training events: eight tenths for training, a tenth each for validation and test."""
    known = np.flatnonzero(train.lengths() >= 1)
    order = rng(seed, "trajectories", "users").permutation(known)
    first, second = int(0.8 * len(order)), int(0.9 * len(order))
    parts = {"train": order[:first], "validation": order[first:second], "test": order[second:]}
    return {name: users if len(users) else order for name, users in parts.items()}  # a handful of users in tiny data


def next_call(request: Request, plan: PlanForm, planned: Sequence[ToolCall]) -> ToolCall | None:
    """The call after those done: the planned one, unless the last call left nothing; None ends the turn.

    What was left empty by a filter is searched for, and whatever stays empty is answered by taste or popularity.
    """
    done = plan.done
    if len(done) >= planner.MAX_CALLS:
        return None
    if done and not done[-1].n_after:
        wanted = [wish.text() for wish in request.want]
        refused = [f"{wish.attribute}!={wish.value_text()}" for wish in request.avoid]
        if done[-1].name == "filter" and wanted:
            return ToolCall("search", {"where": [*wanted, *refused]})
        if done[-1].name in ("recommend", "popular"):
            return None
        if plan.history:
            return ToolCall("recommend", {})
        return ToolCall("popular", {"where": refused} if refused else {})
    mended = any(not event.n_after for event in done)
    if mended or len(done) >= len(planned):
        return None
    return planned[len(done)]


class _Maker:
    """Makes the turns of one dialogue."""

    def __init__(self, resources: Resources, user: int, history: tuple[int, ...], family: str, seed: int) -> None:
        self.resources, self.user, self.history, self.family, self.seed = resources, user, history, family, seed
        self.catalogue = resources.dataset.catalogue
        self.noun = resources.dataset.item_noun
        self.tools = allowed(planner.ALL_TOOLS)

    def dialogue(self, draw: np.random.Generator) -> Iterator[Trajectory]:
        """Messages and their meaning, without calls yet."""
        reader = reader_for(self.catalogue)
        before: Request | None = None
        shown: tuple[int, ...] = ()
        for turn in range(1 + int(draw.random() < _FOLLOW_UP)):
            said = self._said(draw, turn, shown)
            blank = understand.form(said.message, reader, before=before, shown=shown)
            meant = marks.canonical(blank, said.request)
            request = merged(before, meant)
            yield Trajectory(self.family, blank, meant, request, self.user, self.history)
            before = request
            size = min(5, len(self.catalogue))
            shown = tuple(int(row) for row in draw.choice(len(self.catalogue), size=size, replace=False))

    def _said(self, draw: np.random.Generator, turn: int, shown: tuple[int, ...]) -> phrases.Utterance:
        catalogue, family, noun = self.catalogue, self.family, self.noun
        unservable = draw.random() < _UNSERVABLE
        if unservable or turn == 0:
            intent: phrases.Intent | None = "unservable" if unservable else None
            return phrases.utterance(catalogue, draw, family=family, intent=intent, noun=noun)
        kind: phrases.FollowUp | None = "correct" if draw.random() < _CORRECT else None
        return phrases.follow_up(catalogue, draw, family=family, shown=shown, kind=kind, noun=noun)

    async def executed(self, one: Trajectory) -> Trajectory:
        """The same turn with its calls, each run by the real tool."""
        if one.meant.smalltalk:
            return one
        request = one.request
        planned = planner.gold_calls(request, self.catalogue, history=bool(self.history))
        context = self._context(one)
        pool, done = CandidatePool(), list[ToolEvent]()
        plans, calls = list[PlanForm](), list[ToolCall]()
        while True:
            plan = planner.plan_form(
                request, self.catalogue, message=one.blank.message, history=bool(self.history), done=done
            )
            plans.append(plan)
            wanted = next_call(request, plan, planned)
            if wanted is None:
                return replace(one, plans=tuple(plans), calls=tuple(calls), pool=pool)
            calls.append(wanted)
            try:
                pool, event = await call(self.tools, wanted, pool, context)
            except ToolError as error:
                event = ToolEvent(wanted.name, dict(wanted.arguments), len(pool), len(pool), error=str(error))
            done.append(event)

    def _context(self, one: Trajectory) -> ToolContext:
        request = one.request
        return ToolContext(
            self.resources,
            history=self.history,
            excluded=frozenset(one.blank.shown) | request.banned_items,
            named={self.catalogue.display(row): row for row in request.like_titles},
            user=self.user,
            seed=derive(self.seed, "trajectories", self.user),
        )
