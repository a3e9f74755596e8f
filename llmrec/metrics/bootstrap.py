"""Percentile bootstrap over users: intervals for means and for paired differences of means.

Reference: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. A sample without variation (no hit
among n users) has an interval of width 0; read it together with n.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError
from llmrec.seeding import rng

FloatArray = npt.NDArray[np.float64]
_CELLS_PER_CHUNK = 2_000_000  # draws held at once, so that memory does not grow with users x resamples


class Interval(NamedTuple):
    """A value with its confidence bounds."""

    value: float
    low: float
    high: float


def bootstrap_means(
    values: npt.ArrayLike, *, seed: int, n_resamples: int = 2000, level: float = 0.95
) -> list[Interval]:
    """Intervals for the mean of every column; one resample of users serves all columns.

    Args:
        values: one row per user, one column per metric, shape (n_users, n_metrics).
        seed: equal seeds and numbers of users draw the same resamples.
        n_resamples: number of bootstrap samples.
        level: coverage of the interval, between 0 and 1.

    Returns:
        One interval per column.

    Raises:
        ConfigError: there is no user, or a setting is out of range.
    """
    matrix = np.asarray(values, dtype=np.float64)
    assert matrix.ndim == 2, f"values must be (n_users, n_metrics), got shape {matrix.shape}"
    if len(matrix) == 0:
        raise ConfigError("a confidence interval needs at least one user, got none")
    if not 0 < level < 1 or n_resamples < 1:
        raise ConfigError(f"level must be in (0, 1) and n_resamples positive, got {level!r} and {n_resamples!r}")
    means = np.concatenate([counts @ matrix for counts in _resamples(len(matrix), seed, n_resamples)]) / len(matrix)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)  # each (n_metrics,)
    observed = matrix.mean(axis=0)
    return [Interval(float(v), float(a), float(b)) for v, a, b in zip(observed, low, high, strict=True)]


def bootstrap_mean(values: npt.ArrayLike, *, seed: int, n_resamples: int = 2000, level: float = 0.95) -> Interval:
    """Interval for the mean of one value per user, shape (n_users,)."""
    column = np.asarray(values, dtype=np.float64)[:, None]
    return bootstrap_means(column, seed=seed, n_resamples=n_resamples, level=level)[0]


def paired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, *, seed: int, n_resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Interval for ``mean(a - b)`` where a and b belong to the same users, both of shape (n_users,)."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ConfigError(f"paired values need the same users, got {first.shape} and {second.shape}")
    return bootstrap_mean(first - second, seed=seed, n_resamples=n_resamples, level=level)


def resample_counts(n: int, *, seed: int, n_resamples: int) -> FloatArray:
    """How often each user is drawn in each resample, shape (n_resamples, n); for statistics that are no mean."""
    return np.concatenate(list(_resamples(n, seed, n_resamples)))


def _resamples(n: int, seed: int, n_resamples: int) -> Iterator[FloatArray]:
    """Chunks of resample counts, each of shape (chunk, n)."""
    generator = rng(seed, "bootstrap", n)
    chunk = max(1, _CELLS_PER_CHUNK // n)
    for start in range(0, n_resamples, chunk):
        size = min(chunk, n_resamples - start)
        drawn = generator.integers(0, n, size=(size, n))
        drawn += np.arange(size)[:, None] * n  # so that one bincount serves the whole chunk
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
