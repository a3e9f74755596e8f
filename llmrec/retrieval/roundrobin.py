"""Quasi-round-robin ranking of sampled completions (CALRec, arXiv 2405.02429, inference).

Every completion scores the whole catalogue by BM25. Scaled to [0, 1] per completion and multiplied by
``exp(epsilon * log-probability)``, the maximum over completions is an item's score. Each completion's best match thus
gets almost exactly 1 and the tiny epsilon only orders them: the list opens with the best match of the likeliest
completion, then the best match of the second, and so on; runners-up follow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from llmrec.errors import ConfigError
from llmrec.retrieval.base import FloatArray, IntArray

ScoreFunction = Callable[[str], FloatArray]


def unique_completions(completions: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Distinct texts with their best log-probability, likeliest first; equal ones in order of first appearance."""
    best: dict[str, float] = {}
    for text, logprob in completions:
        if np.isnan(logprob):
            raise ConfigError(f"a completion has no log-probability, got {logprob!r} for {text[:60]!r}")
        best[text] = max(logprob, best.get(text, -np.inf))
    return sorted(best.items(), key=lambda pair: -pair[1])


def round_robin(
    completions: Sequence[tuple[str, float]], score_fn: ScoreFunction, n_items: int, epsilon: float = 1 / 5000
) -> FloatArray:
    """Scores of all items from sampled completions.

    A stable descending sort of the result breaks ties as the method asks: the completion that was reached first, then
    the item row. To that end tied items of a later completion are lowered by single float steps.

    Args:
        completions: (text, summed log-probability) pairs in any order; duplicates count once, with their best value.
        score_fn: lexical scores of one text over the catalogue, shape (n_items,).
        n_items: size of the catalogue.
        epsilon: weight of the log-probability.

    Returns:
        Shape (n_items,), within [0, 1] for log-probabilities up to 0; items that no completion reaches score 0.
        Completions whose scores are all equal share no term with the catalogue and are skipped.
    """
    ordered = unique_completions(completions)
    if not ordered:
        return np.zeros(n_items)
    raw = np.stack([np.asarray(score_fn(text), dtype=np.float64) for text, _ in ordered])  # (n_completions, n_items)
    assert raw.shape == (len(ordered), n_items), f"scores of shape {raw.shape} for {n_items} items"
    low, high = raw.min(axis=1, keepdims=True), raw.max(axis=1, keepdims=True)  # (n_completions, 1)
    useful = (high > low)[:, 0]
    if not useful.any():
        return np.zeros(n_items)
    scaled = (raw[useful] - low[useful]) / (high[useful] - low[useful])
    factors = np.exp(epsilon * np.array([logprob for _, logprob in ordered])[useful])  # (n_useful,)
    modulated = factors[:, None] * scaled
    first = modulated.argmax(axis=0)  # first completion that reaches the maximum, per item
    return _separate(modulated.max(axis=0), first)


def _separate(scores: FloatArray, first: IntArray) -> FloatArray:
    """Lower tied scores of later completions, so that a stable sort keeps the order (score, completion, row)."""
    order = np.lexsort((np.arange(len(scores)), first, -scores))
    ranked, owner = scores[order], first[order]
    if not np.any((ranked[1:] == ranked[:-1]) & (owner[1:] != owner[:-1]) & (ranked[1:] > 0)):
        return scores
    separated = scores.copy()
    for previous, item in itertools.pairwise(order.tolist()):
        if scores[item] == 0:
            break
        ceiling = separated[previous]
        if scores[item] == scores[previous] and first[item] != first[previous]:
            ceiling = np.nextafter(ceiling, 0.0)
        separated[item] = min(scores[item], ceiling)
    return separated
