"""What a backbone with id tokens learns: a mix of tasks that tie ids to histories, texts, titles and queries.

One model then serves recommendation (history -> id) and search (query -> id); the tasks between text and id align the
new tokens with what the backbone knows (LC-Rec, Zheng et al., ICDE 2024, arXiv 2311.09049; joint training of search and
recommendation: Penha et al., RecSys 2024, arXiv 2410.16823). Only training events are read, held-out events never are;
item texts are those of the whole catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llmrec.data.catalogue import UNKNOWN
from llmrec.errors import ConfigError, DataError
from llmrec.retrieval.semantic_prompts import history_prompt, item_prompt, search_prompt, shown_titles, title_prompt
from llmrec.seeding import rng as generator
from llmrec.training.examples import Encoded, Example, Segment, completion_example, encode, fits, supervised_tokens
from llmrec.training.semantic.queries import search_query
from llmrec.training.sft import SftData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.semid.codes import SemanticIds
    from llmrec.training.semantic.recipe import SemanticRecipe

_ID = re.compile(r"(?:<\|[a-z]_\d+\|>)+")  # the ids of one or several items; item text never holds such markup


@dataclass(frozen=True)
class IdMaterial:
    """What the builders draw from."""

    dataset: Dataset
    split: Split
    ids: SemanticIds
    history_items: int = 25
    """Longest history, in items."""

    @cached_property
    def id_texts(self) -> list[str]:
        """Id text of every item."""
        return [self.ids.text_of(row) for row in range(len(self.ids))]


Builder = Callable[[IdMaterial, np.random.Generator], list[Example]]


def histories(material: IdMaterial, rng: np.random.Generator) -> list[Example]:
    """One window of every user's training history as ids; each id is learnt from those before it."""
    examples = []
    for rows in _windows(material, rng):
        text = history_prompt([material.id_texts[row] for row in rows])
        examples.append(_learn_ids(text))
    return examples


def titled_histories(material: IdMaterial, rng: np.random.Generator) -> list[Example]:
    """As `histories`, with the title after each id; titles carry no loss."""
    examples = []
    for rows in _windows(material, rng):
        titles = shown_titles(material.dataset.catalogue, rows[:-1])
        text = history_prompt([material.id_texts[row] for row in rows[:-1]], titles) + material.id_texts[rows[-1]]
        examples.append(_learn_ids(text))
    return examples


def item_ids(material: IdMaterial, rng: np.random.Generator) -> list[Example]:
    """Every item's text and its id."""
    catalogue = material.dataset.catalogue
    return [
        completion_example(item_prompt(catalogue, int(row)), material.id_texts[int(row)])
        for row in rng.permutation(len(catalogue))
    ]


def item_titles(material: IdMaterial, rng: np.random.Generator) -> list[Example]:
    """Every item's id and its title; items without a title are left out."""
    catalogue = material.dataset.catalogue
    return [
        completion_example(title_prompt(material.id_texts[int(row)]), shown_titles(catalogue, [int(row)])[0])
        for row in rng.permutation(len(catalogue))
        if catalogue.title(int(row)) != UNKNOWN
    ]


def searches(material: IdMaterial, rng: np.random.Generator) -> list[Example]:
    """A query for every item of which something is known, and the item's id."""
    catalogue = material.dataset.catalogue
    examples = []
    for row in rng.permutation(len(catalogue)):
        query = search_query(catalogue, int(row), rng)
        if query:
            examples.append(completion_example(search_prompt(query.text), material.id_texts[int(row)]))
    return examples


BUILDERS: Mapping[str, Builder] = {
    "histories": histories,
    "titled_histories": titled_histories,
    "item_ids": item_ids,
    "item_titles": item_titles,
    "searches": searches,
}
_HISTORIES = ("histories", "titled_histories")
_ENDED = ("item_titles",)  # an id ends by its length, a title by the end token


def stream(kind: str, material: IdMaterial, rng: np.random.Generator) -> Iterator[Example]:
    """Examples of one kind without end; every pass is drawn anew.

    Raises:
        ConfigError: the dataset gives no example of it.
    """
    while True:
        examples = BUILDERS[kind](material, rng)
        if not examples:
            raise ConfigError(
                f"the dataset {material.dataset.name!r} gives no training data of kind {kind!r}; take it out of 'data'"
            )
        yield from examples


def build_data(material: IdMaterial, recipe: SemanticRecipe, tokenizer: PreTrainedTokenizerBase) -> SftData:
    """Examples of all tasks in the recipe's shares, and others in the same shares that the loss is watched on.

    Raises:
        DataError: every example is longer than max_tokens.
    """
    train: list[Encoded] = []
    n_longer = 0
    for kind, share in recipe.data.items():
        n = round(share * recipe.examples)
        source = stream(kind, material, generator(recipe.seed, "semantic", kind))
        encoded = (encode(next(source), tokenizer, end=kind in _ENDED) for _ in range(n))
        kept, longer = fits(encoded, max_tokens=recipe.max_tokens)
        train += kept
        n_longer += longer
    if not train or supervised_tokens(train) == 0:
        raise DataError(
            f"no training example fits into max_tokens={recipe.max_tokens}; raise it or lower history_items="
            f"{recipe.history_items}"
        )
    order = generator(recipe.seed, "semantic", "order").permutation(len(train))
    watched, n_unwatched = fits(
        (encode(one, tokenizer, end=kind in _ENDED) for kind, one in validation_examples(material, recipe)),
        max_tokens=recipe.max_tokens,
    )
    if n_unwatched and not watched:
        raise DataError(
            f"no example to watch the loss on fits into max_tokens={recipe.max_tokens}; raise it, lower history_items="
            f"{recipe.history_items}, or set validation_examples=0"
        )
    return SftData([train[int(index)] for index in order], watched, n_longer + n_unwatched)


def validation_examples(material: IdMaterial, recipe: SemanticRecipe) -> list[tuple[str, Example]]:
    """Every task in its share: histories with the validation target of a seeded sample of users, others drawn anew.

    A model kept for its loss on histories alone would be kept before it has learnt to search. Histories alone are held
    out: an item has one text and one title, which are learnt and watched alike, and so are many short queries. Of these
    tasks the loss says what is not learnt yet, not what is overfitted.

    Returns:
        Kind and example.
    """
    examples: list[tuple[str, Example]] = []
    for kind, share in recipe.data.items():
        draw = generator(recipe.seed, "semantic", "validation", kind)
        n = round(share * recipe.validation_examples)
        if kind in _HISTORIES:
            examples += [(kind, one) for one in _next_items(material, n, draw, titled=kind == "titled_histories")]
        else:
            source = stream(kind, material, draw)
            examples += [(kind, next(source)) for _ in range(n)]
    return examples


def _next_items(material: IdMaterial, n: int, draw: np.random.Generator, *, titled: bool) -> list[Example]:
    users, targets = material.split.targets("validation")
    examples = []
    for index in np.sort(draw.choice(len(users), size=min(n, len(users)), replace=False)):
        history = material.split.history(int(users[index]), "validation")[-material.history_items :]
        rows = [int(row) for row in history]
        titles = shown_titles(material.dataset.catalogue, rows) if titled else []
        prompt = history_prompt([material.id_texts[row] for row in rows], titles)
        examples.append(completion_example(prompt, material.id_texts[int(targets[index])]))
    return examples


def _windows(material: IdMaterial, rng: np.random.Generator) -> Iterator[list[int]]:
    """A random window of each user's training events, of at most `history_items` and one, at least one."""
    train = material.split.train
    width = material.history_items + 1
    for user in rng.permutation(np.flatnonzero(train.lengths() >= 1)):
        events = train.history(int(user))
        end = int(rng.integers(min(width, len(events)), len(events) + 1))
        yield [int(row) for row in events[max(0, end - width) : end]]


def _learn_ids(text: str) -> Example:
    """A text in segments, of which the ids carry loss."""
    segments, read = [], 0
    for match in _ID.finditer(text):
        segments += [Segment(text[read : match.start()], False), Segment(match.group(), True)]
        read = match.end()
    segments.append(Segment(text[read:], False))
    return tuple(segment for segment in segments if segment.text)
