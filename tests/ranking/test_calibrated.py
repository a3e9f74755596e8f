"""Calibrated lists: by hand, at the ends of the weight, and against the best list there is."""

from __future__ import annotations

import itertools

import numpy as np

from llmrec.metrics.diversity import miscalibration
from llmrec.ranking.calibrated import CalibratedConfig, CalibratedReranker, calibrated_order
from llmrec.ranking.categories import ItemCategories
from llmrec.ranking.rerank import RerankContext

WANTED = np.array([0.7, 0.3])
SHARES = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
SCORES = np.array([1.0, 0.9, 0.8, 0.5])


def test_golden_order() -> None:
    """Lambda .5, alpha .01.

    Place 1: item 0 gains .5 - .5 * 1.13398 = -.06699, item 3 .25 - .5 * 2.86453. Place 2: item 1 gains .95 - .56699 =
    .38301, item 3 with (.5, .5) on the list .75 - .5 * .08069 = .70966. Then the divergence is small and scores decide.
    """
    order = calibrated_order(SCORES, SHARES, WANTED, calibration=0.5, mixing=0.01, k=4)
    assert order.tolist() == [0, 3, 1, 2]


def test_golden_pure_calibration_approaches_the_history() -> None:
    """Lambda 1 over many items of two kinds: ten places hold them 7 to 3."""
    shares = np.repeat(np.eye(2), 20, axis=0)
    order = calibrated_order(np.zeros(40), shares, WANTED, calibration=1.0, mixing=0.01, k=10)
    np.testing.assert_allclose(shares[order].sum(axis=0), [7, 3])


def test_weight_zero_and_an_empty_history_keep_the_order() -> None:
    categories = ItemCategories([["a"], ["b"], ["a", "b"], []])
    items, scores = np.array([3, 1, 0, 2]), np.array([0.1, 0.9, 0.5, 0.7])
    context = RerankContext(np.array([0, 0]))
    plain = CalibratedReranker(categories, config=CalibratedConfig(calibration=0.0))
    assert plain.rerank(items, scores, context, 4).tolist() == [1, 2, 0, 3]
    strong = CalibratedReranker(categories, config=CalibratedConfig(calibration=0.9))
    assert strong.rerank(items, scores, RerankContext(), 3).tolist() == [1, 2, 0]
    assert strong.rerank(items, scores, context, 1).tolist() == [0]
    smoothed = CalibratedReranker(categories, config=CalibratedConfig(calibration=0.9, smoothing=4))
    assert smoothed.rerank(items, scores, RerankContext(), 1).tolist() == [2]


def test_greedy_is_near_the_best_list() -> None:
    draw = np.random.default_rng(3)
    for _ in range(10):
        scores, shares = draw.random(8), draw.dirichlet(np.ones(3) * 0.3, size=8)
        wanted = draw.dirichlet(np.ones(3))
        worths = {
            chosen: float(0.5 * scores[list(chosen)].sum() - 0.5 * miscalibration(wanted, shares[list(chosen)].mean(0)))
            for chosen in itertools.combinations(range(8), 4)
        }
        order = calibrated_order(scores, shares, wanted, calibration=0.5, mixing=0.01, k=4)
        found = worths[tuple(sorted(order.tolist()))]
        assert max(worths.values()) - found <= 0.1 * (max(worths.values()) - min(worths.values()))
