"""Is what a role is trained on what it is asked with? Training prompts against prompts caught on the serving path.

A few users of the dataset make a small world. The builders of training examples run on it; then the very code that
serves the role runs on it with an engine that only listens. A training prompt that serving never asks with is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrec.data.dataset import Dataset, compact
from llmrec.data.splits import Split, leave_one_out
from llmrec.errors import ModelError
from llmrec.lm.codec import TokenCodec
from llmrec.retrieval.calrec import CalrecConfig, CalrecRecommender, flat_items
from llmrec.roles import mindset as minds
from llmrec.roles.instruction import instruction_prompt
from llmrec.roles.mindset import UserConfig
from llmrec.roles.persona import Persona, TasteIndex, taste_index
from llmrec.roles.simulated_user import Interaction, Player, Reaction, UserState, look, reflect
from llmrec.roles.user import HISTORY_LENGTH, Seen, decision_examples, decision_prompt, instruction_examples
from llmrec.seeding import rng
from llmrec.training.corpus import BUILDERS, Material
from llmrec.training.examples import IGNORED, Example, Segment, completion_example, encode, plain_text
from llmrec.training.listener import Listener, shown_lines

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_USERS, _LONGEST, _EXAMPLES = 8, 60, 6
_EVENTS = 4  # two to learn from, one to validate, one to test
_STEADY = UserConfig(
    style="text",
    click_prior=0.5,
    patience_low=1e6,
    patience_high=1e6,
    threshold=0.0,
    fatigue_weight=0.0,
    satisfaction_weight=0.0,
    target_weight=0.0,
)
"""A simulated user who does what the engine says."""


@dataclass(frozen=True)
class World:
    """A few users and their items."""

    dataset: Dataset
    split: Split
    history_items: int

    @property
    def material(self) -> Material:
        """For the builders."""
        return Material(self.dataset, self.split, self.history_items)


Compared = list[tuple[Example, Sequence[str]]]
Served = Callable[[World], Compared]
"""Training examples, each with the prompts that serving asks with for its learnt segments, the last ones last."""


def check_templates(
    kinds: Sequence[str], material: Material, tokenizer: PreTrainedTokenizerBase, model: Any = None
) -> dict[str, Any]:
    """Compare training prompts with serving prompts, in text and in tokens.

    Args:
        kinds: of training examples (`llmrec.training.corpus`).
        material: what they are built from.
        tokenizer: of the backbone.
        model: of the trainer; with it the tokens of a prompt are compared with those that the local engine reads.

    Returns:
        Prompts compared per kind; None for a kind that nothing here serves.

    Raises:
        ModelError: a training prompt differs from every prompt of the serving path.
    """
    world = small_world(material)
    found: dict[str, Any] = {}
    codec = None
    if model is not None:
        codec = TokenCodec(
            model, tokenizer, n_vocabulary=int(model.config.get_text_config().vocab_size), name="the backbone"
        )
    for kind in kinds:
        if kind not in SERVED:
            found[kind] = None
            continue
        found[kind] = 0
        for example, prompts in SERVED[kind](world):
            trained = prefixes(example)[-len(prompts) :]
            for text, prompt in zip(trained, prompts, strict=True):
                if text != prompt:
                    raise ModelError(_differs(kind, text, prompt))
                found[kind] += 1
            if codec is not None:
                _check_tokens(kind, example, prompts[0], tokenizer, codec)
    return found


def small_world(material: Material) -> World:
    """Users with short histories, evenly over the dataset, and their items."""
    lengths = material.split.train.lengths()
    enough = (lengths >= 2) & (material.dataset.interactions.lengths() >= _EVENTS)
    users = np.flatnonzero(enough & (lengths <= _LONGEST))
    if len(users) == 0:
        users = np.flatnonzero(enough if enough.any() else lengths >= 2)
    users = users[np.unique(np.linspace(0, len(users) - 1, num=min(_USERS, len(users)), dtype=np.int64))]
    events = material.dataset.interactions
    keep = np.zeros(len(events), dtype=np.bool_)
    for user in users:
        keep[events.offsets[user] : events.offsets[user + 1]] = True
    dataset = compact(material.dataset, events.select(keep))
    return World(dataset, leave_one_out(dataset.interactions), material.history_items)


def prefixes(example: Example) -> list[str]:
    """What stands before each learnt segment."""
    return ["".join(one.text for one in example[:place]) for place, segment in enumerate(example) if segment.learn]


def _check_tokens(
    kind: str, example: Example, prompt: str, tokenizer: PreTrainedTokenizerBase, codec: TokenCodec
) -> None:
    """Tokens before the first learnt one are those that the engine reads."""
    if prefixes(example)[0] != prompt:
        return
    encoded = encode(example, tokenizer)
    first = next(place for place, label in enumerate(encoded.labels) if label != IGNORED)
    trained, served = encoded.input_ids[:first], list(codec.prompt(prompt))
    if trained != served:
        raise ModelError(
            f"training prompts of kind {kind!r} have other tokens than served ones ({len(trained)} and {len(served)}); "
            "cut the example where the tokenizer cuts its text"
        )


def _differs(kind: str, trained: str, served: str) -> str:
    place = next((i for i, (a, b) in enumerate(zip(trained, served, strict=False)) if a != b), None)
    start = max(0, (min(len(trained), len(served)) if place is None else place) - 20)
    return (
        f"training examples of kind {kind!r} are not asked for in their own form: training has "
        f"{trained[start : start + 60]!r} where serving has {served[start : start + 60]!r} (character {start}); write "
        "both with one function"
    )


# --- the recommender


def _next_items(kind: str) -> Served:
    def served(world: World) -> Compared:
        listener = Listener()
        recommender = CalrecRecommender(listener, config=CalrecConfig(history_items=world.history_items, samples=1))
        recommender.index_catalogue(world.dataset.catalogue)
        train = world.split.train
        histories = [train.history(user) for user in range(train.n_users)]
        asked = [(history[:end], int(history[end])) for history in histories for end in range(1, len(history))]
        asyncio.run(_all(recommender, [history for history, _ in asked]))
        flat = flat_items(world.dataset.catalogue, range(len(world.dataset.catalogue)))
        whole = {
            prompt + flat[target]: prompt for prompt, (_, target) in zip(listener.prompts, asked, strict=True)
        }  # training text -> the prompt that serving asks with
        examples = BUILDERS[kind](world.material, rng(0, "checks", kind))[:_EXAMPLES]
        return [
            (one, [whole.get(plain_text(one)) or _nearest(prefixes(one)[-1], listener.prompts)]) for one in examples
        ]

    return served


async def _all(recommender: CalrecRecommender, histories: Sequence[Any]) -> None:
    for history in histories:
        await recommender.complete(history)


def _nearest(text: str, prompts: Sequence[str]) -> str:
    """The prompt that agrees with the text for longest."""

    def agreement(prompt: str) -> int:
        return next((i for i, (a, b) in enumerate(zip(text, prompt, strict=False)) if a != b), 1 << 30)

    return max(prompts, key=lambda prompt: (prompt != text, agreement(prompt)))


# --- the simulated user


def _decisions(world: World) -> Compared:
    index = taste_index(world.dataset, world.split)
    rows = _rows_by_text(index)
    known = [(index.persona(user, until=cut), _past(index, user, cut)) for user, cut in _cuts(index)]
    compared: Compared = []
    for document in decision_examples(world.dataset, world.split, rng(0, "checks", "decisions"), _EXAMPLES):
        example = tuple(Segment(text, learn) for text, learn in document)
        shown = [(rows[text], label) for text, label in shown_lines(plain_text(example))]
        if len({row for row, _ in shown}) < len(shown):
            continue  # nobody decides twice on one item
        first = prefixes(example)[0]
        offers = [decision_prompt(index.catalogue, *who, (), shown[0][0]) for who in known]
        if first not in offers:
            compared.append((example[:2], [_nearest(first, offers)]))
            continue
        persona, past = known[offers.index(first)]
        compared.append((example, asyncio.run(_decide(index, persona, past, shown))))
    return compared


async def _decide(
    index: TasteIndex, persona: Persona, past: Sequence[Seen], shown: Sequence[tuple[int, str]]
) -> list[str]:
    """The prompts of a user who walks this slate and decides so."""
    listener = Listener(labels=[label for _, label in shown])
    player = Player(listener, index, _STEADY, seed=0)
    state = UserState(persona, minds.start((), rng(0, "checks"), _STEADY), tuple(past))
    await look(player, state, tuple(row for row, _ in shown))
    return listener.prompts


def _instructions(world: World) -> Compared:
    index = taste_index(world.dataset, world.split)
    rows = _rows_by_text(index)
    compared: Compared = []
    for prompt, answer in instruction_examples(world.dataset, world.split, rng(0, "checks", "say"), _EXAMPLES):
        shown = [(rows[text], label) for text, label in shown_lines(prompt)]
        asked = [
            (instruction_prompt(index.catalogue, persona, target, shown), persona, target)
            for persona in (index.persona(user) for user in range(index.train.n_users))
            for n in range(3)
            for target in combinations(persona.likes, n)
        ]
        texts = [text for text, _, _ in asked]
        example = completion_example(prompt, answer)
        if prompt not in texts:
            compared.append((example, [_nearest(prompt, texts)]))
            continue
        _, persona, target = asked[texts.index(prompt)]
        compared.append((example, asyncio.run(_say(index, persona, target, shown))))
    return compared


async def _say(index: TasteIndex, persona: Persona, target: Any, shown: Sequence[tuple[int, str]]) -> list[str]:
    listener = Listener()
    player = Player(listener, index, _STEADY, seed=0)
    done = tuple(Interaction(0, place, row, label, "", 0.5, 0.5) for place, (row, label) in enumerate(shown))
    state = UserState(persona, minds.start(target, rng(0, "checks"), _STEADY), (), interactions=done)
    await reflect(player, Reaction(state))
    return listener.prompts[:1]


def _rows_by_text(index: TasteIndex) -> dict[str, int]:
    from llmrec.roles.item_text import item_text

    return {item_text(index.catalogue, row): row for row in range(len(index.catalogue))}


def _cuts(index: TasteIndex) -> list[tuple[int, int]]:
    lengths = index.train.lengths()
    return [(user, cut) for user in range(index.train.n_users) for cut in range(1, int(lengths[user]))]


def _past(index: TasteIndex, user: int, cut: int) -> list[Seen]:
    items, ratings = index.train.history(user), index.train.ratings(user)
    newest = range(max(cut - HISTORY_LENGTH, 0), cut)
    return [Seen(int(items[p]), None if ratings is None else index.stars(float(ratings[p]))) for p in newest]


SERVED: Mapping[str, Served] = {
    "next_items": _next_items("next_items"),
    "sequences": _next_items("sequences"),
    "histories": _next_items("histories"),
    "decisions": _decisions,
    "instructions": _instructions,
}
"""Kinds of examples whose serving path is compared."""
