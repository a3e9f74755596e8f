"""Maximal marginal relevance, the similarities it works with, and what every re-ranker refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmrec.data.catalogue import Catalogue
from llmrec.data.spec import load
from llmrec.errors import ConfigError, DataError
from llmrec.ranking.categories import ItemCategories
from llmrec.ranking.mmr import MmrConfig, MmrReranker, mmr_order
from llmrec.ranking.rerank import RerankContext, Reranker, scaled
from llmrec.ranking.rerankers import build_reranker, default_attribute, names
from llmrec.ranking.similarity import CosineSimilarity, JaccardSimilarity

SCORES = np.array([1.0, 0.9, 0.8])
SIMILARITY = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]])


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return load("films", cache=tmp_path_factory.mktemp("films")).catalogue


def test_golden_order() -> None:
    """Lambda .5: first 0 (.5 beats .45 and .4); then 1 is worth .45 - .45 = 0 and 2 is worth .4 - .05 = .35."""
    assert mmr_order(SCORES, SIMILARITY, relevance=0.5, k=3).tolist() == [0, 2, 1]


def test_golden_the_nearest_of_the_placed_counts() -> None:
    """Place 3 at lambda .2: item 2 is like 1 (.9), item 3 like both by half; the mean would prefer 2 (.5 < .55)."""
    similarity = np.array([[1, 0, 0.1, 0.5], [0, 1, 0.9, 0.6], [0.1, 0.9, 1, 0.3], [0.5, 0.6, 0.3, 1]])
    assert mmr_order(np.array([1.0, 1.0, 0.5, 0.5]), similarity, relevance=0.2, k=4).tolist() == [0, 1, 3, 2]


def test_lambda_one_is_the_order_of_relevance() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(40, 5))
    reranker: Reranker = MmrReranker(CosineSimilarity(vectors), config=MmrConfig(relevance=1.0))
    items, scores = draw.permutation(40)[:20], draw.integers(0, 6, size=20)  # with ties, which keep their order
    expected = items[np.argsort(-scores, kind="stable")]
    assert reranker.rerank(items, scores, RerankContext(), 20).tolist() == expected.tolist()
    assert reranker.rerank(items, scores, RerankContext(), 99).tolist() == expected.tolist()


def test_golden_similarities() -> None:
    """Cosine of (1, 0) and (1, 1) is .7071; {a, b} and {b, c, d} share 1 of 4; nothing is like an unknown item."""
    cosine = CosineSimilarity(np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))(np.array([0, 1, 2]))
    assert cosine == pytest.approx(np.array([[1, 0.70711, 0], [0.70711, 1, 0], [0, 0, 0]]), abs=1e-5)
    jaccard = JaccardSimilarity(ItemCategories([["a", "b"], ["b", "c", "d"], [], []]))(np.array([1, 0, 2, 3]))
    assert jaccard.tolist() == [[1, 0.25, 0, 0], [0.25, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_golden_scales() -> None:
    values = np.array([5.0, 2.0, 1.0])
    assert scaled(values, "minmax").tolist() == [1.0, 0.25, 0.0]
    np.testing.assert_allclose(scaled(values, "rank"), [1.0, 2 / 3, 1 / 3])
    assert scaled(values, "given") is values
    assert scaled(np.array([3.0, 3.0]), "minmax").tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(
    ("items", "scores", "k", "error", "match"),
    [
        ([0, 1], [1.0], 1, DataError, "one score per candidate"),
        ([0, 1], [1.0, float("nan")], 1, DataError, "item 1 is nan"),
        ([0, 0], [1.0, 2.0], 1, DataError, "twice"),
        ([0, 1], [1.0, 2.0], 0, ConfigError, "got 0"),
    ],
)
def test_every_reranker_checks_candidates(
    films: Catalogue, name: str, items: Any, scores: Any, k: int, error: type[Exception], match: str
) -> None:
    reranker = build_reranker(name, films)
    with pytest.raises(error, match=match):
        reranker.rerank(items, scores, RerankContext(), k)


@pytest.mark.parametrize("name", names())
def test_every_reranker_takes_empty_lists_and_any_order_of_candidates(films: Catalogue, name: str) -> None:
    reranker = build_reranker(name, films, settings={"scale": "minmax"})
    context = RerankContext(np.array([3, 7, 20, 99]))
    assert reranker.rerank([], [], context, 5).shape == (0,)
    draw = np.random.default_rng(2)
    items, scores = draw.permutation(700)[:60], draw.random(60)
    mixed = draw.permutation(60)
    order = reranker.rerank(items, scores, context, 10)
    assert order.tolist() == reranker.rerank(items[mixed], scores[mixed], context, 10).tolist()
    assert set(order) <= set(items)
    assert len(set(order)) == 10
    assert order.tolist() != items[np.argsort(-scores)][:10].tolist()


def test_builder_refuses_what_does_not_fit(films: Catalogue) -> None:
    catalogue = films
    assert default_attribute(catalogue) == "genres"
    with pytest.raises(ConfigError, match="'mrr'"):
        build_reranker("mrr", catalogue)
    with pytest.raises(ConfigError, match="lambda"):
        build_reranker("mmr", catalogue, settings={"lambda": 1})
    with pytest.raises(ConfigError, match="one row per item"):
        build_reranker("mmr", catalogue, vectors=np.ones((3, 2)))
    with pytest.raises(ConfigError, match="takes no vectors"):
        build_reranker("intent", catalogue, vectors=np.ones((len(catalogue), 2)))
    with pytest.raises(DataError, match="number"):
        build_reranker("calibrated", catalogue, attribute="year")
