"""One session: a recommender and a simulated user take turns until the user leaves (RecoWorld, arXiv 2509.10397)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from llmrec.data.catalogue import Catalogue
from llmrec.errors import LlmrecError, UserError
from llmrec.roles.instruction import Instruction
from llmrec.roles.observation import Observation, Reply, Shown
from llmrec.roles.simulated_user import (
    Player,
    Reaction,
    UserState,
    new_user,
    next_round,
    private_view,
    summarise,
)
from llmrec.seeding import derive
from llmrec.simulate.policies import Policy

Ending = Literal["out of patience", "gave up after asking", "round limit", "failed"]


class Compliance(BaseModel):
    """Whether a slate follows the instruction given before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    before: float | None
    """Share of the slate that was complained about; None where nothing can be checked."""
    after: float | None
    """Share of the slate that answers."""


class Constraints(BaseModel):
    """Conditions that the agent read in the dialogue, and how its slate keeps to them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    refused: tuple[str, ...] = ()
    """What was refused, as conditions."""
    kept: bool = True
    """No item of the slate has anything that was refused."""
    wanted: tuple[str, ...] = ()
    wanted_share: float | None = None
    """Share of (item, wanted condition) pairs that hold; None where nothing was wanted."""


class Round(BaseModel):
    """One round as the journal keeps it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turn: int
    slate: tuple[int, ...]
    """Catalogue rows that the recommender showed, out-of-catalogue ones left out."""
    item_ids: tuple[str, ...] = ()
    """Ids of the slate, for readers who have another catalogue."""
    titles: tuple[str, ...] = ()
    """Titles of the slate, for people."""
    out_of_catalogue: tuple[int, ...] = ()
    """What it showed that is no item."""
    reasons: tuple[str, ...] = ()
    prose: str = ""
    events: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] = {}
    """What the agent's turn took: calls, repairs, corrections, tokens, seconds (`llmrec.roles.turn_log.TurnLog`)."""
    constraints: Constraints | None = None
    """How the slate keeps to the request as the agent read it; None where it read no condition."""
    shown: tuple[Mapping[str, Any], ...] = ()
    """Item, public action and rating, in order."""
    clicks: tuple[float, ...] = ()
    """Private: click probability of each decision."""
    mindset: Mapping[str, Any] = {}
    """Private: after the round."""
    instruction: Instruction | None = None
    second_chance: bool | None = None
    """Whether the user stayed after asking; None when nothing was asked."""
    compliance: Compliance | None = None
    """How this slate answers the instruction of the round before."""


class Session(BaseModel):
    """A finished session."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: int
    user_id: str
    policy: str
    slate_size: int
    profile: Mapping[str, Any]
    """Public facts of the user."""
    likes: tuple[str, ...]
    """Private tastes."""
    wants: tuple[str, ...]
    """Private: what the user was after."""
    n_history: int
    rounds: tuple[Round, ...]
    ended: Ending
    failed: str | None = None
    """Why the session could not go on; None when it came to an end of its own."""
    summary: str = ""
    """What the user remembers."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Stage:
    """What all sessions of a run share."""

    player: Player
    user_graph: Any
    """Compiled ``agents/user/graph.py``."""
    max_rounds: int
    slate_size: int


async def play(stage: Stage, policy: Policy, user: int) -> Session:
    """Play one session to its end.

    A model or tool that fails ends the session with the reason in `failed`; errors that the person at the keyboard must
    repair are raised.
    """
    started = time.perf_counter()
    state = new_user(stage.player, user)
    history = tuple(int(item) for item in stage.player.index.train.history(user))
    observation = Observation(history=history, profile=state.persona.profile)
    rounds: list[Round] = []
    ended: Ending = "round limit"
    failed: str | None = None
    try:
        for turn in range(stage.max_rounds):
            reply = await policy.recommend(
                observation,
                user=user,
                slate_size=stage.slate_size,
                # a blind control draws what its seeing twin draws: their difference is the reading alone
                seed=derive(stage.player.seed, "policy", policy.name.removesuffix("-blind")),
            )
            if reply.failed:
                rounds.append(_failed_round(turn, reply))
                ended, failed = "failed", reply.failed
                break
            slate, strangers = in_catalogue(reply.slate, len(stage.player.catalogue))
            reaction = await _react(stage, state, slate)
            rounds.append(_round(stage, state, reply, slate, strangers, reaction, rounds))
            state = next_round(reaction.state)
            observation = observe(observation, reaction, reply)
            if reaction.left:
                ended = "out of patience"
                break
            if not reaction.second_chance:
                ended = "gave up after asking"
                break
    except UserError:
        raise
    except LlmrecError as error:
        ended, failed = "failed", f"{type(error).__name__}: {error}"
    state = summarise(stage.player, state, reason=ended)
    return Session(
        user=user,
        user_id=stage.player.index.train.user_ids[user],
        policy=policy.name,
        slate_size=stage.slate_size,
        profile=state.persona.profile,
        likes=tuple(taste.value for taste in state.persona.likes),
        wants=tuple(taste.value for taste in state.mindset.target),
        n_history=len(history),
        rounds=tuple(rounds),
        ended=ended,
        failed=failed,
        summary=state.summaries[-1],
        seconds=round(time.perf_counter() - started, 3),
    )


async def _react(stage: Stage, state: UserState, slate: tuple[int, ...]) -> Reaction:
    result = await stage.user_graph.ainvoke({"user": state, "slate": slate})
    reaction: Reaction = result["reaction"]
    return reaction


def in_catalogue(slate: Sequence[int], n_items: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The items of a slate that exist, and what does not."""
    good = tuple(item for item in slate if 0 <= item < n_items)
    return good, tuple(item for item in slate if not 0 <= item < n_items)


def observe(before: Observation, reaction: Reaction, reply: Reply) -> Observation:
    """What the recommender sees in the next round: public actions and the user's words, nothing else of the user."""
    said = () if reaction.instruction is None else (reaction.instruction.say,)
    return replace(
        before,
        feedback=(*before.feedback, reaction.shown),
        messages=(*before.messages, *said),
        answered=len(before.messages),
        turn=before.turn + 1,
        request=reply.request,
    )


def compliance(before: Round | None, slate: tuple[int, ...], catalogue: Catalogue) -> Compliance | None:
    """Shares of the last slate and of this one that fulfil what was asked in between; None when nothing was asked."""
    if before is None or before.instruction is None:
        return None
    predicate = before.instruction.predicate
    return Compliance(
        kind=before.instruction.kind,
        before=predicate.share(before.slate, catalogue),
        after=predicate.share(slate, catalogue),
    )


def constraints(reply: Reply, slate: tuple[int, ...], catalogue: Catalogue) -> Constraints | None:
    """How a slate keeps to the request as the agent read it; None without a request, a condition or a slate."""
    request = reply.request
    if request is None or not slate or not request.conditions():
        return None
    held = [wish.holds(catalogue, row) for wish in request.want for row in slate]
    return Constraints(
        refused=tuple(wish.text() for wish in request.avoid),
        kept=not any(wish.holds(catalogue, row) for wish in request.avoid for row in slate),
        wanted=tuple(wish.text() for wish in request.want),
        wanted_share=sum(held) / len(held) if held else None,
    )


def _round(
    stage: Stage,
    state: UserState,
    reply: Reply,
    slate: tuple[int, ...],
    strangers: tuple[int, ...],
    reaction: Reaction,
    rounds: Sequence[Round],
) -> Round:
    after, catalogue = reaction.state, stage.player.catalogue
    return Round(
        turn=state.turn,
        slate=slate,
        item_ids=tuple(catalogue.item_ids[item] for item in slate),
        titles=tuple(catalogue.display(item) for item in slate),
        out_of_catalogue=strangers,
        reasons=tuple(why for item, why in zip(reply.slate, reply.reasons, strict=False) if item not in strangers),
        prose=reply.prose,
        events=tuple(asdict(event) for event in reply.events),
        notes=(*reply.notes, *reaction.notes),
        record=reply.record,
        constraints=constraints(reply, slate, catalogue),
        shown=tuple(_plain(one) for one in reaction.shown),
        clicks=tuple(round(one.click, 6) for one in after.interactions if one.turn == state.turn),
        mindset=private_view(after, stage.player.config),
        instruction=reaction.instruction,
        second_chance=None if reaction.instruction is None else reaction.second_chance,
        compliance=compliance(rounds[-1] if rounds else None, slate, catalogue),
    )


def _failed_round(turn: int, reply: Reply) -> Round:
    return Round(
        turn=turn,
        slate=(),
        events=tuple(asdict(event) for event in reply.events),
        notes=reply.notes,
        prose=reply.prose,
        record=reply.record,
    )


def _plain(shown: Shown) -> dict[str, Any]:
    return {"item": shown.item, "action": shown.action} | ({} if shown.rating is None else {"rating": shown.rating})
