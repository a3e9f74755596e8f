"""The simulated user in action: it walks a slate in order, acts, and says what should change.

A user is a persona, a private mindset and a memory at two levels: every interaction of the session, and a summary
written when it ends. The functions here are the nodes of ``agents/user/graph.py``. Draws depend on (run seed, user,
turn, position) alone and not on the policy, so that all policies meet the same users (common random numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llmrec.data.catalogue import Catalogue
from llmrec.errors import OutputError
from llmrec.lm.protocol import LanguageModel, Sampling
from llmrec.prompting import as_data, render
from llmrec.roles import chat_user
from llmrec.roles import mindset as minds
from llmrec.roles.instruction import Candidate, Instruction, candidates, grammar, instruction_prompt, parse, read_slate
from llmrec.roles.mindset import Look, Mindset, UserConfig
from llmrec.roles.observation import Shown
from llmrec.roles.opinion import SKIP, STARS, YES, disliked, liked, log_odds, opinion, sigmoid
from llmrec.roles.persona import Persona, TasteIndex
from llmrec.roles.user import HISTORY_LENGTH, Seen, decision_prompt
from llmrec.seeding import derive, rng

_SAY_ATTEMPTS = 2


@dataclass(frozen=True)
class Player:
    """What all simulated users of a run share."""

    lm: LanguageModel
    index: TasteIndex
    config: UserConfig
    seed: int
    """Run seed."""

    @property
    def catalogue(self) -> Catalogue:
        """The items."""
        return self.index.catalogue

    @property
    def style(self) -> Literal["text", "chat"]:
        """How the model is asked."""
        return chat_user.style_of(self.lm, self.config.style)


@dataclass(frozen=True)
class Interaction:
    """One decision, as the user remembers it (private)."""

    turn: int
    position: int
    item: int
    label: str
    """``skip``, ``yes`` or stars."""
    action: str
    model_click: float
    """The model's click probability on an even mixture, after its calibration."""
    click: float
    """After prior and mindset."""


@dataclass(frozen=True)
class UserState:
    """One user at one moment of a session. Private: nothing of it but `Shown` and `Instruction.say` leaves the user."""

    persona: Persona
    mindset: Mindset
    past: tuple[Seen, ...]
    """Taken before the session, then extended by what was clicked in earlier rounds."""
    turn: int = 0
    interactions: tuple[Interaction, ...] = ()
    """Interaction-wise memory: this session."""
    summaries: tuple[str, ...] = ()
    """Session-wise memory: one text per finished session."""

    def seen_in_session(self, item: int) -> bool:
        """Whether the item was already decided on in this session."""
        return any(one.item == item for one in self.interactions)

    @property
    def past_and_today(self) -> tuple[tuple[Seen, ...], tuple[Seen, ...]]:
        """`past`, cut where the session began."""
        n_today = sum(one.label != SKIP for one in self.interactions if one.turn < self.turn)
        cut = len(self.past) - n_today
        return self.past[:cut], self.past[cut:]


@dataclass(frozen=True)
class Reaction:
    """What a user does about one slate."""

    state: UserState
    """The user afterwards."""
    shown: tuple[Shown, ...] = ()
    """Public actions, in order; nothing after the first leave."""
    left: bool = False
    instruction: Instruction | None = None
    second_chance: bool = True
    """Whether the user looks at one more slate."""
    notes: tuple[str, ...] = field(default=())
    """An instruction that the model could not write."""


def new_user(player: Player, user: int) -> UserState:
    """A user at the start of a session, from training events and the run seed alone."""
    index = player.index
    persona = index.persona(user)
    draws = rng(player.seed, "user", user)
    items, ratings = index.train.history(user), index.train.ratings(user)
    newest = range(max(len(items) - HISTORY_LENGTH, 0), len(items))
    past = tuple(Seen(int(items[p]), None if ratings is None else index.stars(float(ratings[p]))) for p in newest)
    return UserState(persona, minds.start(index.draw_target(persona.likes, draws), draws, player.config), past)


async def look(player: Player, before: UserState, slate: tuple[int, ...]) -> Reaction:
    """Walk the slate in order: look, decide, act, update the mindset; stop at the first leave."""
    state, shown = before, []
    if not slate:
        state = replace(state, mindset=minds.after_nothing(state.mindset, player.config))
    for position, item in enumerate(slate):
        if state.mindset.out_of_patience:
            shown.append(Shown(item, "leave"))
            return Reaction(state, tuple(shown), left=True)
        state, seen = await _act(player, state, item, position)
        shown.append(seen)
    return Reaction(state, tuple(shown), left=not slate and state.mindset.out_of_patience)


async def _act(player: Player, state: UserState, item: int, position: int) -> tuple[UserState, Shown]:
    persona, config, index = state.persona, player.config, player.index
    this_turn = [(one.item, one.label) for one in state.interactions if one.turn == state.turn]
    thing = Look(
        topics=index.topics(item),
        on_target=any(index.has(item, taste) for taste in state.mindset.target),
        as_asked=minds.as_asked(state.mindset, player.catalogue, item),
    )
    draws = rng(player.seed, "decide", persona.user, state.turn, position).random(3)
    if state.seen_in_session(item):  # shown again although already decided on: nobody decides twice
        model_click, click, label = 0.0, 0.0, SKIP
    else:
        lean = minds.shift(state.mindset, thing, config)
        model_click, click, label = await _decide(player, state, this_turn, item, lean, draws)
    seen = public(item, label, click, float(draws[2]), persona, config)
    done = Interaction(state.turn, position, item, label, seen.action, model_click, click)
    mindset = minds.update(state.mindset, thing, label, index.topic_share, config)
    return replace(state, mindset=mindset, interactions=(*state.interactions, done)), seen


async def _decide(
    player: Player,
    state: UserState,
    this_turn: list[tuple[int, str]],
    item: int,
    lean: float,
    draws: npt.NDArray[np.float64],
) -> tuple[float, float, str]:
    """The calibrated click probability, the one after prior and mindset (`lean`, in log-odds), and the label drawn."""
    persona, config = state.persona, player.config
    if player.style == "text":
        prompt = decision_prompt(player.catalogue, persona, state.past, this_turn, item)
        view = await opinion(player.lm, prompt, has_ratings=persona.has_ratings, adapter=config.adapter)
        even = config.calibration(view.click)
        click = sigmoid(log_odds(even) + lean)
        return even, click, view.draw(click, float(draws[0]), float(draws[1]))
    past, today = state.past_and_today
    messages = chat_user.decision_messages(player.catalogue, persona, past, this_turn, item, today=today)
    view = await chat_user.chat_opinion(player.lm, messages, adapter=config.adapter)
    even = config.calibration(view.click)
    click = sigmoid(log_odds(even) + lean)
    if persona.has_ratings and float(draws[0]) < click:
        view = await chat_user.with_stars(player.lm, messages, view, adapter=config.adapter)
    return even, click, view.draw(click, float(draws[0]), float(draws[1]))


def public(item: int, label: str, click: float, uniform: float, persona: Persona, config: UserConfig) -> Shown:
    """The visible action behind a decision."""
    if label == SKIP:
        return Shown(item, "view" if click >= config.view_from else "skip")
    if label in STARS and uniform < config.rate_share:
        return Shown(item, "rate", int(label))
    if label == YES and persona.noun == "product" and uniform < config.buy_share:
        return Shown(item, "buy")
    return Shown(item, "dislike" if disliked(label) else "like" if label in STARS and liked(label) else "click")


async def reflect(player: Player, reaction: Reaction) -> Reaction:
    """Say what should change, when disengagement calls for it, and decide about a second chance."""
    state, config = reaction.state, player.config
    if reaction.left or not state.mindset.speaks_up(config):
        return reaction
    this_turn = [(one.item, one.label) for one in state.interactions if one.turn == state.turn]
    chance = rng(player.seed, "chance", state.persona.user, state.turn).random() < config.second_chance
    try:
        said = await _say(player, state, this_turn)
    except OutputError as error:
        return replace(reaction, second_chance=chance, notes=(*reaction.notes, f"no instruction: {error}"))
    mindset = minds.after_asking(state.mindset, said.predicate, config)
    return replace(reaction, state=replace(state, mindset=mindset), instruction=said, second_chance=chance)


async def _say(player: Player, state: UserState, this_turn: list[tuple[int, str]]) -> Instruction:
    persona, config = state.persona, player.config
    target = state.mindset.target
    choices = candidates(player.index, persona, target, read_slate(player.index, this_turn))
    for attempt in range(_SAY_ATTEMPTS):
        sampling = Sampling(
            max_tokens=config.say_tokens,
            temperature=config.say_temperature,
            seed=derive(player.seed, "say", persona.user, state.turn, attempt),
        )
        try:
            if player.style == "chat":
                return await _say_in_chat(player, state, this_turn, choices, sampling)
            prompt = instruction_prompt(player.catalogue, persona, target, this_turn)
            completions = await player.lm.generate(
                prompt, sampling=sampling, constraint=grammar(choices, free=config.free_words), adapter=config.adapter
            )
            return parse(completions[0].text, choices, free=config.free_words)
        except OutputError:
            if attempt + 1 == _SAY_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


async def _say_in_chat(
    player: Player,
    state: UserState,
    this_turn: list[tuple[int, str]],
    choices: list[Candidate],
    sampling: Sampling,
) -> Instruction:
    persona, config = state.persona, player.config
    sentences = chat_user.written(choices, rng(player.seed, "phrase", persona.user, state.turn))
    messages = chat_user.instruction_messages(
        player.catalogue,
        persona,
        state.past_and_today[0],
        state.mindset.target,
        this_turn,
        tuple(sentences),
        free=config.free_words,
    )
    return await chat_user.say(
        player.lm, messages, sentences, sampling=sampling, free=config.free_words, adapter=config.adapter
    )


def next_round(state: UserState) -> UserState:
    """Close a round: what was clicked in it becomes past."""
    clicked = tuple(
        Seen(one.item, int(one.label) if one.label in STARS else None)
        for one in state.interactions
        if one.turn == state.turn and one.label != SKIP
    )
    return replace(state, past=(*state.past, *clicked), turn=state.turn + 1)


def summarise(player: Player, state: UserState, *, reason: str) -> UserState:
    """Write the session into the session-wise memory."""
    clicked = [one for one in state.interactions if one.label != SKIP]
    title = player.catalogue.display
    summary = render(
        "user/summary",
        rounds=len({one.turn for one in state.interactions}),
        liked=[as_data(title(one.item), max_characters=60) for one in clicked if liked(one.label)][:5],
        regretted=[as_data(title(one.item), max_characters=60) for one in clicked if disliked(one.label)][:5],
        n_skipped=len(state.interactions) - len(clicked),
        tired_of=[topic for topic, e in sorted(state.mindset.exposure.items(), key=lambda p: (-p[1], p[0])) if e > 1][
            :2
        ],
        satisfaction_before=player.config.satisfaction_start,
        satisfaction_after=state.mindset.satisfaction,
        reason=reason,
    )
    return replace(state, summaries=(*state.summaries, summary))


def private_view(state: UserState, config: UserConfig) -> Mapping[str, Any]:
    """The mindset as numbers, for the private part of a journal entry."""
    return {
        "satisfaction": round(state.mindset.satisfaction, 4),
        "fatigue": round(state.mindset.recent_fatigue, 4),
        "patience": round(state.mindset.patience, 4),
        "disengagement": round(state.mindset.disengagement(config), 4),
    }
