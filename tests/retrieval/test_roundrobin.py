"""Quasi-round-robin ranking: hand-made matrices and the properties that the method promises."""

from __future__ import annotations

from collections.abc import Callable
from math import exp

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.errors import ConfigError
from llmrec.retrieval.roundrobin import round_robin, unique_completions

FloatArray = npt.NDArray[np.float64]

# Three completions, five items. Best matches: a -> item 2, b -> item 0, c -> item 4.
MATRIX = {
    "a": [1.0, 0.0, 8.0, 4.0, 0.0],
    "b": [6.0, 3.0, 0.0, 0.0, 0.0],
    "c": [0.0, 1.0, 0.0, 0.0, 2.0],
}
COMPLETIONS = [("c", -9.0), ("a", -2.0), ("b", -5.0)]


def scores_of(matrix: dict[str, list[float]]) -> Callable[[str], FloatArray]:
    return lambda text: np.array(matrix[text])


def order(scores: FloatArray) -> list[int]:
    return [int(item) for item in np.argsort(-scores, kind="stable")]


def test_golden_order_of_a_hand_made_matrix() -> None:
    """Scaled rows: a = (1/8, 0, 1, 1/2, 0), b = (1, 1/2, 0, 0, 0), c = (0, 1/2, 0, 0, 1).

    Heads in log-probability order: item 2 (a, -2), 0 (b, -5), 4 (c, -9). Then the halves: item 3 through a
    (.5 e^(-2/5000)) before item 1, whose best is b's (.5 e^(-5/5000)).
    """
    scores = round_robin(COMPLETIONS, scores_of(MATRIX), 5)
    assert order(scores) == [2, 0, 4, 3, 1]
    expected = [exp(-5 / 5000), exp(-5 / 5000) / 2, exp(-2 / 5000), exp(-2 / 5000) / 2, exp(-9 / 5000)]
    assert scores == pytest.approx(expected, rel=1e-12)


def test_golden_epsilon_one_changes_the_order() -> None:
    """With epsilon 1 the weights are e^-2 = .135, e^-5 = .0067, e^-9 = .0001: everything of a comes first."""
    scores = round_robin(COMPLETIONS, scores_of(MATRIX), 5, epsilon=1.0)
    assert order(scores) == [2, 3, 0, 1, 4]
    assert order(scores) != order(round_robin(COMPLETIONS, scores_of(MATRIX), 5))


def test_golden_factor_range() -> None:
    """Log-probabilities from -2 to -60 give factors from .9996 to .9881."""
    matrix = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    assert round_robin([("a", -2.0), ("b", -60.0)], scores_of(matrix), 2) == pytest.approx([0.9996, 0.9881], abs=5e-5)


def test_golden_duplicates_change_nothing() -> None:
    once = round_robin(COMPLETIONS, scores_of(MATRIX), 5)
    repeated = [*COMPLETIONS, ("a", -2.0), ("c", -30.0), ("b", -5.0)]
    assert np.array_equal(round_robin(repeated, scores_of(MATRIX), 5), once)


def test_duplicates_count_with_their_best_log_probability() -> None:
    assert unique_completions([("x", -9.0), ("y", -5.0), ("x", -2.0)]) == [("x", -2.0), ("y", -5.0)]


def test_golden_flat_rows_are_skipped() -> None:
    """A completion that shares no term with the catalogue has equal scores everywhere and must not divide by zero."""
    matrix = {**MATRIX, "flat": [0.0] * 5, "flat too": [3.0] * 5}
    with_flat = [("flat", -0.1), *COMPLETIONS, ("flat too", -0.2)]
    assert np.array_equal(round_robin(with_flat, scores_of(matrix), 5), round_robin(COMPLETIONS, scores_of(MATRIX), 5))
    assert round_robin([("flat", -1.0)], scores_of(matrix), 5).tolist() == [0.0] * 5
    assert round_robin([], scores_of(matrix), 5).tolist() == [0.0] * 5


def test_golden_ties_go_to_the_completion_reached_first_then_to_the_item() -> None:
    """Equal log-probabilities: "late" has item 0, "early" items 1 and 2, all with score e^(-4/5000)."""
    matrix = {"early": [0.0, 5.0, 5.0, 0.0], "late": [7.0, 0.0, 0.0, 0.0]}
    scores = round_robin([("early", -4.0), ("late", -4.0)], scores_of(matrix), 4)
    assert order(scores) == [1, 2, 0, 3]
    assert scores == pytest.approx([exp(-4 / 5000)] * 3 + [0.0], rel=1e-12)
    assert scores[1] == scores[2]
    assert order(round_robin([("late", -4.0), ("early", -4.0)], scores_of(matrix), 4)) == [0, 1, 2, 3]


def test_separating_ties_does_not_jump_over_the_next_score() -> None:
    """The nudged item must stay above an item that is one float step lower."""
    top = 1.0
    below = float(np.nextafter(top, 0))
    matrix = {"early": [top, 0.0, below, 0.0], "late": [0.0, top, 0.0, 0.0]}
    scores = round_robin([("early", 0.0), ("late", 0.0)], scores_of(matrix), 4)
    assert order(scores)[:2] == [0, 1]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000), n=st.integers(1, 32))
def test_golden_distinct_best_matches_open_the_list_in_log_probability_order(seed: int, n: int) -> None:
    """Runners-up at most .9 of the best, log-probabilities above -60: all factors exceed .988, so heads come first."""
    generator = np.random.default_rng(seed)
    n_items = 200
    heads = generator.permutation(n_items)[:n]
    rows = generator.random((n, n_items)) * 0.9
    rows[:, 0] = 0.0
    heads[heads == 0] = generator.permutation(np.setdiff1d(np.arange(1, n_items), heads))[0]
    rows[np.arange(n), heads] = 1.0
    logprobs = -2 - 58 * generator.permutation(n) / max(1, n)
    matrix = {f"text {k}": (rows[k] * 7.5).tolist() for k in range(n)}
    completions = [(f"text {k}", float(logprobs[k])) for k in generator.permutation(n)]
    ranked = order(round_robin(completions, scores_of(matrix), n_items))
    assert ranked[:n] == heads[np.argsort(-logprobs)].tolist()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_equals_the_formula_and_ignores_the_order_of_completions(seed: int) -> None:
    """Against a plain loop over completions and items."""
    generator = np.random.default_rng(seed)
    matrix = {f"t{k}": np.round(generator.random(12) * 3, 1).tolist() for k in range(5)}
    logprobs = -1.0 - 1.3 * generator.permutation(40)[:5]  # distinct: equal ones keep the order of appearance
    completions = list(zip(matrix, logprobs.tolist(), strict=True))
    expected = np.zeros(12)
    for text, logprob in completions:
        row = np.array(matrix[text])
        if row.max() > row.min():
            expected = np.maximum(expected, exp(logprob / 5000) * (row - row.min()) / (row.max() - row.min()))
    scores = round_robin(completions, scores_of(matrix), 12)
    assert scores == pytest.approx(expected, rel=1e-12)
    assert np.array_equal(round_robin(completions[::-1], scores_of(matrix), 12), scores)


def test_a_missing_log_probability_is_an_error() -> None:
    with pytest.raises(ConfigError, match="log-probability"):
        round_robin([("a", float("nan"))], scores_of(MATRIX), 5)
