"""Common scales of scores: hand-computed values, order kept, the history has no say."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.ranking.normalise import Normaliser, combine, fit_temperature, normalise

KINDS: list[Normaliser] = ["zscore", "softmax", "reciprocal"]
NONE = np.array([], dtype=np.int64)


def test_golden_zscore() -> None:
    """Candidates 1, 3, 5 (item 3 is history, item 4 unscored): mean 3, deviation sqrt(8/3)."""
    (found,) = normalise(np.array([[1.0, 3.0, 5.0, 100.0, -np.inf]]), [np.array([3])], "zscore")
    spread = np.sqrt(8 / 3)
    assert found.tolist() == pytest.approx([-2 / spread, 0, 2 / spread, 97 / spread, -2 / spread - 1])


def test_golden_softmax() -> None:
    """Candidates log 1, log 3, at temperature 1/2: probabilities 1/10 and 9/10."""
    scores = np.array([[0.0, np.log(3), np.nan]])
    (found,) = normalise(scores, [NONE], "softmax", temperature=0.5)
    assert np.exp(found).tolist() == pytest.approx([0.1, 0.9, 0])


def test_golden_reciprocal() -> None:
    """Ranks 1, 2 (a tie of two), 4; the history item 4 would stand at rank 2 as well; item 5 is unscored."""
    scores = np.array([[9.0, 5.0, 5.0, 1.0, 7.0, -np.inf]])
    (found,) = normalise(scores, [np.array([4])], "reciprocal", rank_offset=10)
    assert found.tolist() == pytest.approx([1 / 11, 1 / 12, 1 / 12, 1 / 14, 1 / 12, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_ties_are_kept(kind: Normaliser) -> None:
    scores = np.random.default_rng(0).normal(size=(4, 300)) * 1e3
    scores[:, 7] = scores[:, 90]
    scores[1, :20] = -np.inf
    found = normalise(scores, [NONE] * 4, kind)
    assert np.array_equal(np.argsort(-found, axis=1, kind="stable"), np.argsort(-scores, axis=1, kind="stable"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_ignores_the_history_and_the_unit(kind: Normaliser) -> None:
    scores = np.random.default_rng(1).normal(size=(1, 50))
    changed = scores.copy()
    changed[0, 3] += 40
    found, other = (normalise(row, [np.array([3])], kind)[0] for row in (scores, changed))
    assert np.array_equal(np.delete(found, 3), np.delete(other, 3))
    if kind != "softmax":
        assert np.allclose(normalise(5 * scores + 2, [np.array([3])], kind)[0], found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [[2.0, 2.0, 2.0], [-np.inf, -np.inf, -np.inf], [0.1, 0.1, 0.1]])
def test_rows_that_say_nothing_are_flat(kind: Normaliser, row: list[float]) -> None:
    (found,) = normalise(np.array([row]), [NONE], kind)
    assert len(set(found.tolist())) == 1
    assert not np.isnan(found).any()


def test_golden_combination() -> None:
    values = [np.array([[1.0, 2.0]]), np.array([[3.0, 0.0]]), np.array([[np.nan, np.nan]])]
    assert combine(values, [0.5, 0.25, 0.0], "zscore").tolist() == [[1.25, 1.0]]
    logs = [np.log([[0.5, 0.5]]), np.array([[0.0, -np.inf]])]
    assert np.exp(combine(logs, [0.4, 0.6], "softmax"))[0].tolist() == pytest.approx([0.8, 0.2])


def test_the_temperature_of_calibrated_scores_is_found() -> None:
    """Targets drawn from softmax(scores / 3): the fitted temperature is 3 within a step of the grid."""
    draw = np.random.default_rng(0)
    scores = 6 * draw.normal(size=(3000, 40))
    gumbel = draw.gumbel(size=scores.shape)
    targets = np.argmax(scores / 3 + gumbel, axis=1)
    assert fit_temperature(scores, [NONE] * 3000, targets) == pytest.approx(3, rel=0.45)
    assert fit_temperature(np.full((2, 3), -np.inf), [NONE] * 2, np.array([0, 1])) == 1.0
    assert fit_temperature(np.ones((2, 3)), [NONE] * 2, np.array([0, 1])) == 1.0
