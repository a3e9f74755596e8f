"""The evaluation protocol: hand-computed results, the same users for all, failures, JSON, determinism."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from llmrec.benchmark.protocol import Evaluation, evaluate, sample_users
from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.interactions import Interactions
from llmrec.data.splits import Split, leave_one_out
from llmrec.errors import ConfigError, ModelError
from llmrec.metrics.ranking import MISS
from llmrec.ranking.registry import build

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
N_ITEMS = 6


def small_dataset(histories: list[list[int]], n_items: int = N_ITEMS) -> Dataset:
    catalogue = Catalogue.from_columns(
        {"item_id": [f"i{row}" for row in range(n_items)], "title": [f"Item {row}" for row in range(n_items)]}
    )
    interactions = Interactions.from_arrays(
        np.repeat(np.arange(len(histories)), [len(h) for h in histories]),
        np.concatenate(histories),
        None,
        user_ids=[f"u{user}" for user in range(len(histories))],
        n_items=n_items,
    )
    return Dataset(name="small", spec="small", catalogue=catalogue, interactions=interactions)


@pytest.fixture
def dataset() -> Dataset:
    """Test targets 3, 4, 5, 0; test histories [0 1 2], [0 1], [0 2], [5 4]."""
    return small_dataset([[0, 1, 2, 3], [0, 1, 4], [0, 2, 5], [5, 4, 0]])


class Scripted:
    """A recommender made of one function per user; it records what it was shown."""

    def __init__(self, name: str, scorer: Callable[[int, IntArray], FloatArray]) -> None:
        self.name, self.scorer = name, scorer
        self.seen: list[tuple[int, list[int]]] = []
        self.trained_on: list[list[int]] = []

    def fit(self, dataset: Dataset, split: Split) -> None:
        self.trained_on = [split.train.history(user).tolist() for user in range(split.train.n_users)]

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        assert users is not None
        self.seen += [(user, history.tolist()) for user, history in zip(users, histories, strict=True)]
        return np.stack([self.scorer(u, h) for u, h in zip(users, histories, strict=True)])


def ascending(user: int, history: IntArray) -> FloatArray:
    return np.arange(N_ITEMS, dtype=np.float64)


async def test_golden_values_by_hand(dataset: Dataset) -> None:
    """Scores 0..5, so the order is 5 4 3 2 1 0 without the history.

    User 0 (target 3): 5 4 3, rank 2. User 1 (target 4): 5 4, rank 1. User 2 (target 5): rank 0. User 3 (target 0):
    3 2 1 0, rank 3. Recall@1 = 1/4, recall@3 = 3/4, MRR = (1/3 + 1/2 + 1 + 1/4) / 4,
    NDCG@3 = (1/2 + 1/log2(3) + 1) / 4. First items: 5, 5, 5, 3, so coverage@1 = 2/6.
    """
    result = await evaluate(dataset, [Scripted("up", ascending)], ks=(1, 3), n_resamples=50)
    model = result.models["up"]
    assert model.ranks.tolist() == [2, 1, 0, 3]
    assert model.metrics["recall@1"].value == 0.25
    assert model.metrics["recall@3"].value == 0.75
    assert model.metrics["mrr"].value == pytest.approx((1 / 3 + 1 / 2 + 1 + 1 / 4) / 4)
    assert model.metrics["ndcg@3"].value == pytest.approx((0.5 + 1 / np.log2(3) + 1) / 4)
    assert model.coverage["coverage@1"] == pytest.approx(2 / 6)
    assert (result.n, result.n_items, result.ks) == (4, 6, (1, 3))


@pytest.mark.parametrize(
    ("stage", "histories"),
    [("test", [[0, 1, 2], [0, 1], [0, 2], [5, 4]]), ("validation", [[0, 1], [0], [0], [5]])],
)
async def test_no_model_is_shown_or_trained_on_a_target(dataset: Dataset, stage: Any, histories: list[Any]) -> None:
    spy = Scripted("spy", ascending)
    await evaluate(dataset, [spy], stage=stage, n_resamples=10)
    assert spy.seen == list(enumerate(histories))
    assert spy.trained_on == [[0, 1], [0], [0], [5]]


async def test_every_model_gets_the_same_sampled_users() -> None:
    generator = np.random.default_rng(0)
    data = small_dataset([generator.permutation(20)[:4].tolist() for _ in range(50)], 20)
    spies = [Scripted(name, lambda u, h: np.arange(20.0)) for name in ("a", "b")]
    result = await evaluate(data, spies, n_users=12, seed=3, batch_size=5, n_resamples=10)
    assert spies[0].seen == spies[1].seen
    assert [user for user, _ in spies[0].seen] == result.users.tolist() == sorted(set(result.users.tolist()))
    split = leave_one_out(data.interactions)
    assert result.n == 12
    assert np.array_equal(sample_users(split, "test", 12, 3)[0], result.users)
    assert not np.array_equal(sample_users(split, "test", 12, 4)[0], result.users)
    assert len(sample_users(split, "test", 1000, 3)[0]) == 50


async def test_failures_are_misses_and_cost_one_user_each(dataset: Dataset) -> None:
    def fails_for_two(user: int, history: IntArray) -> FloatArray:
        if user == 2:
            raise ModelError("the engine died")
        return np.full(N_ITEMS, np.nan) if user == 1 else np.arange(N_ITEMS, dtype=np.float64)

    result = await evaluate(dataset, [Scripted("frail", fails_for_two)], ks=(6,), n_resamples=10)
    model = result.models["frail"]
    assert model.ranks.tolist() == [2, MISS, MISS, 3]
    assert (model.failed, model.failures) == (2, ("no finite score", "the engine died"))
    assert model.metrics["recall@6"].value == 0.5
    assert result.to_json()["failed"]["frail"]["users"] == 2


async def test_programming_errors_are_not_swallowed(dataset: Dataset) -> None:
    def broken(user: int, history: IntArray) -> FloatArray:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await evaluate(dataset, [Scripted("broken", broken)], n_resamples=10)


async def test_unscored_target_is_a_miss(dataset: Dataset) -> None:
    def first_three(user: int, history: IntArray) -> FloatArray:
        return np.array([3.0, 2, 1, -np.inf, -np.inf, -np.inf])

    result = await evaluate(dataset, [Scripted("short", first_three)], ks=(20,), n_resamples=10)
    assert result.models["short"].ranks.tolist() == [MISS, MISS, MISS, 0]
    assert result.models["short"].failed == 0


async def test_golden_paired_difference_to_popularity(dataset: Dataset) -> None:
    """Training items 0 1 0 0 5, so popularity ranks 0 1 5 2 3 4 (ties by row).

    Without the history: user 0 has 5 3 4, target 3, rank 1; user 1 has 5 2 3 4, target 4, rank 3; user 2 has 1 5 3 4,
    target 5, rank 1; user 3 has 0 first, its target, rank 0. The perfect model has rank 0 always.
    """

    def perfect(user: int, history: IntArray) -> FloatArray:
        return np.where(np.arange(N_ITEMS) == [3, 4, 5, 0][user], 1.0, 0.0)

    result = await evaluate(dataset, [build("popular"), Scripted("perfect", perfect)], ks=(1, 2), n_resamples=200)
    assert result.models["popular"].ranks.tolist() == [1, 3, 1, 0]
    assert result.paired["perfect"]["recall@1"].value == 0.75
    assert result.paired["perfect"]["recall@2"].value == 0.25
    assert result.paired["perfect"]["mrr"].value == pytest.approx(1 - (0.5 + 0.25 + 0.5 + 1) / 4)
    assert "popular" not in result.paired
    assert result.paired["perfect"]["recall@1"].low <= 0.75 <= result.paired["perfect"]["recall@1"].high


def without_seconds(result: Evaluation) -> dict[str, Any]:
    plain = result.to_json()
    plain.pop("seconds")
    return plain


async def test_same_seed_same_report_whatever_the_batch_size(dataset: Dataset) -> None:
    def models() -> list[Any]:
        return [build("popular"), build("random"), build("knn")]

    first = await evaluate(dataset, models(), n_users=3, seed=1, n_resamples=50)
    second = await evaluate(dataset, models(), n_users=3, seed=1, n_resamples=50, batch_size=1)
    assert without_seconds(first) == without_seconds(second)
    other = await evaluate(dataset, models(), n_users=3, seed=2, n_resamples=50)
    assert without_seconds(first) != without_seconds(other)


async def test_json_has_the_documented_shape(dataset: Dataset) -> None:
    result = await evaluate(dataset, [build("popular"), build("knn"), build("dense")], n_resamples=20)
    plain = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert set(plain) == {
        "dataset", "protocol", "stage", "n", "n_items", "seed", "ks", "models", "paired", "seconds", "failed", "notes",
    }  # fmt: skip
    assert set(plain["models"]) == {"popular", "knn", "dense"}
    assert set(plain["models"]["knn"]["recall@10"]) == {"value", "low", "high"}
    expected = {f"{metric}@{k}" for metric in ("recall", "ndcg", "coverage") for k in (1, 5, 10, 20)} | {"mrr"}
    assert set(plain["models"]["knn"]) == expected
    assert plain["paired"]["against"] == "popular"
    assert set(plain["paired"]["models"]) == {"knn", "dense"}
    assert set(plain["seconds"]["knn"]) == {"fit", "score"}
    assert "TF-IDF" in plain["notes"]["dense"]
    assert "leave-one-out" in plain["protocol"]
    assert "history items excluded" in plain["protocol"]


async def test_progress_counts_users_up_to_all(dataset: Dataset) -> None:
    steps: list[tuple[str, int, int]] = []
    await evaluate(dataset, [build("popular")], batch_size=3, n_resamples=5, progress=lambda *step: steps.append(step))
    assert steps == [("popular", 3, 4), ("popular", 4, 4)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"ks": ()}, "ks"), ({"ks": (0,)}, "ks"), ({"n_users": 0}, "n_users"), ({"batch_size": 0}, "batch_size")],
)
async def test_settings_without_sense_are_errors(dataset: Dataset, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await evaluate(dataset, [build("popular")], **settings)


async def test_no_models_or_equal_names_are_errors(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="distinct names"):
        await evaluate(dataset, [])
    with pytest.raises(ConfigError, match="distinct names"):
        await evaluate(dataset, [build("popular"), build("popular")])
    renamed = await evaluate(dataset, {"a": build("popular"), "b": build("popular")}, floor="a", n_resamples=5)
    assert renamed.paired["b"]["mrr"] == (0, 0, 0)


async def test_scores_of_a_wrong_shape_name_the_model(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="'thin' must return scores of shape"):
        await evaluate(dataset, [Scripted("thin", lambda user, history: np.zeros(2))])
