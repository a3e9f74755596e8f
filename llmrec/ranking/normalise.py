"""Scores of different recommenders brought to one scale, user by user, so that they can be added.

The scale comes from the candidates of a user: items that are scored and not in the history. Equal scores stay equal and
the order of a recommender stays its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from llmrec.metrics.ranking import masked_scores
from llmrec.retrieval.base import FloatArray, IntArray

Normaliser = Literal["zscore", "softmax", "reciprocal"]
"""How scores are brought to one scale and put together:

- "zscore": deviations from the mean of the candidates, in standard deviations; weighted sum.
- "softmax": log-probabilities under a temperature per recommender; log of the weighted mean probability.
- "reciprocal": ``1 / (offset + rank)``, the best candidate at rank 1; weighted sum (reciprocal rank fusion, Cormack,
  Clarke & Büttcher, SIGIR 2009).
"""
_BELOW = 1.0
"""Standard deviations between the worst scored candidate and the items without a score."""


def normalise(
    scores: FloatArray,
    histories: Sequence[IntArray],
    kind: Normaliser,
    *,
    temperature: float = 1.0,
    rank_offset: float = 10.0,
) -> FloatArray:
    """Bring scores to the common scale.

    Args:
        scores: shape (batch, n_items); ``-inf`` or ``nan`` is unscored.
        histories: item rows, one array per row of the scores; they do not influence the scale.
        kind: which scale.
        temperature: of "softmax".
        rank_offset: of "reciprocal".

    Returns:
        Shape (batch, n_items). Items without a score lie below every candidate: ``-inf`` for "softmax", finite for the
        others. A row without candidates is 0 throughout (uniform for "softmax").
    """
    raw = masked_scores(scores)
    candidates = masked_scores(raw, histories)
    scored = np.isfinite(raw)
    if kind == "zscore":
        return _zscore(raw, candidates, scored)
    if kind == "softmax":
        return _softmax(raw, candidates, scored, temperature)
    return _reciprocal(raw, candidates, scored, rank_offset)


def combine(values: Sequence[FloatArray], weights: Sequence[float], kind: Normaliser) -> FloatArray:
    """Put normalised scores of several recommenders together.

    Args:
        values: results of `normalise`, each of shape (batch, n_items).
        weights: not negative, with a positive sum, one per recommender.
        kind: as given to `normalise`.
    """
    kept = [(value, weight) for value, weight in zip(values, weights, strict=True) if weight > 0]
    if kind == "softmax":
        total = np.full(kept[0][0].shape, -np.inf)
        for value, weight in kept:
            total = np.logaddexp(total, value + np.log(weight))
        return total
    result: FloatArray = np.zeros(kept[0][0].shape)
    for value, weight in kept:
        result += weight * value
    return result


def _zscore(raw: FloatArray, candidates: FloatArray, scored: npt.NDArray[np.bool_]) -> FloatArray:
    counted = np.isfinite(candidates)
    n = np.maximum(counted.sum(axis=1, keepdims=True), 1)
    mean = np.where(counted, candidates, 0.0).sum(axis=1, keepdims=True) / n
    spread = np.sqrt(np.square(np.where(counted, candidates - mean, 0.0)).sum(axis=1, keepdims=True) / n)
    # Rounding leaves a constant row a spread of about 1e-16 of its values.
    usable = spread > 1e-13 * np.abs(mean)
    values = np.where(scored & usable, (np.where(scored, raw, 0.0) - mean) / np.where(usable, spread, 1.0), 0.0)
    lowest = np.where(counted, values, np.inf).min(axis=1, keepdims=True)
    return np.where(scored, values, np.where(np.isfinite(lowest), lowest - _BELOW, 0.0))


def _softmax(raw: FloatArray, candidates: FloatArray, scored: npt.NDArray[np.bool_], temperature: float) -> FloatArray:
    top = candidates.max(axis=1, keepdims=True, initial=-np.inf)
    empty = ~np.isfinite(top)
    top = np.where(empty, 0.0, top)
    mass = np.exp(np.where(np.isfinite(candidates), (candidates - top) / temperature, -np.inf)).sum(axis=1)
    logits = np.where(scored, (np.where(scored, raw, 0.0) - top) / temperature, -np.inf)
    return np.where(empty, -np.log(raw.shape[1]), logits - np.log(np.where(empty[:, 0], 1.0, mass))[:, None])


def _reciprocal(raw: FloatArray, candidates: FloatArray, scored: npt.NDArray[np.bool_], offset: float) -> FloatArray:
    values = np.zeros_like(raw)
    for row, ordered in enumerate(np.sort(candidates, axis=1)):
        # number of candidates above; a history item gets the place where it would stand among them
        above = len(ordered) - np.searchsorted(ordered, raw[row], side="right")
        values[row] = np.where(scored[row], 1.0 / (offset + above + 1), 0.0)
    return values


def fit_temperature(scores: FloatArray, histories: Sequence[IntArray], targets: IntArray) -> float:
    """Temperature under which the targets are likeliest (calibration by temperature scaling), from a fixed grid.

    Args:
        scores: shape (batch, n_items).
        histories: item rows, one array per row of the scores.
        targets: item row of each user's target, shape (batch,); unscored ones say nothing.

    Returns:
        A positive number; 1 where no target is scored or all candidates of everybody are alike.
    """
    candidates = masked_scores(scores, histories)
    own = candidates[np.arange(len(candidates)), targets]
    candidates, own = candidates[np.isfinite(own)], own[np.isfinite(own)]
    if not len(own):
        return 1.0
    counted = np.isfinite(candidates)
    top = candidates.max(axis=1)
    mean = np.where(counted, candidates, 0.0).sum(axis=1) / counted.sum(axis=1)
    scale = float(np.median(top - mean))
    if scale <= 0:
        return 1.0
    grid = scale * 2.0 ** np.linspace(-7, 3, 21)
    losses = [
        float((np.log(np.exp((candidates - top[:, None]) / t).sum(axis=1)) - (own - top) / t).mean()) for t in grid
    ]
    return float(grid[int(np.argmin(losses))])
