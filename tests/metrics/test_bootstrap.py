"""Bootstrap intervals: determinism, agreement with theory, pairing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.errors import ConfigError
from llmrec.metrics.bootstrap import bootstrap_mean, bootstrap_means, paired_difference, resample_counts


def test_golden_width_for_a_proportion() -> None:
    """100 hits among 1,000: standard error sqrt(.1 * .9 / 1000) = .00949; .1 -/+ 1.96 * .00949 = .0814 .. .1186."""
    values = np.repeat([1.0, 0.0], [100, 900])
    interval = bootstrap_mean(values, seed=1, n_resamples=4000)
    assert interval.value == pytest.approx(0.1)
    assert interval.low == pytest.approx(0.0814, abs=0.0025)
    assert interval.high == pytest.approx(0.1186, abs=0.0025)


def test_golden_constant_sample_has_no_width() -> None:
    assert bootstrap_mean(np.full(10, 0.25), seed=0) == pytest.approx((0.25, 0.25, 0.25))


def test_same_seed_same_interval_other_seed_other_interval() -> None:
    values = np.arange(50.0)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_columns_share_resamples_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((40, 2))
    together = bootstrap_means(values, seed=5, n_resamples=100)
    assert together[0] == pytest.approx(bootstrap_mean(values[:, 0], seed=5, n_resamples=100))
    monkeypatch.setattr("llmrec.metrics.bootstrap._CELLS_PER_CHUNK", 40 * 7)
    assert np.allclose(bootstrap_means(values, seed=5, n_resamples=100), together)


def test_resamples_draw_every_user_n_times_in_all() -> None:
    counts = resample_counts(30, seed=2, n_resamples=200)
    assert counts.shape == (200, 30)
    assert (counts.sum(axis=1) == 30).all()
    assert counts.mean() == pytest.approx(1.0)


def test_pairing_removes_the_variation_between_users() -> None:
    """b is a plus .1 for everybody: the paired interval has no width, although a itself varies widely."""
    a = np.random.default_rng(1).random(200)
    difference = paired_difference(a + 0.1, a, seed=0)
    assert difference == pytest.approx((0.1, 0.1, 0.1))
    assert bootstrap_mean(a, seed=0).high - bootstrap_mean(a, seed=0).low > 0.05


def test_nobody_or_different_users_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least one user"):
        bootstrap_mean([], seed=0)
    with pytest.raises(ConfigError, match="same users"):
        paired_difference([1.0], [1.0, 2.0], seed=0)
    with pytest.raises(ConfigError, match="level"):
        bootstrap_mean([1.0], seed=0, level=1.0)


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_bounds_lie_inside_the_data_and_around_a_central_value(values: list[float], seed: int) -> None:
    interval = bootstrap_mean(values, seed=seed, n_resamples=200)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval.value == pytest.approx(float(np.mean(values)), abs=1e-9)


def test_coverage_of_the_interval_is_near_its_level() -> None:
    """Of 300 samples of 80 users with true rate .3, about 95 % of the intervals contain .3 (binomial sd 1.3 %)."""
    generator = np.random.default_rng(7)
    hits = 0
    for trial in range(300):
        interval = bootstrap_mean(generator.random(80) < 0.3, seed=trial, n_resamples=300)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.90 <= hits / 300 <= 0.985
