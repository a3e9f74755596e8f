"""Ranking metrics from the rank of one held-out target per user.

Protocol: every item of the catalogue is ranked, items of the user's history are excluded, and ties go to the lower item
row (the order of a stable descending sort), so a constant scorer gets no lucky rank. An item with score ``-inf`` or
``nan`` is unscored: it is never listed, and an unscored target is a miss at every cut-off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

MISS = 2**62
"""Rank of a target that is not ranked at all; beyond every cut-off, and its reciprocal rank is 0."""


def masked_scores(scores: npt.ArrayLike, excluded: Sequence[IntArray] | None = None) -> FloatArray:
    """Copy of the scores with excluded items and ``nan`` set to ``-inf``.

    Args:
        scores: shape (batch, n_items), higher is better.
        excluded: item rows to leave out, one array per batch row.

    Returns:
        float64, shape (batch, n_items).
    """
    masked = np.array(scores, dtype=np.float64)
    assert masked.ndim == 2, f"scores must be (batch, n_items), got shape {masked.shape}"
    masked[np.isnan(masked)] = -np.inf
    if excluded is not None:
        assert len(excluded) == len(masked), f"{len(excluded)} exclusion lists for {len(masked)} rows"
        lengths = [len(rows) for rows in excluded]
        if sum(lengths):
            columns = np.concatenate([np.asarray(rows, dtype=np.int64) for rows in excluded])
            masked[np.repeat(np.arange(len(masked)), lengths), columns] = -np.inf
    return masked


def target_ranks(scores: npt.ArrayLike, targets: npt.ArrayLike, excluded: Sequence[IntArray] | None = None) -> IntArray:
    """Rank of each user's target, 0 is the top.

    Args:
        scores: shape (batch, n_items), higher is better.
        targets: item row of the target, shape (batch,).
        excluded: item rows to leave out; a target among them is a miss.

    Returns:
        Ranks, shape (batch,); `MISS` where the target is unscored.
    """
    return ranks_of_masked(masked_scores(scores, excluded), targets)


def ranks_of_masked(masked: FloatArray, targets: npt.ArrayLike) -> IntArray:
    """`target_ranks` of scores that went through `masked_scores` already."""
    rows = np.asarray(targets, dtype=np.int64)
    assert rows.shape == (len(masked),), f"{rows.shape} targets for {len(masked)} rows of scores"
    own = masked[np.arange(len(masked)), rows][:, None]  # (batch, 1)
    before = np.arange(masked.shape[1])[None, :] < rows[:, None]  # (batch, n_items)
    ranks = np.count_nonzero(masked > own, axis=1) + np.count_nonzero((masked == own) & before, axis=1)
    return np.where(np.isneginf(own[:, 0]), MISS, ranks).astype(np.int64)


def top_k(scores: npt.ArrayLike, k: int, excluded: Sequence[IntArray] | None = None) -> IntArray:
    """The best k items of each row in the order that `target_ranks` counts.

    Returns:
        Item rows, shape (batch, min(k, n_items)); -1 fills places for which no scored item is left.
    """
    return top_k_of_masked(masked_scores(scores, excluded), k)


def top_k_of_masked(masked: FloatArray, k: int) -> IntArray:
    """`top_k` of scores that went through `masked_scores` already."""
    n_items = masked.shape[1]
    k = min(k, n_items)
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k!r}")
    # A partition finds the k-th score; ties with it are filled up from the lowest item row, as a stable sort would.
    threshold = np.partition(masked, n_items - k, axis=1)[:, n_items - k][:, None]  # (batch, 1)
    chosen = masked >= threshold
    crowded = np.flatnonzero(np.count_nonzero(chosen, axis=1) > k)
    if crowded.size:
        tied = masked[crowded] == threshold[crowded]
        above = chosen[crowded] & ~tied
        places = k - np.count_nonzero(above, axis=1)[:, None]
        chosen[crowded] = above | (tied & (np.cumsum(tied, axis=1) <= places))
    columns = np.nonzero(chosen)[1].reshape(len(masked), k)  # ascending item rows
    picked = np.take_along_axis(masked, columns, axis=1)
    order = np.argsort(-picked, axis=1, kind="stable")
    columns, picked = np.take_along_axis(columns, order, axis=1), np.take_along_axis(picked, order, axis=1)
    return np.where(np.isneginf(picked), -1, columns).astype(np.int64)


def recall_at(ranks: IntArray, k: int) -> FloatArray:
    """1 where the target is among the first k, else 0 (with one target: recall, hit rate and top-k accuracy alike)."""
    return (np.asarray(ranks) < k).astype(np.float64)


def ndcg_at(ranks: IntArray, k: int) -> FloatArray:
    """``1 / log2(rank + 2)`` where the target is among the first k, else 0 (ideal DCG of one target is 1)."""
    ranks = np.asarray(ranks, dtype=np.int64)
    return np.where(ranks < k, 1.0 / np.log2(ranks + 2.0), 0.0)


def reciprocal_rank(ranks: IntArray) -> FloatArray:
    """``1 / (rank + 1)``, 0 for a miss; over the full ranking, without cut-off."""
    ranks = np.asarray(ranks, dtype=np.int64)
    return np.where(ranks < MISS, 1.0 / (ranks + 1.0), 0.0)


def per_user_metrics(ranks: IntArray, ks: Sequence[int]) -> dict[str, FloatArray]:
    """Every ranking metric by name ("recall@10", "ndcg@10", "mrr"), each of shape (n_users,)."""
    metrics = {f"recall@{k}": recall_at(ranks, k) for k in ks}
    metrics |= {f"ndcg@{k}": ndcg_at(ranks, k) for k in ks}
    return metrics | {"mrr": reciprocal_rank(ranks)}
