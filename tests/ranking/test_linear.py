"""EASE against its definition, ALS against the library's own half sweep."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from llmrec.data.dataset import Dataset
from llmrec.data.splits import leave_one_out
from llmrec.errors import CacheError, ConfigError, DataError, MissingDependencyError
from llmrec.ranking import linear
from llmrec.ranking.als import AlsConfig, AlsRecommender
from llmrec.ranking.linear import EaseConfig, EaseRecommender, ease_weights, user_items, weighted_histories
from tests.ranking.synthetic import walks

EMPTY = np.array([], dtype=np.int64)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return walks(n_users=80, n_items=30, length=7, stray=0.1)


@pytest.fixture(scope="module")
def ease(data: Dataset) -> EaseRecommender:
    ranker = EaseRecommender(config=EaseConfig(regularisation=5.0))
    ranker.fit(data, leave_one_out(data.interactions))
    return ranker


def test_golden_ease_of_two_items() -> None:
    """X = [[1, 1], [1, 0]], r = 1: G = [[3, 1], [1, 2]], P = [[2, -1], [-1, 3]] / 5, so B01 = (1/5) / (3/5) = 1/3 and
    B10 = (1/5) / (2/5) = 1/2."""
    matrix = scipy.sparse.csr_array(np.array([[1.0, 1.0], [1.0, 0.0]], dtype=np.float32))
    assert ease_weights(matrix, 1.0) == pytest.approx(np.array([[0, 1 / 3], [1 / 2, 0]]), abs=1e-6)


def test_ease_equals_ridge_regression_without_the_own_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each column is the ridge regression of an item on all others: the definition, item by item."""
    monkeypatch.setattr(linear, "_ROWS", 7)  # several pieces
    dense = (np.random.default_rng(0).random((60, 20)) < 0.3).astype(np.float64)
    found = ease_weights(scipy.sparse.csr_array(dense.astype(np.float32)), 3.0)
    for item in range(20):
        others = np.delete(np.arange(20), item)
        x, y = dense[:, others], dense[:, item]
        expected = np.linalg.solve(x.T @ x + 3.0 * np.eye(19), x.T @ y)
        assert found[others, item] == pytest.approx(expected, abs=1e-5)
        assert found[item, item] == 0


def test_fitting_leaves_the_histories_as_they_are(data: Dataset) -> None:
    """Repeats and order: a matrix sums and sorts, the interactions must not be what it sorts."""
    before = data.interactions.items.copy()
    matrix = user_items(data.interactions)
    assert np.array_equal(data.interactions.items, before)
    assert set(matrix.data.tolist()) == {1.0}
    assert matrix.toarray().sum() == sum(len(set(data.interactions.history(user).tolist())) for user in range(80))


async def test_ease_scores_are_sums_over_the_history(ease: EaseRecommender, data: Dataset) -> None:
    assert ease._weights is not None
    scores = await ease.score([np.array([3, 7, 3]), EMPTY])
    assert scores[0] == pytest.approx(ease._weights[3] + ease._weights[7], abs=1e-6)
    counts = leave_one_out(data.interactions).train.item_counts()
    assert np.array_equal(np.argsort(-scores[1], kind="stable"), np.argsort(-counts, kind="stable"))


def test_golden_recency_weights() -> None:
    """[4, 2, 4, 9]: 9 is the newest, 4 the 2nd (its repeat counts once), 2 the 3rd."""
    query = weighted_histories([np.array([4, 2, 4, 9]), EMPTY], n_items=10, recency=1.0).toarray()
    assert query[0].tolist() == [0, 0, 1 / 3, 0, 1 / 2, 0, 0, 0, 0, 1]
    assert not query[1].any()


async def test_golden_als_user_vector(data: Dataset) -> None:
    """The scores solve the user's half of the sweep: an item weighs 1, one of the history alpha with target 1."""
    ranker = AlsRecommender(config=AlsConfig(width=4, iterations=3, alpha=7.0, regularisation=0.5))
    ranker._items = np.random.default_rng(0).normal(size=(30, 4))
    ranker._counts = leave_one_out(data.interactions).train.item_counts()
    history = np.array([2, 11, 5])
    confidence = np.ones(30)
    confidence[history] = 7.0
    wanted = (confidence > 1).astype(float)
    root = np.sqrt(confidence)[:, None]
    stacked = np.concatenate([root * ranker._items, np.sqrt(0.5) * np.eye(4)])
    user, *_ = np.linalg.lstsq(stacked, np.concatenate([root[:, 0] * wanted, np.zeros(4)]), rcond=None)
    scores = await ranker.score([history, EMPTY])
    assert scores[0] == pytest.approx(ranker._items @ user, abs=1e-8)
    assert scores[1].argmax() == ranker._counts.argmax()


async def test_als_learns_from_the_training_events(data: Dataset) -> None:
    pytest.importorskip("implicit")
    split = leave_one_out(data.interactions)
    scores = []
    for _ in range(2):
        ranker = AlsRecommender(config=AlsConfig(width=8, iterations=5))
        ranker.fit(data, split)
        histories = [split.history(int(user), "validation") for user in split.users]
        scores.append(await ranker.score(histories))
    assert np.allclose(scores[0], scores[1], atol=1e-5)  # a seed is a run
    seen = np.mean([row[history].mean() for row, history in zip(scores[0], histories, strict=True)])
    assert seen > 3 * abs(scores[0].mean())


def test_als_without_its_library_is_an_error(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)  # as if it were not installed
    with pytest.raises(MissingDependencyError, match=r"llmrec\[als\]"):
        AlsRecommender().fit(data, leave_one_out(data.interactions))


async def test_saved_and_loaded_scores_are_the_same(ease: EaseRecommender, data: Dataset, tmp_path: Path) -> None:
    histories = [np.array([0, 4, 2]), EMPTY]
    ease.save(tmp_path / "ease")
    loaded = EaseRecommender.load(tmp_path / "ease", data)
    assert np.array_equal(await loaded.score(histories), await ease.score(histories))
    assert loaded.config == ease.config
    with pytest.raises(CacheError, match="another catalogue"):
        EaseRecommender.load(tmp_path / "ease", walks(n_items=31))
    als = AlsRecommender()
    als._items, als._counts = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30)
    als.origin = ease.origin
    als.save(tmp_path / "als")
    assert np.array_equal(
        await AlsRecommender.load(tmp_path / "als", data).score(histories), await als.score(histories)
    )


async def test_bad_input_is_an_error(ease: EaseRecommender, data: Dataset) -> None:
    with pytest.raises(DataError, match="got row 30"):
        await ease.score([np.array([30])])
    with pytest.raises(ConfigError, match="for 30 items, got max_items 20"):
        EaseRecommender(config=EaseConfig(max_items=20)).fit(data, leave_one_out(data.interactions))
    for unfitted in (EaseRecommender(), AlsRecommender()):
        with pytest.raises(ConfigError, match="not fitted"):
            await unfitted.score([np.array([1])])
