"""How well a brain calls tools, measured turn by turn against trajectories whose truth is known.

Two views. *Step by step*, every call is asked for after the true calls before it: the tool, its arguments once the
true tool is given (an upper bound), and both together. *End to end*, the brain reads the message itself and goes on
from what it read and from what its own calls left.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from llmrec.errors import OutputError, ToolError
from llmrec.lm.protocol import ToolCall
from llmrec.roles import marks, planner, understand
from llmrec.roles.orchestrator import ToolBrain, call_options
from llmrec.roles.planner import PlanForm
from llmrec.roles.polarity import corrected
from llmrec.roles.request import Request, merged
from llmrec.roles.tool_text import ANSWER, READ, acting_prompt, reading_prompt
from llmrec.tools.base import ToolContext, ToolEvent, call
from llmrec.tools.pool import CandidatePool
from llmrec.tools.registry import allowed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmrec.roles.brain import Brain
    from llmrec.tools.base import Tool
    from llmrec.tools.resources import Resources
    from llmrec.training.tools.trajectories import Trajectory

BROKEN = ""
"""Name of a call that could not be read: a miss everywhere."""


class Step(NamedTuple):
    """One call after the true calls before it."""

    tool: bool
    """The tool is the true one."""
    call: bool
    """Tool and arguments are."""
    given: bool
    """The arguments are, once the true tool is given: always where it is `answer`, which has none. For brains that
    cannot be given one, as `call`."""


@dataclass(frozen=True)
class TurnScore:
    """One turn."""

    steps: tuple[Step, ...]
    f1: float
    """Of what was read from the message: conditions, titles and words, each with its label; 1 where neither has any."""
    exact: bool
    """All of it is right, the kind of turn included."""
    checked_f1: float
    """F1 after the words of the message had the last say on refusals (`llmrec.roles.polarity`)."""
    sequence: bool
    """End to end, the brain called the true tools in the true order."""
    hit: float | None
    """End to end, the best item of the true calls is among the first ten of the brain's pool; None without a pool."""


async def score_turn(brain: Brain, turn: Trajectory, resources: Resources, *, seed: int) -> TurnScore:
    """Measure a brain on one turn."""
    tools = allowed(planner.ALL_TOOLS)
    try:
        read = marks.canonical(turn.blank, await brain.understand(turn.blank, seed=seed))
    except OutputError:
        read = understand.unread(turn.blank.message)
    checked, _ = corrected(read, turn.blank.message, turn.blank.found)
    steps = [await _reading_step(brain, turn, read, seed)]
    for plan, true in zip(turn.plans, [*turn.calls, None], strict=False):
        steps.append(await _acting_step(brain, plan, true, tools, seed))
    names, pool = await _own_way(brain, turn, merged(turn.blank.before, checked), tools, resources, seed)
    return TurnScore(
        steps=tuple(steps),
        f1=f1(turn.meant, read),
        exact=_same(turn.meant, read),
        checked_f1=f1(turn.meant, checked),
        sequence=names == [one.name for one in turn.calls],
        hit=float(turn.pool.rows[0] in pool.rows[:10]) if turn.pool else None,
    )


def f1(meant: Request, read: Request) -> float:
    """Harmonic mean of precision and recall over labelled conditions, titles and words."""
    truth, found = _atoms(meant), _atoms(read)
    if not truth and not found:
        return 1.0
    return 2 * len(truth & found) / (len(truth) + len(found))


def _atoms(request: Request) -> set[tuple[str, object]]:
    fields = ("want", "avoid", "like_titles", "dislike_titles", "seen_titles")
    atoms: set[tuple[str, object]] = {(name, value) for name in fields for value in getattr(request, name)}
    return atoms | ({("query", request.query)} if request.query else set())


def _same(meant: Request, read: Request) -> bool:
    return meant.turn == read.turn and _atoms(meant) == _atoms(read)


async def _reading_step(brain: Brain, turn: Trajectory, read: Request, seed: int) -> Step:
    smalltalk = turn.meant.smalltalk
    right = read.smalltalk == smalltalk and not read.unread
    whole = right and (smalltalk or _same(turn.meant, read))
    if smalltalk or not isinstance(brain, ToolBrain):
        return Step(right, whole, whole or isinstance(brain, ToolBrain))
    try:
        text = await brain.write(reading_prompt(turn.blank), READ, marks.constraint(turn.blank), seed=seed)
        given = _same(turn.meant, marks.parse(turn.blank, text))
    except OutputError:
        given = False
    return Step(right, whole, given)


async def _acting_step(
    brain: Brain, plan: PlanForm, true: ToolCall | None, tools: Mapping[str, Tool], seed: int
) -> Step:
    wanted = _plain(true)
    try:
        calls = await brain.calls(plan, tools, seed=seed)
        said = _plain(calls[0] if calls else None)
    except OutputError:
        said = (BROKEN, "")
    right, whole = said[0] == wanted[0], said == wanted
    if true is None or not isinstance(brain, ToolBrain):
        return Step(right, whole, whole or isinstance(brain, ToolBrain))
    try:
        text = await brain.write(acting_prompt(plan, full=True), true.name, call_options(plan)[true.name], seed=seed)
        given = (true.name, json.dumps(json.loads(text), sort_keys=True)) == wanted
    except (OutputError, ValueError):
        given = False
    return Step(right, whole, given)


def _plain(one: ToolCall | None) -> tuple[str, str]:
    if one is None:
        return ANSWER, "{}"
    return one.name, json.dumps(
        {k: list(v) if isinstance(v, tuple) else v for k, v in one.arguments.items()}, sort_keys=True
    )


async def _own_way(
    brain: Brain, turn: Trajectory, request: Request, tools: Mapping[str, Tool], resources: Resources, seed: int
) -> tuple[list[str], CandidatePool]:
    """The brain's own calls, from its own reading, and the pool they leave."""
    names, done, pool = list[str](), list[ToolEvent](), CandidatePool()
    if request.smalltalk:
        return names, pool
    catalogue = resources.dataset.catalogue
    context = ToolContext(
        resources,
        history=turn.history,
        excluded=frozenset(turn.blank.shown) | request.banned_items,
        named={catalogue.display(row): row for row in request.like_titles},
        user=turn.user,
        seed=seed,
    )
    while len(done) < planner.MAX_CALLS:
        plan = planner.plan_form(request, catalogue, message=turn.blank.message, history=bool(turn.history), done=done)
        try:
            calls = await brain.calls(plan, tools, seed=seed)
        except OutputError:
            return [*names, BROKEN], pool
        if not calls:
            break
        names.append(calls[0].name)
        try:
            pool, event = await call(tools, calls[0], pool, context)
        except ToolError as error:
            event = ToolEvent(calls[0].name, dict(calls[0].arguments), len(pool), len(pool), error=str(error))
        done.append(event)
    return names, pool
