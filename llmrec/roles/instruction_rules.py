"""Which instruction fits a slate: the teacher of `llmrec.roles.user.instruction_examples`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmrec.data.catalogue import Catalogue
from llmrec.roles.instruction import Candidate, Slate
from llmrec.roles.instruction_words import PHRASES
from llmrec.roles.persona import Persona, Taste

_OLD, _RECENT, _LONG = 1990, 2000, 130  # when a slate counts as old, as recent, as long (year, year, minutes) [D]


def phrase(candidate: Candidate, rng: np.random.Generator) -> str:
    """One way to ask for the candidate."""
    options = PHRASES[candidate.kind]
    text = options[int(rng.integers(len(options)))].format(value=candidate.value)
    end = "?" if text.startswith(("Can", "Could", "Do", "How")) else "."
    return text + ("", end)[int(rng.integers(2))]


def fitting(
    catalogue: Catalogue, persona: Persona, target: Sequence[Taste], slate: Slate, choices: Sequence[Candidate]
) -> dict[Candidate, float]:
    """The candidates that the visible facts call for, with weights; the vague one when nothing else does. [D]

    A topic that comes back among skipped items and is no taste: less of it. A taste that the slate lacks: more of it. A
    slate full of one taste: a shift or something different. A slate of old, recent or long items, or without a tone:
    the comparison that changes it.
    """
    weights = {choice: _weight(catalogue, persona, target, slate, choice) for choice in choices}
    found = {choice: weight for choice, weight in weights.items() if weight > 0}
    return found or {choices[-1]: 1.0}


def _weight(catalogue: Catalogue, persona: Persona, target: Sequence[Taste], slate: Slate, choice: Candidate) -> float:
    likes = {taste.value for taste in persona.likes}
    main = slate.topics.most_common(1)[0] if slate.topics else ("", 0)
    match choice.kind:
        case "less_of":
            return 4.0 if choice.value not in likes else 0.0
        case "more_of":
            absent = choice.attribute == slate.attribute and slate.topics[choice.value] == 0
            wanted = Taste(choice.attribute, choice.value) in target
            return 3.0 if wanted else 1.5 if absent else 0.0
        case "shift":
            return 2.0 if main[0] in likes else 0.0
        case "different":
            return 1.0 if main[1] == len(slate.shown) else 0.0
        case "attribute":
            return 1.0 if _calls_for(catalogue, slate, choice) else 0.0
        case "tone":
            return 0.5 if not any(slate.topics[topic] for topic in choice.predicate.values) else 0.0
        case "vague":
            return 0.0


def _calls_for(catalogue: Catalogue, slate: Slate, choice: Candidate) -> bool:
    """Whether the whole slate lies on the wrong side of the comparison."""
    values = [float(value) for row, _ in slate.shown for value in catalogue.values(row, choice.attribute)]
    if not values:
        return False
    match choice.value:
        case "newer":
            return max(values) < _OLD
        case "older":
            return min(values) > _RECENT
        case "shorter":
            return min(values) > _LONG
        case _:
            return False
