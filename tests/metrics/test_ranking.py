"""Ranks, list cuts and metrics: hand-computed values, scikit-learn as independent library, and properties."""

from __future__ import annotations

from math import log2

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from llmrec.errors import ConfigError
from llmrec.metrics.coverage import catalogue_coverage
from llmrec.metrics.ranking import (
    MISS,
    ndcg_at,
    per_user_metrics,
    recall_at,
    reciprocal_rank,
    target_ranks,
    top_k,
)

SCORES = np.array([[0.1, 0.9, 0.5, 0.5, 0.3]])


def test_golden_ranks() -> None:
    """Order of SCORES: item 1 (.9), then 2 and 3 (.5, the tie goes to the lower row), then 4 (.3), then 0 (.1)."""
    ranks = [int(target_ranks(SCORES, [target])[0]) for target in range(5)]
    assert ranks == [4, 0, 1, 2, 3]
    assert top_k(SCORES, 5).tolist() == [[1, 2, 3, 4, 0]]


def test_golden_excluded_items_leave_the_ranking() -> None:
    """Without items 1 and 2 the order is 3, 4, 0; an excluded target is a miss."""
    history = [np.array([1, 2])]
    assert target_ranks(SCORES, [4], history).tolist() == [1]
    assert target_ranks(SCORES, [1], history).tolist() == [MISS]
    assert top_k(SCORES, 5, history).tolist() == [[3, 4, 0, -1, -1]]


def test_golden_metrics() -> None:
    """Ranks 0, 2, 9, miss: reciprocal ranks 1, 1/3, 1/10, 0; gains 1, 1/log2(4) = .5, 1/log2(11), 0."""
    ranks = np.array([0, 2, 9, MISS])
    assert recall_at(ranks, 1).tolist() == [1, 0, 0, 0]
    assert recall_at(ranks, 10).tolist() == [1, 1, 1, 0]
    assert ndcg_at(ranks, 10) == pytest.approx([1, 0.5, 1 / log2(11), 0])
    assert ndcg_at(ranks, 2) == pytest.approx([1, 0, 0, 0])
    assert reciprocal_rank(ranks) == pytest.approx([1, 1 / 3, 0.1, 0])


def test_a_miss_stays_a_miss_when_k_exceeds_the_catalogue() -> None:
    ranks = target_ranks([[1.0, -np.inf, 0.5]], [1])
    assert recall_at(ranks, 1000).tolist() == [0]
    assert set(per_user_metrics(ranks, (20,))) == {"recall@20", "ndcg@20", "mrr"}
    assert all(values.tolist() == [0] for values in per_user_metrics(ranks, (20,)).values())


@pytest.mark.parametrize("unscored", [-np.inf, np.nan])
def test_unscored_target_is_a_miss_and_unscored_items_are_not_listed(unscored: float) -> None:
    scores = [[unscored, 0.0, unscored]]
    assert target_ranks(scores, [0]).tolist() == [MISS]
    assert target_ranks(scores, [1]).tolist() == [0]
    assert top_k(scores, 3).tolist() == [[1, -1, -1]]


def test_constant_scores_give_no_lucky_rank() -> None:
    assert target_ranks(np.zeros((1, 100)), [99]).tolist() == [99]


def test_inputs_are_not_changed() -> None:
    scores = SCORES.copy()
    top_k(scores, 2, [np.array([1])])
    assert np.array_equal(scores, SCORES)


def test_k_below_one_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        top_k(SCORES, 0)


def test_golden_coverage() -> None:
    """Items 0, 1, 2 of 4 are shown to somebody."""
    assert catalogue_coverage(np.array([[0, 1], [1, 2], [1, -1]]), 4) == 0.75
    assert catalogue_coverage(np.array([[-1, -1]]), 4) == 0.0


def distinct_scores(seed: int, users: int, items: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    scores = np.stack([generator.permutation(items) for _ in range(users)]).astype(np.float64)
    return scores, generator.integers(0, items, users)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), users=st.integers(1, 12), items=st.integers(3, 30), k=st.integers(1, 29))
def test_agrees_with_scikit_learn(seed: int, users: int, items: int, k: int) -> None:
    """Without ties, where both sides define the same quantity. scikit-learn's label ranking precision with one relevant
    label is the reciprocal rank."""
    scores, targets = distinct_scores(seed, users, items)
    k = min(k, items - 1)
    ranks = target_ranks(scores, targets)
    relevance = np.zeros((users, items))
    relevance[np.arange(users), targets] = 1
    labels = np.arange(items)
    assert recall_at(ranks, k).mean() == pytest.approx(top_k_accuracy_score(targets, scores, k=k, labels=labels))
    assert ndcg_at(ranks, k).mean() == pytest.approx(ndcg_score(relevance, scores, k=k))
    assert reciprocal_rank(ranks).mean() == pytest.approx(label_ranking_average_precision_score(relevance, scores))


rows = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, float("-inf"), float("nan")]), min_size=2, max_size=12)


@settings(max_examples=100, deadline=None)
@given(row=rows, data=st.data())
def test_rank_is_the_place_in_a_stable_sort(row: list[float], data: st.DataObject) -> None:
    """Against a plain Python sort, ties and unscored items included; `top_k` gives the same order cut at k."""
    excluded = data.draw(st.lists(st.integers(0, len(row) - 1), unique=True))
    k = data.draw(st.integers(1, len(row)))
    scored = [i for i, s in enumerate(row) if s == s and s != float("-inf") and i not in excluded]
    order = sorted(scored, key=lambda i: -row[i])
    history = [np.array(excluded, dtype=np.int64)]
    for target in range(len(row)):
        expected = order.index(target) if target in order else MISS
        assert target_ranks([row], [target], history).tolist() == [expected]
    assert top_k([row], k, history)[0].tolist() == (order + [-1] * len(row))[:k]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_metrics_are_monotone_and_bounded(seed: int) -> None:
    scores, targets = distinct_scores(seed, 8, 25)
    ranks = target_ranks(scores, targets)
    values = [(recall_at(ranks, k).mean(), ndcg_at(ranks, k).mean()) for k in (1, 5, 10, 20)]
    assert values == sorted(values)
    assert all(0 <= ndcg <= recall <= 1 for recall, ndcg in values)
    # a strictly increasing transformation of the scores changes nothing
    assert np.array_equal(target_ranks(np.exp(scores / 5), targets), ranks)
