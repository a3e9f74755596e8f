"""Pages by intent: the published method's numbers, its limits, and the trap of a belief that never moves."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.errors import ConfigError, DataError
from llmrec.ranking.categories import NONE, ItemCategories
from llmrec.ranking.intent import IntentConfig, IntentReranker, build_page
from llmrec.ranking.rerank import RerankContext, Reranker

QUALITY = [0.9, 0.8, 0.7, 0.5]
TAKE = [0.6, 0.5, 0.5, 0.4]
SERVES = [[1, 0], [1, 0], [1, 0], [0, 1]]
PRIOR = [0.7, 0.3]


def test_golden_page() -> None:
    """After item 0 is passed over, 0.7 * 0.4 = 0.28 stands against 0.3: (.28, .30) / .58 = (.4828, .5172), and so on.

    A belief that stays (0.7, 0.3) would give 0, 1, 2, 3.
    """
    page = build_page(QUALITY, TAKE, SERVES, PRIOR, gamma=1.0, k=4)
    assert page.order.tolist() == [0, 1, 3, 2]
    expected = [[0.4828, 0.5172], [0.3182, 0.6818], [0.4375, 0.5625], [0.28, 0.72]]
    np.testing.assert_allclose(page.posteriors, expected, atol=5e-5)


def test_golden_without_a_moving_belief_the_order_is_another() -> None:
    values = np.array(QUALITY) * np.array(TAKE) * (np.array(SERVES) @ np.array(PRIOR))
    assert np.argsort(-values).tolist() == [0, 1, 2, 3]


def test_gamma_zero_is_the_order_of_quality() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        quality, take = draw.random(12), draw.random(12) * 0.9
        page = build_page(quality, take, draw.random((12, 4)) < 0.3, draw.dirichlet(np.ones(4)), gamma=0.0, k=12)
        assert page.order.tolist() == np.argsort(-quality).tolist()


def test_the_belief_stays_a_distribution_and_loses_what_was_passed_over() -> None:
    draw = np.random.default_rng(1)
    prior = draw.dirichlet(np.ones(5))
    serves = draw.random((30, 5)) < 0.4
    page = build_page(draw.random(30), draw.random(30) * 0.9, serves, prior, gamma=1.0, k=30)
    beliefs = np.vstack([prior, page.posteriors])
    np.testing.assert_allclose(beliefs.sum(axis=1), 1.0)
    for item, before, after in zip(page.order, beliefs, page.posteriors, strict=False):
        assert (after[serves[item]] <= before[serves[item]] + 1e-12).all()
    assert sorted(page.order.tolist()) == list(range(30))


def test_a_chance_of_one_or_a_negative_quality_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 1\.0"):
        build_page([0.5], [1.0], [[True]], [1.0], gamma=1.0, k=1)
    with pytest.raises(ConfigError, match=r"got -3\.0"):
        build_page([-3.0], [0.5], [[True]], [1.0], gamma=1.0, k=1)


@pytest.fixture(scope="module")
def categories() -> ItemCategories:
    """Items 0 to 5 are crime, 6 to 8 comedy, 9 is not described."""
    return ItemCategories([["Crime"]] * 6 + [["Comedy"]] * 3 + [[]])


def test_golden_profile(categories: ItemCategories) -> None:
    """Two crimes, then a comedy; with a half-life of one item crime weighs 1/4 + 1/2 against 1."""
    history = np.array([0, 1, 6])
    assert categories.names == ("Comedy", "Crime", NONE)
    for options, expected in (
        ({}, [1 / 3, 2 / 3, 0]),
        ({"half_life": 1.0}, [1 / 1.75, 0.75 / 1.75, 0]),
        ({"smoothing": 10.0}, [4 / 13, 8 / 13, 1 / 13]),
    ):
        assert categories.profile(history, **options) == pytest.approx(np.array(expected))
    assert categories.profile(history[:0]) is None
    assert categories.profile(history[:0], smoothing=1) == pytest.approx(np.array([0.3, 0.6, 0.1]))


def test_several_values_share_an_item() -> None:
    categories = ItemCategories([["a", "b", "a"], ["b"]])
    assert categories.shares([0, 1]).tolist() == [[0.5, 0.5], [0, 1]]
    assert categories.members([1, 0]).tolist() == [[0, 1], [1, 1]]


def test_an_attribute_without_values_is_refused() -> None:
    with pytest.raises(DataError, match="mood"):
        ItemCategories([[], []], name="mood")


def test_the_page_turns_to_the_second_taste(categories: ItemCategories) -> None:
    """By score alone five crimes come first; a user of both kinds sees a comedy earlier."""
    reranker: Reranker = IntentReranker(categories, config=IntentConfig(scale="rank"))
    items, scores = np.array([0, 1, 2, 3, 4, 6, 7, 9]), np.arange(8, 0, -1)
    context = RerankContext(np.array([5, 8]))
    order = reranker.rerank(items, scores, context, 8)
    assert sorted(order.tolist()) == sorted(items.tolist())
    assert order.tolist().index(6) < 4
    flat = IntentReranker(categories, config=IntentConfig(gamma=0.0)).rerank(items, scores, context, 8)
    assert flat.tolist() == items.tolist()
    assert reranker.rerank(items, scores, RerankContext(), 3).shape == (3,)  # without a history the catalogue's mix


def test_scores_that_are_no_qualities_are_refused_as_given(categories: ItemCategories) -> None:
    reranker = IntentReranker(categories, config=IntentConfig(scale="given"))
    with pytest.raises(ConfigError, match="minmax"):
        reranker.rerank([0, 1], [-7.0, -9.0], RerankContext(), 2)
    with pytest.raises(ConfigError, match=r"\[0, 1\], got 1.7"):
        reranker.rerank([0, 1], [1.7, 0.2], RerankContext(), 2)
