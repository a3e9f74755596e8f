"""What a simulated user reads: the text of its decisions, and the examples that teach a model to continue it.

Training documents and prompts at run time are one text form (`decision_document`, `decision_prompt`): a prompt is the
document up to the arrow of the item to decide on, byte for byte, and the decisions on one slate share their prefix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split
from llmrec.errors import DataError
from llmrec.prompting import render
from llmrec.roles.instruction import answer, candidates, instruction_prompt, read_slate
from llmrec.roles.instruction_rules import fitting, phrase
from llmrec.roles.item_text import item_text, past_text
from llmrec.roles.opinion import SKIP, YES
from llmrec.roles.persona import Persona, Taste, TasteIndex, taste_index, words

Segments = list[tuple[str, bool]]
"""Pieces of a training text in order; True where a model learns to write the piece."""

HISTORY_LENGTH = 10
"""Newest items of the past that a prompt shows."""
SHOWN_LENGTH = 6
"""Newest decisions of the session that a prompt shows."""
CUES = (
    *("Viewer:", "Customer:", "Person:", "Likes:", "Wants:", "\nWatched:", "\nBought:", "\nChosen:", "\nShown:", " ->"),
    *("\nChange:", ' {"class": "', '", "attribute": "', '", "value": "', '", "say": "'),
)
"""Fixed pieces of the text form; a tokenizer may give each a token of its own."""
_LABEL = re.compile(r"(?<= ->) (?:skip|yes|[1-5])$", re.MULTILINE)


class Seen(NamedTuple):
    """An item of the past."""

    item: int
    stars: int | None = None


def decision_document(
    catalogue: Catalogue, persona: Persona, history: Sequence[Seen], shown: Sequence[tuple[int, str]]
) -> str:
    """Decisions on the shown items as one text.

    Args:
        history: taken before, oldest first; the newest `HISTORY_LENGTH` are written.
        shown: (catalogue row, label) in order; the newest `SHOWN_LENGTH` are written.
    """
    return _render(catalogue, persona, history, shown[-SHOWN_LENGTH:], None)


def decision_prompt(
    catalogue: Catalogue, persona: Persona, history: Sequence[Seen], shown: Sequence[tuple[int, str]], item: int
) -> str:
    """The document up to the arrow after `item`; the label is to be written by the model."""
    return _render(catalogue, persona, history, shown[-(SHOWN_LENGTH - 1) :], item)


def _render(
    catalogue: Catalogue, persona: Persona, history: Sequence[Seen], shown: Sequence[tuple[int, str]], item: int | None
) -> str:
    wording = words(persona.noun)
    return render(
        "user/decision",
        person=wording.person,
        consumed=wording.consumed,
        profile=persona.profile_text,
        likes=persona.likes_text,
        history=[past_text(catalogue, *seen) for seen in history[-HISTORY_LENGTH:]],
        shown=[(item_text(catalogue, row), label) for row, label in shown],
        next="" if item is None else item_text(catalogue, item),
    )


def decision_examples(dataset: Dataset, split: Split, rng: np.random.Generator, n_documents: int) -> list[Segments]:
    """Decision documents, balanced one taken to one not taken; only the decisions are to be learnt.

    A document cuts a user's training history at a random place: what came before makes persona and past, the events
    after the cut are taken (with their stars), and as many items that the user has nowhere in the training part, drawn
    uniformly, are skipped. Held-out events are never read, so a held-out item may be drawn as skipped. [D]

    Args:
        rng: draws users (by number of training events), cuts, negatives and order.

    Raises:
        DataError: no user has two training events.
    """
    index = taste_index(dataset, split)
    train = index.train
    lengths = np.where(train.lengths() >= 2, train.lengths(), 0).astype(np.float64)
    if not lengths.any():
        raise DataError("decision examples need users with at least two training events, got none")
    users = rng.choice(train.n_users, size=n_documents, p=lengths / lengths.sum())
    return [segments(_document(index, int(user), rng)) for user in users]


def _document(index: TasteIndex, user: int, rng: np.random.Generator) -> str:
    train = index.train
    items, ratings = train.history(user), train.ratings(user)
    cut = int(rng.integers(1, len(items)))
    taken = range(cut, min(cut + SHOWN_LENGTH // 2, len(items)))
    past_places = range(max(cut - HISTORY_LENGTH, 0), cut)
    stars = {p: None if ratings is None else index.stars(float(ratings[p])) for p in (*past_places, *taken)}
    rated = [p for p in taken if ratings is None or stars[p] is not None]  # an event without stars has no label
    shown = [(int(items[p]), YES if stars[p] is None else str(stars[p])) for p in rated]
    shown += [(item, SKIP) for item in draw_unseen(items, len(index.catalogue), len(shown), rng)]
    past = [Seen(int(items[p]), stars[p]) for p in past_places]
    order = rng.permutation(len(shown))
    return decision_document(index.catalogue, index.persona(user, until=cut), past, [shown[int(i)] for i in order])


def segments(document: str) -> Segments:
    """A document cut at its labels, each with the space before it; joined, the pieces are the document."""
    pieces: Segments = []
    end = 0
    for match in _LABEL.finditer(document):
        pieces += [(document[end : match.start()], False), (match.group(), True)]
        end = match.end()
    return pieces


def instruction_examples(
    dataset: Dataset, split: Split, rng: np.random.Generator, n: int, *, slate_size: int = 5
) -> list[tuple[str, str]]:
    """Slates of invented sessions, and what the user asks to change: prompts with their completions.

    Personas are those of training users; slates are drawn from the catalogue, some of them from a single topic or from
    the user's tastes, and the decisions on them follow the tastes. What to ask for follows from the prompt. [D]
    """
    index = taste_index(dataset, split)
    users = np.flatnonzero(index.train.lengths() > 0)
    return [_asked(index, int(rng.choice(users)), rng, slate_size) for _ in range(n)]


def _asked(index: TasteIndex, user: int, rng: np.random.Generator, slate_size: int) -> tuple[str, str]:
    persona = index.persona(user)
    target = index.draw_target(persona.likes, rng)
    shown = [(row, _invented_label(index, persona, row, rng)) for row in _drawn_slate(index, persona, rng, slate_size)]
    slate = read_slate(index, shown)
    choices = candidates(index, persona, target, slate)
    weights = fitting(index.catalogue, persona, target, slate, choices)
    shares = np.array(list(weights.values())) / sum(weights.values())
    chosen = list(weights)[int(rng.choice(len(weights), p=shares))]
    return instruction_prompt(index.catalogue, persona, target, shown), answer(chosen, phrase(chosen, rng))


def _drawn_slate(index: TasteIndex, persona: Persona, rng: np.random.Generator, size: int) -> list[int]:
    """Any items, items of one topic, or items of one taste, a third of the time each."""
    n_items = len(index.catalogue)
    size = min(size, n_items)
    pool = rng.choice(n_items, size=min(n_items, 40 * size), replace=False)
    tastes = [taste for taste in persona.likes if taste.attribute in index.primary]
    kind = int(rng.integers(3))
    topic = Taste("", "")
    if kind == 1 and index.topic_share:
        topic = Taste(
            index.topic_attribute, list(index.topic_share)[int(rng.integers(min(len(index.topic_share), 20)))]
        )
    elif kind == 2 and tastes:
        topic = tastes[int(rng.integers(len(tastes)))]
    having = [int(row) for row in pool if topic.value and index.has(int(row), topic)]
    return [*having, *(int(row) for row in pool if int(row) not in having)][:size]


def _invented_label(index: TasteIndex, persona: Persona, row: int, rng: np.random.Generator) -> str:
    match_ = any(index.has(row, taste) for taste in persona.likes)
    if rng.random() >= (0.6 if match_ else 0.15):
        return SKIP
    return str(int(rng.integers(3, 6))) if persona.has_ratings else YES


def draw_unseen(items: npt.NDArray[np.int64], n_items: int, n: int, rng: np.random.Generator) -> list[int]:
    """`n` different rows drawn uniformly from those not among `items`; fewer when there are not so many."""
    seen = set(items.tolist())
    n = min(n, n_items - len(seen))
    drawn: list[int] = []
    while len(drawn) < n:
        item = int(rng.integers(n_items))
        if item not in seen:
            seen.add(item)
            drawn.append(item)
    return drawn
