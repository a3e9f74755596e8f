"""Diversity inside a list and divergence from the history, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmrec.metrics.diversity import intra_list_diversity, miscalibration


def test_golden_diversity_is_the_mean_over_pairs() -> None:
    """Similarities .9, .1 and .2 of three pairs: 1 - 1.2 / 3."""
    similarity = [[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]]
    assert intra_list_diversity(similarity) == pytest.approx(0.6)
    assert math.isnan(intra_list_diversity([[1.0]]))


def test_golden_divergence() -> None:
    """p = (.7, .3), alpha .01. Shown (1, 0): .7 ln(.7 / .997) + .3 ln(.3 / .003); shown (.5, .5): q is (.502, .498)."""
    found = miscalibration([0.7, 0.3], [[1.0, 0.0], [0.5, 0.5], [0.7, 0.3]])
    np.testing.assert_allclose(found, [1.13398, 0.08069, 0.0], atol=1e-5)


def test_what_the_history_lacks_costs_only_through_the_rest() -> None:
    assert miscalibration([1.0, 0.0], [1.0, 0.0]) == pytest.approx(0.0)
    assert miscalibration([1.0, 0.0], [0.5, 0.5], mixing=0.5) == pytest.approx(math.log(1 / 0.75))
