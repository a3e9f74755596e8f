"""Who a simulated user is: public facts, and private tastes in words.

Tastes are read off the user's *training* events only. Whoever builds a `TasteIndex` hands it the training part, so a
held-out item cannot reach a persona.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.interactions import Interactions
from llmrec.data.splits import Split
from llmrec.prompting import as_data, render
from llmrec.roles.item_text import past_text

MAX_STARS = 5
LIKED_STARS = 4
"""A rating from here on is a like."""
DISLIKED_STARS = 2
"""A rating up to here is a dislike."""
PROFILE_HISTORY = 12
"""Newest events that a profile is asked about."""
_PRIVATE_KEYS = re.compile(r"zip|postal|(^|_)id$|name|mail|phone|address", re.IGNORECASE)
_PRIMARY_LIKES, _FURTHER_LIKES = 3, 1
_MIN_SUPPORT = 2  # events that must carry a value before it counts as a taste
_SMOOTHING = 5.0  # pseudo-events at the average user's share


class Taste(NamedTuple):
    """One attribute value that a user takes more often than others do."""

    attribute: str
    value: str


class Words(NamedTuple):
    """How a person and the past are called in prompts."""

    person: str
    consumed: str


_WORDS = {
    "film": Words("Viewer", "Watched"),
    "movie": Words("Viewer", "Watched"),
    "product": Words("Customer", "Bought"),
}
_NEUTRAL = Words("Person", "Chosen")
ALL_WORDS = (Words("Viewer", "Watched"), Words("Customer", "Bought"), _NEUTRAL)


def words(noun: str) -> Words:
    """Wording for what an item is called (`Dataset.item_noun`)."""
    return _WORDS.get(noun, _NEUTRAL)


@dataclass(frozen=True)
class Persona:
    """A simulated user without any state."""

    user: int
    """User index in the interactions; -1 for an invented one."""
    profile: Mapping[str, str | int] = field(default_factory=dict)
    """Public facts; the recommender may see them."""
    likes: tuple[Taste, ...] = ()
    """Private: strongest tastes first."""
    noun: str = "item"
    has_ratings: bool = False
    """Decisions carry stars; else they are yes or skip."""

    @property
    def profile_text(self) -> str:
        """Public facts for a prompt: ``25-34, engineer``."""
        return ", ".join(as_data(value, max_characters=30) for value in self.profile.values())

    @property
    def likes_text(self) -> str:
        """Tastes for a prompt: ``Sci-Fi, Horror``."""
        return ", ".join(as_data(taste.value, max_characters=30) for taste in self.likes)


def public_profile(attributes: Mapping[str, Any], *, limit: int = 3) -> dict[str, str | int]:
    """The few short attributes of a user that may be shown; nothing that identifies a person or a place."""
    shown = {
        name: value
        for name, value in attributes.items()
        if isinstance(value, str | int) and not _PRIVATE_KEYS.search(name) and 0 < len(str(value)) <= 30
    }
    return dict(list(shown.items())[:limit])


def stars(rating: float, top: float = MAX_STARS) -> int:
    """A rating on a scale that ends at `top` as 1 to 5 stars (halves round up)."""
    return int(min(max(math.floor(rating * MAX_STARS / top + 0.5), 1), MAX_STARS))


def rating_top(train: Interactions) -> float:
    """Upper end of the rating scale: 5, unless ratings go beyond it."""
    ratings = train.event_ratings
    return float(MAX_STARS) if ratings is None or not len(ratings) else max(float(MAX_STARS), float(ratings.max()))


def topic_attributes(catalogue: Catalogue) -> tuple[str, ...]:
    """Attributes that say what an item is about: those of its flattened text, else its first category attribute."""
    categories = [name for name in catalogue.attribute_names if catalogue.kind(name) in ("category", "categories")]
    flat = tuple(name for name in catalogue.flat_fields if name in categories)
    return flat or tuple(categories[:1])


class _Postings:
    """Values of one attribute as numbers: values of item i are ``ids[offsets[i]:offsets[i + 1]]``."""

    def __init__(self, catalogue: Catalogue, attribute: str) -> None:
        self.attribute = attribute
        self.values = list(catalogue.vocabulary(attribute))
        number = {value: place for place, value in enumerate(self.values)}
        rows = [catalogue.values(row, attribute) for row in range(len(catalogue))]
        self.ids = np.array([number[str(value)] for row in rows for value in row], dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)

    def counts(self, items: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """How many of the items carry each value, shape (n_values,)."""
        starts, lengths = self.offsets[items], self.offsets[items + 1] - self.offsets[items]
        total = int(lengths.sum())
        places = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(total)
        return np.bincount(self.ids[places], minlength=len(self.values)).astype(np.float64)

    def names(self, item: int) -> list[str]:
        return [self.values[number] for number in self.ids[self.offsets[item] : self.offsets[item + 1]]]


class TasteIndex:
    """What users take beyond what everybody takes, and what items are about. Built once per run.

    Args:
        catalogue: the items.
        train: training events and public attributes of users. Nothing else is read.
        noun: what an item is called.
    """

    def __init__(self, catalogue: Catalogue, train: Interactions, noun: str) -> None:
        self.catalogue, self.train, self.noun = catalogue, train, noun
        self.primary = topic_attributes(catalogue)
        self.topic_attribute = self.primary[0] if self.primary else ""
        further = [name for name in catalogue.attribute_names if name not in self.primary and _repeats(catalogue, name)]
        self._postings = {name: _Postings(catalogue, name) for name in (*self.primary, *further)}
        counts = np.maximum(train.item_counts(), 0).astype(np.float64)
        everyone = max(float(counts.sum()), 1.0)
        self._shares = {
            name: np.bincount(p.ids, weights=np.repeat(counts, np.diff(p.offsets)), minlength=len(p.values)) / everyone
            for name, p in self._postings.items()
        }
        self._top = rating_top(train)
        self.topic_share: dict[str, float] = {
            value: n / max(len(catalogue), 1)
            for name in self.primary[:1]
            for value, n in catalogue.vocabulary(name).items()
        }
        """Share of the catalogue that has each topic."""

    def topics(self, item: int) -> tuple[str, ...]:
        """What an item is about."""
        return tuple(self._postings[self.topic_attribute].names(item)) if self.topic_attribute else ()

    def has(self, item: int, taste: Taste) -> bool:
        """Whether the item carries the value."""
        return taste.attribute in self._postings and taste.value in self._postings[taste.attribute].names(item)

    def stars(self, rating: float | None) -> int | None:
        """Stars of a rating of this dataset; None when there is no (finite) rating."""
        return None if rating is None or not math.isfinite(rating) else stars(float(rating), self._top)

    def likes(self, items: npt.NDArray[np.int64], ratings: npt.NDArray[Any] | None = None) -> tuple[Taste, ...]:
        """Tastes behind these events: three values of topic attributes and one of any other.

        A value scores its share among the liked events times the logarithm of its (smoothed) lift over everybody's
        share, that is, its part of the Kullback-Leibler divergence. [D]
        """
        liked = items if ratings is None else items[ratings >= LIKED_STARS * self._top / MAX_STARS]
        if len(liked) < _MIN_SUPPORT:
            liked = items
        further = [name for name in self._postings if name not in self.primary]
        return (*self._best(self.primary, liked, _PRIMARY_LIKES), *self._best(further, liked, _FURTHER_LIKES))

    def _best(self, attributes: Iterable[str], items: npt.NDArray[np.int64], n: int) -> list[Taste]:
        scored = sorted(pair for attribute in attributes for pair in self._scored(attribute, items))
        return [taste for _, taste in scored[:n]]

    def _scored(self, attribute: str, items: npt.NDArray[np.int64]) -> list[tuple[float, Taste]]:
        """(negative score, taste) of values that the user takes more often than everybody."""
        if not len(items):
            return []
        postings, everybody = self._postings[attribute], self._shares[attribute]
        counts = postings.counts(items)
        lift = (counts + _SMOOTHING * everybody) / ((len(items) + _SMOOTHING) * np.maximum(everybody, 1e-9))
        scores = counts / len(items) * np.log(np.maximum(lift, 1e-9))
        good = np.flatnonzero((counts >= _MIN_SUPPORT) & (scores > 0))
        return [(-float(scores[place]), Taste(attribute, postings.values[place])) for place in good]

    def persona(self, user: int, *, until: int | None = None) -> Persona:
        """The persona of a user, from the first `until` training events (None: all of them)."""
        ratings = self.train.ratings(user)
        return Persona(
            user=user,
            profile=public_profile(self.train.user_attributes(user)),
            likes=self.likes(self.train.history(user)[:until], None if ratings is None else ratings[:until]),
            noun=self.noun,
            has_ratings=self.train.event_ratings is not None,
        )

    def draw_target(self, likes: Sequence[Taste], draws: np.random.Generator) -> tuple[Taste, ...]:
        """What the user is after today: one or two of the user's own tastes."""
        if not likes:
            return ()
        n = min(int(draws.integers(1, 3)), len(likes))
        return tuple(likes[int(place)] for place in sorted(draws.choice(len(likes), size=n, replace=False)))


@lru_cache(maxsize=2)
def _shared_index(catalogue: Catalogue, train: Interactions, noun: str) -> TasteIndex:
    return TasteIndex(catalogue, train, noun)


def taste_index(dataset: Dataset, split: Split) -> TasteIndex:
    """The index over the training part of a split; equal arguments share one."""
    return _shared_index(dataset.catalogue, split.train, dataset.item_noun)


def persona_of(dataset: Dataset, split: Split, user: int) -> Persona:
    """The persona of a user, from training events only."""
    return taste_index(dataset, split).persona(user)


def profile_prompt(dataset: Dataset, split: Split, user: int) -> str:
    """The newest training events of a user, and the question what they have in common."""
    past = split.train.history(user)[-PROFILE_HISTORY:]
    return render(
        "user/profile",
        consumed=words(dataset.item_noun).consumed,
        history=[past_text(dataset.catalogue, int(item)) for item in past],
    )


def profile_text(persona: Persona) -> str:
    """The answer to `profile_prompt`: the persona's tastes."""
    return f" {persona.likes_text or 'a bit of everything'}"


def _repeats(catalogue: Catalogue, name: str) -> bool:
    """A category attribute whose values come back often enough to be a taste."""
    if catalogue.kind(name) not in ("category", "categories"):
        return False
    vocabulary = catalogue.vocabulary(name)
    return bool(vocabulary) and max(vocabulary.values()) >= 3
