"""The blend: equal to a part when it has all the weight, planted weights found, nothing of the test targets read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmrec.benchmark.protocol import evaluate
from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split, leave_one_out
from llmrec.errors import CacheError, ConfigError
from llmrec.metrics.ranking import masked_scores, ndcg_at, target_ranks
from llmrec.ranking.blend import BlendConfig, BlendRecommender
from llmrec.ranking.blend_fit import search_weights
from llmrec.ranking.linear import EaseConfig, EaseRecommender
from llmrec.ranking.normalise import Normaliser
from llmrec.retrieval.base import FloatArray, IntArray, Recommender, require_fitted
from llmrec.retrieval.item_knn import ItemKnnConfig, ItemKnnRecommender
from llmrec.retrieval.popularity import PopularityRecommender
from tests.ranking.synthetic import dataset_of, walks

KINDS: list[Normaliser] = ["zscore", "softmax", "reciprocal"]


class Planted:
    """A part whose scores are a table by user: what it knows is known to the test."""

    def __init__(self, name: str, table: FloatArray, *, fitted: bool = True) -> None:
        self.name, self.fits = name, 0
        self._table = table
        self._known: FloatArray | None = table if fitted else None

    def fit(self, dataset: Dataset, split: Split) -> None:
        self.fits += 1
        self._known = self._table

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        known = require_fitted(self._known, self.name)
        return known[np.asarray(users if users is not None else range(len(histories)), dtype=np.int64)]


def random_dataset(n_users: int, n_items: int, seed: int = 0) -> Dataset:
    draw = np.random.default_rng(seed)
    return dataset_of([draw.permutation(n_items)[:5].tolist() for _ in range(n_users)], n_items)


@pytest.mark.parametrize("kind", KINDS)
async def test_all_weight_on_one_part_is_that_part(kind: Normaliser) -> None:
    data = walks(n_users=60, stray=0.2)
    split = leave_one_out(data.interactions)
    knn, popular = ItemKnnRecommender(), PopularityRecommender()
    blend = BlendRecommender([popular, knn], config=BlendConfig(weights=(0.0, 2.0), normalisers=(kind,)))
    result = await evaluate(data, [knn, popular, blend], split=split, floor="")
    assert np.array_equal(result.models["blend"].ranks, result.models["knn"].ranks)
    histories = [split.history(user, "test") for user in range(60)]
    own = masked_scores(await knn.score(histories), histories)
    blended = masked_scores(await blend.score(histories), histories)
    assert np.array_equal(np.argsort(-own, axis=1, kind="stable"), np.argsort(-blended, axis=1, kind="stable"))


@pytest.mark.parametrize(("share", "low", "high"), [(0.75, 0.65, 0.85), (0.5, 0.4, 0.6), (1.0, 0.9, 1.0)])
def test_planted_weights_are_recovered(share: float, low: float, high: float) -> None:
    """Each user's next item maximises share * a + (1 - share) * b plus noise; of three parts one knows neither."""
    data = random_dataset(1500, 60)
    split = leave_one_out(data.interactions)
    draw = np.random.default_rng(1)
    a, b, c = (draw.normal(size=(1500, 60)) for _ in range(3))
    utility = share * a + (1 - share) * b + 0.1 * draw.normal(size=(1500, 60))
    for user in range(1500):
        utility[user, split.history(user, "validation")] = -np.inf
    split = replace(split, validation=utility.argmax(axis=1).astype(np.int64))
    blend = BlendRecommender(
        [Planted("a", 10 * a + 3), Planted("b", b), Planted("c", c)], config=BlendConfig(normalisers=("zscore",))
    )
    blend.fit(data, split)
    weights = blend.fitted.weights
    assert low <= weights[0] <= high
    assert weights[2] < 0.05
    assert sum(weights) == pytest.approx(1)
    assert blend.fitted.ndcg >= max(blend.fitted.alone)
    assert "a 0." in blend.describe() or "a 1." in blend.describe()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_reported_validation_score_is_that_of_the_protocol(kind: Normaliser) -> None:
    """Found on the pool of best items, it equals NDCG@10 over the whole catalogue."""
    data = walks(n_users=120, n_items=150, stray=0.5)
    split = leave_one_out(data.interactions)
    parts: list[Recommender] = [
        ItemKnnRecommender(),
        EaseRecommender(config=EaseConfig(regularisation=5)),
        PopularityRecommender(),
    ]
    blend = BlendRecommender(parts, config=BlendConfig(normalisers=(kind,), depth=40))
    blend.fit(data, split)
    result = await evaluate(data, [blend], split=split, stage="validation", ks=(10,), fit=False, floor="")
    assert result.models["blend"].metrics["ndcg@10"].value == pytest.approx(blend.fitted.ndcg, abs=1e-3)


def test_test_targets_are_not_read() -> None:
    data = walks(n_users=60, stray=0.4)
    histories = [data.interactions.history(user).tolist() for user in range(60)]
    other = dataset_of([[*history[:-1], (history[-1] + 11) % 40] for history in histories], 40)
    found = []
    for one in (data, other):
        blend = BlendRecommender([ItemKnnRecommender(), PopularityRecommender()])
        blend.fit(one, leave_one_out(one.interactions))
        found.append((blend.fitted.weights, blend.fitted.normaliser, blend.fitted.tried))
    assert found[0] == found[1]


def test_fitted_parts_are_not_fitted_again() -> None:
    data = random_dataset(20, 30)
    split = leave_one_out(data.interactions)
    table = np.random.default_rng(0).random((20, 30))
    ready, raw = Planted("ready", table), Planted("raw", 1 - table, fitted=False)
    blend = BlendRecommender([ready, raw])
    blend.fit(data, split)
    assert (ready.fits, raw.fits) == (0, 1)
    blend.fit(data, split)  # on another split, say: the blend's own part goes along
    assert (ready.fits, raw.fits) == (0, 2)


@pytest.mark.parametrize("kind", KINDS)
async def test_unscored_items_stand_below_scored_ones(kind: Normaliser) -> None:
    """Part a scores items 0 to 4 of 8, part b items 2 to 5; nobody scores 6 and 7, and they stay unscored."""
    data = random_dataset(20, 8)
    a, b = np.full((20, 8), -np.inf), np.full((20, 8), np.nan)
    a[:, :5], b[:, 2:6] = np.arange(5), np.arange(4)
    config = BlendConfig(weights=(0.5, 0.5), normalisers=(kind,))
    blend = BlendRecommender([Planted("a", a), Planted("b", b)], config=config)
    blend.fit(data, leave_one_out(data.interactions))
    (scores,) = await blend.score([np.array([], dtype=np.int64)], users=[0])
    assert np.isneginf(scores[6:]).all()
    assert np.isfinite(scores[:6]).all()
    assert scores.argmax() == 4  # best of a, second of b
    assert scores[3] > scores[1] > scores[0]
    alone = BlendRecommender([Planted("a", a), Planted("b", b)], config=replace_weights(config, (1.0, 0.0)))
    alone.fit(data, leave_one_out(data.interactions))
    (scores,) = await alone.score([np.array([], dtype=np.int64)], users=[0])
    assert np.array_equal(np.isfinite(scores), np.isfinite(a[0]))
    assert alone.fitted.ndcg == pytest.approx(reference_ndcg(a, data))


def replace_weights(config: BlendConfig, weights: tuple[float, ...]) -> BlendConfig:
    return config.model_copy(update={"weights": weights})


def reference_ndcg(table: FloatArray, data: Dataset) -> float:
    split = leave_one_out(data.interactions)
    histories = [split.history(int(user), "validation") for user in split.users]
    return float(ndcg_at(target_ranks(table, split.validation, histories), 10).mean())


def test_golden_search_climbs_to_the_top_of_a_hill() -> None:
    top = np.array([0.62, 0.3, 0.08, 0.0])
    weights, value = search_weights(lambda w: -float(np.square(w - top).sum()), 4)
    assert np.abs(weights - top).max() < 0.03
    assert value == pytest.approx(-float(np.square(weights - top).sum()))
    assert search_weights(lambda w: 1.0, 1)[0].tolist() == [1.0]
    assert search_weights(lambda w: 1.0, 3)[0].tolist() == [1.0, 0.0, 0.0]  # of equals the first


async def test_fits_and_scores_below_a_running_loop() -> None:
    data = walks(n_users=30)
    blend = BlendRecommender([ItemKnnRecommender(), PopularityRecommender()])
    blend.fit(data, leave_one_out(data.interactions))
    assert (await blend.score([])).shape == (0, 40)
    with pytest.raises(ConfigError, match="not fitted"):
        await BlendRecommender([PopularityRecommender()]).score([np.array([1])])


@pytest.fixture
def saved(tmp_path: Path) -> tuple[BlendRecommender, Dataset, Path]:
    data = walks(n_users=50, stray=0.3)
    parts: list[Recommender] = [
        EaseRecommender(config=EaseConfig(regularisation=3), name="linear"),
        ItemKnnRecommender(config=ItemKnnConfig(window=2)),
    ]
    config = BlendConfig(weights=(0.4, 0.6))
    blend = BlendRecommender(parts, config=config, name="both")
    blend.fit(data, leave_one_out(data.interactions))
    blend.save(tmp_path / "blend")
    return blend, data, tmp_path / "blend"


async def test_saved_and_loaded_scores_are_the_same(saved: tuple[BlendRecommender, Dataset, Path]) -> None:
    blend, data, folder = saved
    loaded = BlendRecommender.load(folder, data, parts=blend.parts)
    histories = [np.array([1, 2, 3]), np.array([], dtype=np.int64)]
    assert np.array_equal(await loaded.score(histories), await blend.score(histories))
    assert (loaded.name, loaded.config, loaded.fitted) == ("both", blend.config, blend.fitted)
    with pytest.raises(CacheError, match="another catalogue"):
        BlendRecommender.load(folder, walks(n_items=41))
    with pytest.raises(CacheError, match="has the parts"):
        BlendRecommender.load(folder, data, parts=blend.parts[::-1])


async def test_parts_come_back_from_the_folder(saved: tuple[BlendRecommender, Dataset, Path]) -> None:
    """One is loaded, the other fitted again with its settings, which needs the same training events."""
    from llmrec.ranking import registry

    if "ease" not in registry.names():
        pytest.skip("the table of recommenders does not name 'ease'")
    blend, data, folder = saved
    loaded = BlendRecommender.load(folder, data)
    histories = [np.array([1, 2, 3])]
    assert np.allclose(await loaded.score(histories), await blend.score(histories), atol=1e-9)
    assert [part.name for part in loaded.parts] == ["linear", "knn"]
    fewer = [data.interactions.history(user).tolist() for user in range(49)]
    with pytest.raises(CacheError, match=r"'knn' .* has to be fitted again, but the training events"):
        BlendRecommender.load(folder, dataset_of(fewer, 40))


def test_a_part_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    data = random_dataset(20, 30)
    blend = BlendRecommender([Planted("table", np.zeros((20, 30)))])
    blend.fit(data, leave_one_out(data.interactions))
    with pytest.raises(ConfigError, match="'table' can neither be saved nor be built"):
        blend.save(tmp_path)


@pytest.mark.parametrize("weights", [(1.0,), (-1.0, 2.0), (0.0, 0.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_weights_that_do_not_suit_are_errors(weights: Any) -> None:
    with pytest.raises(ConfigError, match="weights must be one number per part"):
        BlendRecommender([PopularityRecommender(), ItemKnnRecommender()], config=BlendConfig(weights=weights))


async def test_wrong_parts_are_errors() -> None:
    with pytest.raises(ConfigError, match="distinct names"):
        BlendRecommender([PopularityRecommender(), PopularityRecommender()])
    with pytest.raises(ConfigError, match="distinct names"):
        BlendRecommender([])
    data = random_dataset(20, 30)
    blend = BlendRecommender([Planted("a", np.zeros((20, 30))), Planted("b", np.zeros((20, 29)))])
    with pytest.raises(ConfigError, match="same catalogue"):
        blend.fit(data, leave_one_out(data.interactions))
