"""Windowed, order-aware item-kNN: which items follow which, within a few positions.

Two items co-occur when a user has both within `window` positions; the pair counts ``1 / distance``, and less when read
backwards. Counts are cosine-normalised, ``S[a, b] = C[a, b] / sqrt(count[a] * count[b])``. A history is scored by its
last items, the j-th from the end with weight ``1 / j``. Fitted with sparse matrices in seconds; the floor that
sequential models have to beat.

Related: Sarwar et al., Item-based collaborative filtering (WWW 2001); Ludewig & Jannach, Evaluation of session-based
recommendation algorithms (UMUAI 2018), where windows, decay and recency weights are surveyed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt

from llmrec.retrieval.base import FloatArray, IntArray, checked_histories, popularity_backoff, require_fitted

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.interactions import Interactions
    from llmrec.data.splits import Split


class ItemKnnConfig(BaseModel):
    """Settings of item-kNN."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: PositiveInt = 10
    """Largest distance in positions at which two items of a history co-occur."""
    backward: NonNegativeFloat = 0.3
    """Weight of "a before b" as evidence for a after b; 0 is strictly directed, 1 ignores order."""
    history_items: PositiveInt = 10
    """Newest items of a history that are asked for neighbours."""
    source_discount: float = Field(default=0.5, ge=0, le=1)
    """Exponent of the count of the history item in the normalisation; 0.5 and 0.5 is the cosine."""
    target_discount: float = Field(default=0.5, ge=0, le=1)
    """Exponent of the count of the recommended item; lower favours popular items."""


class ItemKnnRecommender:
    """Scores items by their co-occurrence with the newest items of the history."""

    def __init__(self, *, config: ItemKnnConfig | None = None, name: str = "knn") -> None:
        self.name = name
        self.config = config or ItemKnnConfig()
        self._similarity: Any = None  # scipy CSR (n_items, n_items), row = item already consumed
        self._backoff: FloatArray | None = None

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Count co-occurrences in the training histories."""
        counts = split.train.item_counts()
        following = count_following(split.train, self.config.window)
        both = following + self.config.backward * following.T
        self._similarity = _normalise(both, counts, self.config.source_discount, self.config.target_discount)
        self._backoff = popularity_backoff(counts)

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Weighted similarities, shape (batch, n_items); popularity orders the items that no neighbour reaches."""
        import scipy.sparse

        similarity = require_fitted(self._similarity, self.name)
        n_items, newest = similarity.shape[0], self.config.history_items
        recent = [rows[::-1] for rows in checked_histories(histories, n_items=n_items, max_length=newest)]
        lengths = [len(items) for items in recent]
        columns = np.concatenate([np.empty(0, dtype=np.int64), *recent])
        weights = np.concatenate([np.empty(0), *(1.0 / np.arange(1, n + 1) for n in lengths)])
        rows = np.repeat(np.arange(len(recent)), lengths)
        query = scipy.sparse.csr_array((weights, (rows, columns)), shape=(len(recent), similarity.shape[0]))
        scores: FloatArray = (query @ similarity).toarray()
        return scores + require_fitted(self._backoff, self.name)

    def similar(self, row: int, n: int = 10) -> list[tuple[int, float]]:
        """Nearest items of one item with their similarity, best first, ties by item row; at most `n`."""
        similarity = require_fitted(self._similarity, self.name)
        start, end = similarity.indptr[row], similarity.indptr[row + 1]
        columns, values = similarity.indices[start:end], similarity.data[start:end]
        order = [i for i in np.lexsort((columns, -values)) if int(columns[i]) != row]
        return [(int(columns[i]), float(values[i])) for i in order[:n]]


def count_following(interactions: Interactions, window: int) -> Any:
    """How often b comes after a, each pair weighted by ``1 / distance``.

    Returns:
        scipy CSR array of shape (n_items, n_items); row a, column b.
    """
    import scipy.sparse

    n = interactions.n_items
    items, users = interactions.items, interactions.user_index()
    total = scipy.sparse.csr_array((n, n), dtype=np.float64)
    for distance in range(1, window + 1):
        same_user = users[distance:] == users[:-distance]
        first, second = items[:-distance][same_user], items[distance:][same_user]
        pairs = scipy.sparse.coo_array((np.full(len(first), 1.0 / distance), (first, second)), shape=(n, n))
        total = total + pairs.tocsr()
    return total


def _normalise(matrix: Any, counts: IntArray, source: float, target: float) -> Any:
    import scipy.sparse

    safe = np.maximum(counts, 1).astype(np.float64)
    scaled = scipy.sparse.diags_array(safe**-source) @ matrix @ scipy.sparse.diags_array(safe**-target)
    result = scaled.tocsr()
    result.sort_indices()  # one summation order, whatever scipy did before
    return result
