"""Residual balanced k-means: every code of a level is used by the same number of items, up to one.

OneRec (Deng et al., 2025, arXiv 2502.18965): cluster after cluster takes the ``n / codes`` nearest of the items that
are left and moves to their mean; repeated until nothing changes. The procedure is greedy, so it matters in which order
clusters choose; it is fixed here: by number. Where the items do not divide evenly, the first clusters take one more.

A new item goes to the nearest centre, without a quota.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from llmrec.seeding import derive
from llmrec.semid.base import IntArray, Levels, Quantised, Vectors
from llmrec.semid.kmeans import check_distinct
from llmrec.semid.residual import quantise_residually, squared_distances

_BLOCK = 64  # clusters whose distances to all items are held at once


class BalancedConfig(BaseModel):
    """Settings of residual balanced k-means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["balanced"] = "balanced"
    levels: Levels = (256, 256, 256)
    """Number of codes per level, at least 2 each."""
    normalise: bool = True
    """Divide what is left over by its length before each level, so that codes are used more evenly."""
    iterations: PositiveInt = 30
    """Upper bound of rounds in which every cluster chooses its items."""
    min_usage: float = Field(default=0.8, ge=0, le=1)
    """As for the other quantisers; a balanced one uses every code."""


def fit_balanced(vectors: npt.NDArray[Any], config: BalancedConfig, *, seed: int = 0) -> Quantised:
    """Fit residual balanced k-means.

    Args:
        vectors: shape (n, d).
        config: settings.
        seed: of the first centres (k-means++).

    Raises:
        ConfigError: more codes than vectors, or than different residuals at some level.
        DataError: the vectors are no finite matrix.
    """
    rounds: list[int] = []

    def fit_level(residual: Vectors, n_codes: int, level: int) -> tuple[IntArray, Vectors]:
        check_distinct(residual, n_codes, level)
        codes, centres, used = _cluster_evenly(residual, n_codes, config.iterations, derive(seed, "balanced", level))
        rounds.append(used)
        return codes, centres

    result = quantise_residually(vectors, config.levels, config, fit_level, normalise=config.normalise)
    return result._replace(facts={"rounds": rounds})


def _cluster_evenly(points: Vectors, n_codes: int, iterations: int, seed: int) -> tuple[IntArray, Vectors, int]:
    """Codes (n,), centres (n_codes, d) and the number of rounds."""
    from sklearn.cluster import kmeans_plusplus

    centres = np.asarray(kmeans_plusplus(points, n_codes, random_state=seed % 2**32)[0], dtype=np.float32)
    quotas = np.full(n_codes, len(points) // n_codes)
    quotas[: len(points) % n_codes] += 1
    codes = np.full(len(points), -1, dtype=np.int64)
    for used in range(1, iterations + 1):
        chosen = _choose(points, centres, quotas)
        centres = means(points, chosen, n_codes)
        if np.array_equal(chosen, codes):
            return codes, centres, used
        codes = chosen
    return codes, centres, iterations


def _choose(points: Vectors, centres: Vectors, quotas: IntArray) -> IntArray:
    """One round: each cluster in turn takes its quota of the nearest items that are left, shape (n,)."""
    lengths = np.einsum("nd,nd->n", points, points)
    codes = np.full(len(points), -1, dtype=np.int64)
    left = np.arange(len(points))
    for start in range(0, len(centres), _BLOCK):
        block = squared_distances(points[left], centres[start : start + _BLOCK]) + lengths[left, None]
        free = np.ones(len(left), dtype=np.bool_)
        for offset in range(block.shape[1]):
            open_rows = np.flatnonzero(free)
            taken = open_rows[_smallest(block[open_rows, offset], int(quotas[start + offset]))]
            codes[left[taken]] = start + offset
            free[taken] = False
        left = left[free]
    return codes


def _smallest(values: Vectors, n: int) -> IntArray:
    """Positions of the `n` smallest values, of equal ones the first; sorting them all would take most of the time."""
    limit = np.partition(values, n - 1)[n - 1]
    below = np.flatnonzero(values < limit)
    return np.concatenate([below, np.flatnonzero(values == limit)[: n - len(below)]])


def means(points: Vectors, codes: IntArray, n_codes: int) -> Vectors:
    """Mean of the points of each code, shape (n_codes, d)."""
    import scipy.sparse

    ones = np.ones(len(points), dtype=np.float64)
    members = scipy.sparse.csr_array((ones, (codes, np.arange(len(points)))), shape=(n_codes, len(points)))
    sums = members @ points.astype(np.float64)
    return np.asarray(sums / np.bincount(codes, minlength=n_codes)[:, None], dtype=np.float32)
