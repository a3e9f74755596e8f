"""How well click decisions predict real choices, beside the predictors that always say yes or always no."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError
from llmrec.metrics.bootstrap import Interval, bootstrap_means, resample_counts

FloatArray = npt.NDArray[np.float64]
_LOWEST = 1e-6  # probabilities are clipped here, so one confident error costs at most 13.8 nats


@dataclass(frozen=True)
class ClickMetrics:
    """Quality of click decisions with 95 % bootstrap intervals over decisions."""

    n: int
    positives: int
    failed: int
    """Decisions without a probability; counted as wrong."""
    accuracy: Interval
    always_click: Interval
    """Accuracy of the constant predictor "click"."""
    never_click: Interval
    """Accuracy of the constant predictor "no click"."""
    over_always: Interval
    """Accuracy minus that of "click", paired."""
    over_never: Interval
    """Accuracy minus that of "no click", paired."""
    log_loss: Interval
    """Mean negative log-likelihood in nats."""
    base_rate_log_loss: Interval
    """Log loss of always saying the share of positives."""
    auc: Interval
    """Chance that a positive gets a higher probability than a negative, ties count one half; constants have 0.5."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers: intervals become ``{"value", "low", "high"}``."""
        plain = {name: getattr(self, name) for name in asdict(self)}
        return {k: v._asdict() if isinstance(v, Interval) else v for k, v in plain.items()}


def click_metrics(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    seed: int,
    threshold: float = 0.5,
    n_resamples: int = 2000,
) -> ClickMetrics:
    """Compare probabilities of a click with what really happened.

    Args:
        labels: 1 or True where the item was really chosen, shape (n,).
        probabilities: probability of a click, shape (n,); ``nan`` is a failed decision, which counts as the wrong one.
        seed: of the bootstrap.
        threshold: a probability of at least this is a click.
        n_resamples: number of bootstrap samples.

    Raises:
        ConfigError: lengths differ, a probability is outside [0, 1], or only one class is present.
    """
    truth, given = np.asarray(labels).astype(bool), np.asarray(probabilities, dtype=np.float64)
    if truth.shape != given.shape or truth.ndim != 1:
        raise ConfigError(f"labels and probabilities need one shape (n,), got {truth.shape} and {given.shape}")
    failed = np.isnan(given)
    if not np.all(failed | ((given >= 0) & (given <= 1))):
        raise ConfigError("probabilities must lie in [0, 1] or be nan")
    if truth.all() or not truth.any():
        raise ConfigError(f"click metrics need both classes, got {int(truth.sum())} positives of {len(truth)}")
    usable = np.where(failed, np.where(truth, 0.0, 1.0), given)
    correct = np.where(failed, False, (usable >= threshold) == truth).astype(np.float64)
    columns = np.stack(
        [
            correct,
            truth.astype(np.float64),
            (~truth).astype(np.float64),
            correct - truth,
            correct - ~truth,
            _log_loss(truth, usable),
            _log_loss(truth, np.full(len(truth), truth.mean())),
        ],
        axis=1,
    )  # (n, 7)
    means = bootstrap_means(columns, seed=seed, n_resamples=n_resamples)
    accuracy, always, never, over_always, over_never, loss, base_loss = means
    return ClickMetrics(
        n=len(truth),
        positives=int(truth.sum()),
        failed=int(failed.sum()),
        accuracy=accuracy,
        always_click=always,
        never_click=never,
        over_always=over_always,
        over_never=over_never,
        log_loss=loss,
        base_rate_log_loss=base_loss,
        auc=bootstrap_auc(truth, usable, seed=seed, n_resamples=n_resamples),
    )


def area_under_roc(labels: npt.NDArray[np.bool_], scores: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Area under the ROC curve for many weightings of the same cases.

    Args:
        labels: shape (n,).
        scores: shape (n,), higher means more likely positive.
        weights: how often each case counts, shape (m, n); default once.

    Returns:
        Areas, shape (m,); ``nan`` where a weighting leaves only one class.
    """
    counts = np.ones((1, len(labels))) if weights is None else weights
    _, group = np.unique(scores, return_inverse=True)  # equal scores share a group
    first_of_group = np.searchsorted(np.sort(group), np.arange(group.max() + 1))
    order = np.argsort(group, kind="stable")
    positive = np.add.reduceat(np.where(labels, counts, 0.0)[:, order], first_of_group, axis=1)  # (m, n_groups)
    negative = np.add.reduceat(np.where(labels, 0.0, counts)[:, order], first_of_group, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + negative / 2)).sum(axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    areas: FloatArray = np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return areas


def bootstrap_auc(
    labels: npt.NDArray[np.bool_], scores: FloatArray, *, seed: int, n_resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Area under the ROC curve with a percentile interval over cases."""
    value = float(area_under_roc(labels, scores)[0])
    areas = area_under_roc(labels, scores, resample_counts(len(labels), seed=seed, n_resamples=n_resamples))
    low, high = np.nanquantile(areas, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def _log_loss(truth: npt.NDArray[np.bool_], probability: FloatArray) -> FloatArray:
    clipped = np.clip(probability, _LOWEST, 1 - _LOWEST)
    return -np.where(truth, np.log(clipped), np.log(1 - clipped))
