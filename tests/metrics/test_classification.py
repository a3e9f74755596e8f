"""Click decisions: hand-computed values, scikit-learn, failures."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from llmrec.errors import ConfigError
from llmrec.metrics.classification import area_under_roc, click_metrics

LABELS = np.array([1, 1, 0, 0])


def test_golden_values() -> None:
    """p = .9, .4, .6, .2: decisions 1, 0, 1, 0, 2 of 4 right. Of 4 pairs (.9,.6), (.9,.2), (.4,.2) are won: AUC .75."""
    metrics = click_metrics(LABELS, [0.9, 0.4, 0.6, 0.2], seed=0)
    assert metrics.accuracy.value == 0.5
    assert metrics.auc.value == 0.75
    assert metrics.log_loss.value == pytest.approx(-(log(0.9) + log(0.4) + log(0.4) + log(0.8)) / 4)
    assert metrics.always_click.value == metrics.never_click.value == 0.5
    assert metrics.over_always.value == metrics.over_never.value == 0.0
    assert metrics.base_rate_log_loss.value == pytest.approx(log(2))


def test_golden_failed_decisions_count_as_wrong() -> None:
    """A nan for a positive reads as "surely not", for a negative as "surely yes"."""
    metrics = click_metrics(LABELS, [0.9, np.nan, 0.1, np.nan], seed=0)
    assert metrics.failed == 2
    assert metrics.accuracy.value == 0.5
    assert metrics.auc.value == 0.25  # won: (.9, .1) alone; lost: (.9, 1), (0, .1), (0, 1)


def test_a_perfect_predictor_beats_both_constants() -> None:
    labels = np.tile([1, 0], 100)
    metrics = click_metrics(labels, np.where(labels == 1, 0.8, 0.3), seed=0)
    assert metrics.accuracy.value == metrics.auc.value == 1.0
    assert metrics.over_always.low > 0.4
    assert metrics.over_never.low > 0.4


def test_json_has_plain_intervals() -> None:
    plain = click_metrics(LABELS, [0.9, 0.4, 0.6, 0.2], seed=0).to_json()
    assert plain["n"] == 4
    assert set(plain["accuracy"]) == {"value", "low", "high"}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(4, 60))
def test_agrees_with_scikit_learn(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.r_[1, 0, generator.integers(0, 2, n - 2)]
    probabilities = np.round(generator.random(n), 1).clip(0.05, 0.95)  # rounded, so that ties occur
    metrics = click_metrics(labels, probabilities, seed=0, n_resamples=10)
    assert metrics.auc.value == pytest.approx(roc_auc_score(labels, probabilities))
    assert metrics.log_loss.value == pytest.approx(log_loss(labels, probabilities))
    assert metrics.accuracy.value == pytest.approx(accuracy_score(labels, probabilities >= 0.5))


def test_weighted_area_equals_the_area_of_repeated_cases() -> None:
    labels, scores = np.array([True, False, True, False]), np.array([0.3, 0.3, 0.7, 0.5])
    weights = np.array([[2.0, 1.0, 0.0, 3.0]])
    repeated = np.repeat(np.arange(4), [2, 1, 0, 3])
    assert area_under_roc(labels, scores, weights) == pytest.approx(roc_auc_score(labels[repeated], scores[repeated]))


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [([1, 0], [0.5], "one shape"), ([1, 0], [0.5, 1.5], r"in \[0, 1\]"), ([1, 1], [0.5, 0.5], "both classes")],
)
def test_unusable_input_is_an_error(labels: list[int], probabilities: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        click_metrics(labels, probabilities, seed=0)
