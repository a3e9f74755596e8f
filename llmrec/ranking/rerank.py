"""The contract of what puts a list of candidates into another order, with what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError, DataError
from llmrec.retrieval.base import FloatArray, IntArray

Scale = Literal["minmax", "rank", "given"]
"""How scores are made comparable with what they are weighed against. "minmax": from 0 (worst candidate) to 1 (best);
"rank": falling evenly from 1 with the place, whatever the distances; "given": as they are."""


@dataclass(frozen=True)
class RerankContext:
    """For whom candidates are ordered."""

    history: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Item rows that the user took, oldest first."""


@runtime_checkable
class Reranker(Protocol):
    """Chooses and orders the first places of a list."""

    name: str

    def rerank(self, items: npt.ArrayLike, scores: npt.ArrayLike, context: RerankContext, k: int) -> IntArray:
        """The new first places.

        Args:
            items: candidate rows in any order, each once, shape (n,); equal scores keep it.
            scores: finite, higher is better, shape (n,).
            context: the user.
            k: places.

        Returns:
            Item rows, best first, shape (min(k, n),).

        Raises:
            DataError: items and scores do not fit together, an item occurs twice, or a score is not finite.
            ConfigError: k is not positive.
        """
        ...


def by_relevance(items: npt.ArrayLike, scores: npt.ArrayLike, k: int) -> tuple[IntArray, FloatArray]:
    """Checked candidates and their scores, best first; the errors are those of `Reranker.rerank`."""
    rows, values = np.asarray(items, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    if rows.ndim != 1 or rows.shape != values.shape:
        raise DataError(f"one score per candidate is needed, got shapes {rows.shape} and {values.shape}")
    if not np.isfinite(values).all():
        wrong = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError(f"the score of item {int(rows[wrong])} is {float(values[wrong])!r}; leave unscored items out")
    if len(np.unique(rows)) != len(rows):
        raise DataError(f"an item occurs twice among {len(rows)} candidates; give each once")
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k!r}")
    order = np.argsort(-values, kind="stable")
    return rows[order], values[order]


def scaled(scores: FloatArray, scale: Scale) -> FloatArray:
    """Scores given best first as `Scale` says, shape (n,); equal scores are all 1 under "minmax"."""
    if scale == "given" or len(scores) == 0:
        return scores
    if scale == "rank":
        return 1.0 - np.arange(len(scores)) / len(scores)
    low, high = float(scores.min()), float(scores.max())
    return np.ones(len(scores)) if high == low else (scores - low) / (high - low)


def greedy(n: int, k: int, gains: Callable[[Sequence[int]], FloatArray]) -> IntArray:
    """Fill k places one after the other, each with the candidate of the largest gain; ties go to the earlier one.

    Args:
        n: number of candidates.
        k: places.
        gains: from the places (0 to n-1) chosen so far to the gain of every candidate, shape (n,).

    Returns:
        Places of the chosen candidates in order, shape (min(k, n),).
    """
    chosen: list[int] = []
    for _ in range(min(k, n)):
        values = np.array(gains(chosen), dtype=np.float64)
        values[chosen] = -np.inf
        chosen.append(int(np.argmax(values)))
    return np.array(chosen, dtype=np.int64)
