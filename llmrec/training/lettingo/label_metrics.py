"""Accuracy and F1 of three-way labels, with paired bootstrap intervals over users.

LettinGo calls its F1 both macro and weighted, so both are given. Several targets of one user stay together in every
resample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError
from llmrec.metrics.bootstrap import Interval, resample_counts
from llmrec.training.lettingo.evaluate import Verdict
from llmrec.training.lettingo.windows import LABELS

FloatArray = npt.NDArray[np.float64]
_N = len(LABELS)


class LabelMetrics(NamedTuple):
    """Three numbers with their intervals."""

    accuracy: Interval
    macro_f1: Interval
    """Mean F1 of the classes that occur; 0 for a class that is never right."""
    weighted_f1: Interval
    """The same, weighted by how often a class occurs."""


def label_metrics(users: Sequence[Sequence[Verdict]], *, seed: int, n_resamples: int = 2000) -> LabelMetrics:
    """Metrics of one predictor.

    Args:
        users: verdicts of each user.
        seed: of the bootstrap.
        n_resamples: number of resamples.

    Raises:
        ConfigError: there is no verdict.
    """
    tables = confusions(users)
    counts = resample_counts(len(tables), seed=seed, n_resamples=n_resamples)
    return LabelMetrics(*_intervals(_values(tables.sum(axis=0)[None]), _values(_resampled(counts, tables))))


def label_difference(
    first: Sequence[Sequence[Verdict]], second: Sequence[Sequence[Verdict]], *, seed: int, n_resamples: int = 2000
) -> LabelMetrics:
    """Metrics of the first minus those of the second, on the same users and targets, paired in every resample.

    Raises:
        ConfigError: the users or their true labels differ.
    """
    if [[v.true for v in own] for own in first] != [[v.true for v in own] for own in second]:
        raise ConfigError("paired predictions need the same users and targets in the same order")
    a, b = confusions(first), confusions(second)
    counts = resample_counts(len(a), seed=seed, n_resamples=n_resamples)
    observed = _values(a.sum(axis=0)[None]) - _values(b.sum(axis=0)[None])
    return LabelMetrics(*_intervals(observed, _values(_resampled(counts, a)) - _values(_resampled(counts, b))))


def confusions(users: Sequence[Sequence[Verdict]]) -> FloatArray:
    """How often each user's true label (rows) met each answer (columns), shape (n_users, 3, 3).

    Raises:
        ConfigError: there is no verdict.
    """
    if not users or not any(users):
        raise ConfigError("label metrics need at least one verdict, got none")
    tables = np.zeros((len(users), _N, _N))
    for table, own in zip(tables, users, strict=True):
        for verdict in own:
            table[LABELS.index(verdict.true), LABELS.index(verdict.label)] += 1
    return tables


def _resampled(counts: FloatArray, tables: FloatArray) -> FloatArray:
    return (counts @ tables.reshape(len(tables), -1)).reshape(-1, _N, _N)


def _values(tables: FloatArray) -> FloatArray:
    """Accuracy, macro-F1 and weighted F1 of confusion tables, shape (m, 3)."""
    right = np.diagonal(tables, axis1=1, axis2=2)  # (m, 3)
    true, answered = tables.sum(axis=2), tables.sum(axis=1)
    both = true + answered
    f1 = np.divide(2 * right, both, out=np.zeros_like(right), where=both > 0)
    n = true.sum(axis=1)
    occurs = both > 0
    macro = f1.sum(axis=1) / occurs.sum(axis=1)
    return np.stack([right.sum(axis=1) / n, macro, (f1 * true).sum(axis=1) / n], axis=1)


def _intervals(observed: FloatArray, resampled: FloatArray) -> list[Interval]:
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    return [Interval(float(v), float(a), float(b)) for v, a, b in zip(observed[0], low, high, strict=True)]
