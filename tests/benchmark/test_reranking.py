"""Lists before and after re-ranking on the embedded films, and the two-stage recommender that evaluation runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmrec.benchmark.protocol import evaluate
from llmrec.benchmark.reranking import BEFORE, compare_reranking
from llmrec.data.dataset import Dataset
from llmrec.data.spec import load
from llmrec.data.splits import Split, leave_one_out
from llmrec.errors import ConfigError
from llmrec.ranking.categories import ItemCategories
from llmrec.ranking.rerank import Reranker
from llmrec.ranking.rerankers import build_reranker
from llmrec.ranking.similarity import JaccardSimilarity
from llmrec.ranking.stages import RerankedRecommender, candidates, promoted
from llmrec.retrieval.item_knn import ItemKnnRecommender
from llmrec.retrieval.popularity import PopularityRecommender

NEUTRAL = {"intent": {"gamma": 0.0}, "mmr": {"relevance": 1.0}, "calibrated": {"calibration": 0.0}}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load("films", cache=tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="module")
def split(films: Dataset) -> Split:
    return leave_one_out(films.interactions)


@pytest.fixture(scope="module")
def knn(films: Dataset, split: Split) -> ItemKnnRecommender:
    recommender = ItemKnnRecommender()
    recommender.fit(films, split)
    return recommender


async def test_each_reranker_does_what_it_is_for(films: Dataset, split: Split, knn: ItemKnnRecommender) -> None:
    categories = ItemCategories.from_catalogue(films.catalogue, "genres")
    rerankers = [build_reranker(name, films.catalogue) for name in NEUTRAL]
    report = await compare_reranking(
        films,
        knn,
        rerankers,
        similarity=JaccardSimilarity(categories),
        categories=categories,
        split=split,
        n_users=150,
    )
    assert list(report.lists) == [BEFORE, *NEUTRAL]
    assert report.change["mmr"]["diversity"].low > 0
    assert report.change["intent"]["diversity"].low > 0
    assert report.change["calibrated"]["miscalibration"].high < 0
    again = json.loads(json.dumps(report.to_json()))
    assert again["lists"][BEFORE]["ndcg"][0] == report.lists[BEFORE]["ndcg"].value
    plain = await evaluate(films, [knn], n_users=150, split=split, ks=(10,), fit=False, n_resamples=10)
    assert report.lists[BEFORE]["ndcg"].value == pytest.approx(plain.models["knn"].metrics["ndcg@10"].value)


async def test_two_stages_are_evaluated_as_any_recommender(
    films: Dataset, split: Split, knn: ItemKnnRecommender
) -> None:
    """Neutral settings change no rank; others give the report's NDCG."""
    neutral: dict[str, RerankedRecommender] = {
        name: RerankedRecommender(knn, build_reranker(name, films.catalogue, settings=settings), fitted=True)
        for name, settings in NEUTRAL.items()
    }
    mmr: Reranker = build_reranker("mmr", films.catalogue, settings={"relevance": 0.5})
    changed = RerankedRecommender(knn, mmr, fitted=True, k=10)
    assert changed.name == "knn+mmr"
    found = await evaluate(
        films, {"knn": knn, "changed": changed, **neutral}, n_users=100, split=split, ks=(10,), n_resamples=10
    )
    for name in neutral:
        assert np.array_equal(found.models[name].ranks, found.models["knn"].ranks)
    categories = ItemCategories.from_catalogue(films.catalogue, "genres")
    report = await compare_reranking(
        films,
        knn,
        [mmr],
        similarity=JaccardSimilarity(categories),
        categories=categories,
        split=split,
        n_users=100,
    )
    assert report.lists["mmr"]["ndcg"].value == pytest.approx(found.models["changed"].metrics["ndcg@10"].value)


async def test_the_first_stage_is_fitted_with_the_second(films: Dataset, split: Split) -> None:
    both = RerankedRecommender(PopularityRecommender(), build_reranker("mmr", films.catalogue), name="both")
    both.fit(films, split)
    assert (await both.score([split.history(0, "test")])).shape == (1, len(films.catalogue))


def test_golden_promotion() -> None:
    """Items 4 and 0 on top with their own scores; 2, 1 behind in the first order; 3 and 5 stay unscored."""
    first = np.array([0.5, 1e-9, 2e-9, np.nan, 0.1, -np.inf])
    found = promoted(first, np.array([4, 0]), np.array([-30.0, -40.0]))
    assert found.tolist() == [-40.0, -42.0, -41.0, -np.inf, -30.0, -np.inf]
    assert promoted(first, np.array([], dtype=np.int64), np.array([])).argmax() == 0


def test_golden_candidates() -> None:
    scores = np.array([[3.0, 5.0, np.nan, 4.0], [-np.inf, 1.0, 1.0, -np.inf]])
    found = candidates(scores, [np.array([1]), np.array([], dtype=np.int64)], 3)
    assert [rows.tolist() for rows in found] == [[3, 0], [1, 2]]


async def test_names_must_be_distinct(films: Dataset, split: Split, knn: ItemKnnRecommender) -> None:
    categories = ItemCategories.from_catalogue(films.catalogue, "genres")
    twice = [build_reranker("mmr", films.catalogue)] * 2
    with pytest.raises(ConfigError, match="distinct names"):
        await compare_reranking(
            films, knn, twice, similarity=JaccardSimilarity(categories), categories=categories, split=split
        )
