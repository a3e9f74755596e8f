"""What real users did, as examples for a simulated one: when they left, and what they said to recommendations.

Decisions on shown items (`llmrec.roles.user.decision_examples`) and invented requests for change are kinds of
`llmrec.training.corpus`. Two further kinds come from logs that not every dataset has: `leaves` from time stamps,
`talks` from the ReDial conversations (Li et al., NeurIPS 2018; the seeker's own labels: suggested, seen, liked).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmrec.errors import DataError
from llmrec.roles.opinion import YES
from llmrec.roles.persona import TasteIndex, taste_index
from llmrec.roles.user import HISTORY_LENGTH, SHOWN_LENGTH, Seen
from llmrec.roles.user_talk import (
    LEAVE,
    STAY,
    after_answer_prompt,
    answer_prompt,
    leave_prompt,
    said_text,
    talk_prompt,
)
from llmrec.seeding import rng
from llmrec.training.corpus import Material, stream
from llmrec.training.examples import Encoded, Example, Segment, completion_example, encode, fits, supervised_tokens
from llmrec.training.sft import VALIDATION_SHARE, user_parts
from llmrec.training.user.redial_logs import Talk, read_talks, seekers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.training.user.recipe import UserRecipe


class UserData(NamedTuple):
    """Encoded examples."""

    train: list[Encoded]
    validation: dict[str, list[Encoded]]
    """Of other users, by kind."""
    n_longer: int
    """Examples left out because they exceed max_tokens."""


def build_user_data(dataset: Dataset, split: Split, recipe: UserRecipe, tokenizer: PreTrainedTokenizerBase) -> UserData:
    """Examples for training and validation, from different users.

    Raises:
        DataError: the data give no example of a kind, or every example is longer than max_tokens.
    """
    watched, others = user_parts(split, recipe)
    talks = _talk_parts(recipe)
    train: list[Encoded] = []
    validation: dict[str, list[Encoded]] = {}
    n_longer = 0
    for place, (wanted, part) in enumerate(((recipe.validation_examples, watched), (recipe.examples, others))):
        material = Material(dataset, part, recipe.history_items)
        for kind, share in recipe.data.items():
            if (n := round(share * wanted)) == 0:
                continue
            draws = rng(recipe.seed, "sft", recipe.role, kind, wanted)
            source = _source(kind, material, recipe, talks[place], draws)
            kept, longer = fits((encode(next(source), tokenizer) for _ in range(n)), max_tokens=recipe.max_tokens)
            n_longer += longer
            if place == 0:
                validation[kind] = kept
            else:
                train += kept
    if not train or supervised_tokens(train) == 0:
        raise DataError(
            f"no training example fits into max_tokens={recipe.max_tokens}; raise it or shorten history_items"
        )
    order = rng(recipe.seed, "sft", "order").permutation(len(train))
    return UserData([train[int(index)] for index in order], validation, n_longer)


def _source(
    kind: str, material: Material, recipe: UserRecipe, talks: list[Talk], draws: np.random.Generator
) -> Iterator[Example]:
    if kind == "leaves":
        return _endless(kind, lambda: leave_examples(material, draws, gap_s=recipe.session_gap_s))
    if kind == "talks":
        return _endless(kind, lambda: talk_examples(talks, draws))
    return stream(kind, material, draws)


def _endless(kind: str, build: Callable[[], list[Example]]) -> Iterator[Example]:
    while True:
        if not (examples := build()):
            raise DataError(f"the data give no example of kind {kind!r}; take it out of 'data'")
        yield from examples


# --- when users leave


def leave_examples(material: Material, draws: np.random.Generator, *, gap_s: float) -> list[Example]:
    """Of every user one moment inside a visit and one at its end, where there are such.

    A visit is a row of events with less than `gap_s` between neighbours. The last training event is left out: what
    followed it is held out. [D]

    Args:
        material: with real time stamps.
        draws: picks the moments, and the order of users.
        gap_s: seconds.

    Raises:
        DataError: only the order of events is known, or hardly any visit has two events.
    """
    train = material.split.train
    if train.time_is_order_only:
        raise DataError(
            "examples of kind 'leaves' need time stamps; this dataset knows only the order of events: take the kind "
            "out of 'data'"
        )
    index = taste_index(material.dataset, material.split)
    examples = []
    for user in draws.permutation(material.training_users()):
        last = visit_ends(train.event_times[train.offsets[user] : train.offsets[user + 1]], gap_s=gap_s)[:-1]
        for label, places in ((STAY, np.flatnonzero(~last)), (LEAVE, np.flatnonzero(last))):
            if len(places):
                examples.append(_leave_example(index, int(user), int(draws.choice(places)), last, label))
    if sum(plain.endswith(STAY) for plain in (one[-1].text for one in examples)) < 0.05 * len(examples):
        raise DataError(
            f"with session_gap_s={gap_s:g} hardly any visit has two events; raise it, or take 'leaves' out of 'data'"
        )
    return examples


def visit_ends(times: np.ndarray[Any, Any], *, gap_s: float) -> np.ndarray[Any, Any]:
    """True where an event is the last of a visit, shape (n,); so is the last one."""
    ends = np.ones(len(times), dtype=np.bool_)
    ends[:-1] = np.diff(times) >= gap_s
    return ends


def _leave_example(index: TasteIndex, user: int, place: int, last: np.ndarray[Any, Any], label: str) -> Example:
    before = np.flatnonzero(last[:place])
    start = int(before[-1]) + 1 if len(before) else 0
    items, ratings = index.train.history(user), index.train.ratings(user)
    stars = [None] * len(items) if ratings is None else [index.stars(float(rating)) for rating in ratings]
    past = [Seen(int(items[p]), stars[p]) for p in range(max(start - HISTORY_LENGTH, 0), start)]
    taken = range(max(start, place + 1 - SHOWN_LENGTH), place + 1)
    shown = [(int(items[p]), YES if stars[p] is None else str(stars[p])) for p in taken]
    prompt = leave_prompt(index.catalogue, index.persona(user, until=start), past, shown)
    return completion_example(prompt, f" {label}")


# --- what users say


def _talk_parts(recipe: UserRecipe) -> tuple[list[Talk], list[Talk]]:
    """Conversations of validation seekers, and those of all others."""
    if recipe.talks is None:
        return [], []
    talks = read_talks(Path(recipe.talks))
    people = seekers(talks)
    n_watched = max(1, round(VALIDATION_SHARE * len(people))) if recipe.validation_examples else 0
    order = rng(recipe.seed, "sft", "validation seekers").permutation(len(people))
    watched = {people[int(place)] for place in order[:n_watched]}
    return [one for one in talks if one.seeker in watched], [one for one in talks if one.seeker not in watched]


def talk_examples(talks: list[Talk], draws: np.random.Generator) -> list[Example]:
    """Every turn with an offer once: the seeker's labels, words, and whether the seeker then left."""
    return [talk_example(talks[int(place)]) for place in draws.permutation(len(talks))]


def talk_example(talk: Talk) -> Example:
    """One turn as a text in which only what the seeker decides and writes is learnt.

    The pieces are cut where the prompts of `llmrec.roles.user_talk` end, so joined they are what serving asks with.
    """
    prompts, answers = [], []
    for place, (title, label) in enumerate(talk.offers):
        prompts.append(talk_prompt("movie", talk.said, talk.offers[:place], title))
        answers.append(f" {label}")
    if said_text(talk.reply):
        prompts.append(answer_prompt("movie", talk.said, talk.offers))
        answers.append(f" {said_text(talk.reply)}")
        prompts.append(after_answer_prompt("movie", talk.said, talk.offers, talk.reply))
        answers.append(f" {LEAVE if talk.last else STAY}")
    segments: list[Segment] = []
    written = ""
    for prompt, answer in zip(prompts, answers, strict=True):
        segments += [Segment(prompt.removeprefix(written), False), Segment(answer, True)]
        written = prompt + answer
    return tuple(segments)
