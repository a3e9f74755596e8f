"""How alike items are: by their vectors, or by the attribute values that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llmrec.errors import DataError
from llmrec.retrieval.base import FloatArray, IntArray

if TYPE_CHECKING:
    import numpy.typing as npt

    from llmrec.ranking.categories import ItemCategories


class Similarity(Protocol):
    """Compares items."""

    def __call__(self, rows: IntArray) -> FloatArray:
        """Similarity of these items with each other, symmetric, at most 1, shape (n, n)."""
        ...


class CosineSimilarity:
    """Cosines of item vectors; an item whose vector is 0 is like no other.

    Args:
        vectors: shape (n_items, d).
    """

    def __init__(self, vectors: npt.NDArray[Any]) -> None:
        matrix = np.asarray(vectors, dtype=np.float64)
        if matrix.ndim != 2 or not np.isfinite(matrix).all():
            raise DataError(f"item vectors must be finite and of shape (n_items, d), got shape {matrix.shape}")
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        self._unit: FloatArray = np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms > 0)

    def __call__(self, rows: IntArray) -> FloatArray:
        """Cosines, shape (n, n), in [-1, 1]."""
        chosen = self._unit[rows]
        return np.asarray(chosen @ chosen.T, dtype=np.float64)


class JaccardSimilarity:
    """Shared values over all values of two items; items without a value are like no other.

    Args:
        categories: values of every item.
    """

    def __init__(self, categories: ItemCategories) -> None:
        self._categories = categories

    def __call__(self, rows: IntArray) -> FloatArray:
        """Jaccard indices, shape (n, n), in [0, 1]."""
        members = self._categories.members(rows)[:, : self._categories.n_known]
        shared = members @ members.T
        counts = members.sum(axis=1)
        either = counts[:, None] + counts[None, :] - shared
        jaccard: FloatArray = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
        return jaccard
