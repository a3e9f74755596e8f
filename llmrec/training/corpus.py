"""What nano reads: examples of every role, generated from the dataset at hand.

Each builder turns (material, generator) into examples in the very form that inference uses: the functions that write
the prompts live with the roles, and are called from here. Only training events are read; held-out events never are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmrec.errors import ConfigError
from llmrec.prompting import as_data
from llmrec.retrieval.calrec import flat_items, history_prompt
from llmrec.roles.persona import persona_of, profile_prompt, profile_text
from llmrec.roles.phrases import training_texts
from llmrec.roles.user import decision_examples, instruction_examples
from llmrec.training.examples import Example, Segment, completion_example

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split


@dataclass(frozen=True)
class Material:
    """What the builders draw from."""

    dataset: Dataset
    split: Split
    history_items: int = 15
    """Longest history in a recommendation prompt, in items."""

    def training_users(self) -> np.ndarray:
        """Users with at least two training events."""
        return np.flatnonzero(self.split.train.lengths() >= 2)


Builder = Callable[[Material, np.random.Generator], list[Example]]


def facts(material: Material, rng: np.random.Generator) -> list[Example]:
    """One text per item: its flattened form, then every attribute."""
    catalogue = material.dataset.catalogue
    examples: list[Example] = []
    for row in rng.permutation(len(catalogue)):
        parts = [as_data(catalogue.flat(int(row)))]
        for name in catalogue.attribute_names:
            values = ", ".join(as_data(value) for value in catalogue.values(int(row), name))
            if values and name not in (*catalogue.flat_fields, "year"):
                parts.append(f"{name.replace('_', ' ').capitalize()}: {values}")
        examples.append((Segment(". ".join(parts), True),))
    return examples


def sequences(material: Material, rng: np.random.Generator) -> list[Example]:
    """Every user's training history cut at random into CALRec prompts with their targets.

    Windows follow each other with the target of one inside the history of the next, so that each event is a target at
    most once and each user contributes in proportion to the length of the history.
    """
    flat = flat_items(material.dataset.catalogue, range(len(material.dataset.catalogue)))
    longest = material.history_items
    examples = []
    for user in rng.permutation(material.training_users()):
        events = material.split.train.history(int(user))
        end = len(events) - 1 - int(rng.integers(0, min(longest, len(events) - 1)))
        targets = [len(events) - 1, *range(end, 0, -longest)] if end < len(events) - 1 else range(end, 0, -longest)
        for target in targets:
            window = [flat[int(row)] for row in events[max(0, target - longest) : target]]
            examples.append(completion_example(history_prompt(window), flat[int(events[target])]))
    return examples


def next_items(material: Material, rng: np.random.Generator) -> list[Example]:
    """One CALRec prompt per user with a random training event as the target (the recommender's fine-tuning data)."""
    catalogue = material.dataset.catalogue
    examples = []
    for user in rng.permutation(material.training_users()):
        events = material.split.train.history(int(user))
        target = int(rng.integers(1, len(events)))
        window = flat_items(catalogue, events[max(0, target - material.history_items) : target])
        examples.append(completion_example(history_prompt(window), as_data(catalogue.flat(int(events[target])))))
    return examples


def histories(material: Material, rng: np.random.Generator) -> list[Example]:
    """One CALRec prompt per user with its target in which the items of the history carry loss too, but for the first.

    As many targets as a window has items: for a backbone so slow that one target per prompt would waste it.
    """
    catalogue = material.dataset.catalogue
    examples = []
    for user in rng.permutation(material.training_users()):
        events = material.split.train.history(int(user))
        target = int(rng.integers(min(material.history_items, len(events) - 1), len(events)))
        window = flat_items(catalogue, events[max(0, target - material.history_items) : target])
        learnt = [*_learnt_inside(history_prompt(window), window)]
        examples.append((*learnt, Segment(as_data(catalogue.flat(int(events[target]))), True)))
    return examples


def _learnt_inside(prompt: str, items: Sequence[str]) -> Iterator[Segment]:
    """A prompt over these items in segments; all of them but the first are to be learnt.

    Learnt is what follows "Title:", which is the same for all: a tokenizer may have one token for the cue with it.
    """
    read, place = 0, prompt.index(items[0]) + len(items[0])
    for item in items[1:]:
        place = prompt.index(item, place) + len(item)
        start = place - len(item.partition(":")[2])
        yield Segment(prompt[read:start], False)
        yield Segment(prompt[start:place], True)
        read = place
    yield Segment(prompt[read:], False)


def decisions(material: Material, rng: np.random.Generator) -> list[Example]:
    """Viewers' documents in which only the decisions carry loss (the simulated user's fine-tuning data)."""
    return [
        tuple(Segment(text, learn) for text, learn in document)
        for document in decision_examples(material.dataset, material.split, rng, len(material.training_users()))
    ]


def instructions(material: Material, rng: np.random.Generator) -> list[Example]:
    """What a viewer asks to change about a slate."""
    return [completion_example(*pair) for pair in instruction_examples(material.dataset, material.split, rng, 1000)]


def profiles(material: Material, rng: np.random.Generator) -> list[Example]:
    """A user's history and the tastes it shows, in words."""
    examples = []
    for user in rng.permutation(material.training_users()):
        persona = persona_of(material.dataset, material.split, int(user))
        examples.append(
            completion_example(profile_prompt(material.dataset, material.split, int(user)), profile_text(persona))
        )
    return examples


def dialogues(material: Material, rng: np.random.Generator) -> list[Example]:
    """Messages of users, what they ask for, and the tool calls that serve them."""
    texts = training_texts(material.dataset.catalogue, rng, 300, noun=material.dataset.item_noun)
    return [completion_example(*pair) for pair in texts]


BUILDERS: Mapping[str, Builder] = {
    "facts": facts,
    "sequences": sequences,
    "next_items": next_items,
    "histories": histories,
    "decisions": decisions,
    "instructions": instructions,
    "profiles": profiles,
    "dialogues": dialogues,
}


def build(kind: str, material: Material, rng: np.random.Generator) -> list[Example]:
    """Examples of one kind.

    Raises:
        ConfigError: no such kind.
    """
    if kind not in BUILDERS:
        raise ConfigError(f"no training data of kind {kind!r}; kinds: {', '.join(BUILDERS)}")
    return BUILDERS[kind](material, rng)


def stream(kind: str, material: Material, rng: np.random.Generator) -> Iterator[Example]:
    """Examples of one kind without end; every pass is drawn anew."""
    while True:
        examples = build(kind, material, rng)
        if not examples:
            raise ConfigError(f"the dataset {material.dataset.name!r} gives no training data of kind {kind!r}")
        yield from examples
