"""The two floors that read no history: most popular, and random."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmrec.retrieval.base import FloatArray, IntArray, require_fitted
from llmrec.seeding import rng

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split


class PopularityRecommender:
    """Ranks by number of training events; ties by item row."""

    def __init__(self, *, name: str = "popular") -> None:
        self.name = name
        self._counts: IntArray | None = None

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Count training events."""
        self._counts = split.train.item_counts()

    @property
    def counts(self) -> IntArray:
        """Training events per item, shape (n_items,)."""
        return require_fitted(self._counts, self.name)

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """The same counts for everybody, shape (batch, n_items)."""
        return np.tile(self.counts.astype(np.float64), (len(histories), 1))


class RandomRecommender:
    """Ranks at random; the draw depends on the seed and the user (else the history) alone."""

    def __init__(self, *, name: str = "random") -> None:
        self.name = name
        self._n_items: int | None = None

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Remember the size of the catalogue."""
        self._n_items = len(dataset.catalogue)

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Uniform numbers, shape (batch, n_items)."""
        n_items = require_fitted(self._n_items, self.name)
        keys: list[int | str] = []
        keys.extend([_content_key(history) for history in histories] if users is None else [int(u) for u in users])
        scores = np.empty((len(histories), n_items))
        for row, key in enumerate(keys):
            scores[row] = rng(seed, "random-recommender", key).random(n_items)
        return scores


def _content_key(history: IntArray) -> str:
    return hashlib.sha256(np.ascontiguousarray(history, dtype="<i8").tobytes()).hexdigest()
