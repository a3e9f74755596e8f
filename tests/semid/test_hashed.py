"""Codes that nothing was learned for: what they say of their items, and what they may not."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.errors import ConfigError, DataError
from llmrec.seeding import rng
from llmrec.semid.base import Quantiser
from llmrec.semid.hashed import LshConfig, RandomConfig, fit_hashed
from llmrec.semid.quantiser import quantise, quantiser_config, restore
from llmrec.semid.report import purity, variance_left


@pytest.fixture(scope="module")
def mixture() -> tuple[np.ndarray, np.ndarray]:
    """Ten clusters of 40 items: (vectors, cluster of each)."""
    draws = rng(0, "mixture")
    labels = np.repeat(np.arange(10), 40)
    vectors = 2 * draws.normal(size=(10, 12))[labels] + draws.normal(size=(400, 12))
    return vectors.astype(np.float32), labels


def test_golden_sides_of_hyperplanes() -> None:
    """Around the mean (0, 0): the sign of each coordinate is a bit, so four quadrants are four codes."""
    points = np.array([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]]) + 7
    fitted = fit_hashed(points, LshConfig(levels=(4,)), seed=0).quantiser
    planes = {"mean": np.array([7.0, 7.0], np.float32), "planes_0": np.eye(2, dtype=np.float32)}
    by_axes = restore(fitted.spec(), {**fitted.arrays(), **planes})
    assert by_axes.encode(points.astype(np.float32))[:, 0].tolist() == [3, 1, 2, 0]


def test_purity_rises_from_random_over_hyperplanes_to_clusters(mixture: tuple[np.ndarray, np.ndarray]) -> None:
    """The order of TIGER's comparison; at random the largest of ten kinds has about .17 of 25 items."""
    vectors, labels = mixture
    found = {
        kind: purity(quantise(vectors, quantiser_config(kind, levels=(16, 16)), seed=0).codes[:, 0], labels)
        for kind in ("random", "lsh", "kmeans")
    }
    assert found["random"] < 0.3
    assert found["random"] + 0.1 < found["lsh"] < found["kmeans"] - 0.1, found


@pytest.mark.parametrize("kind", ["random", "lsh"])
def test_they_are_quantisers_like_the_others(kind: str, mixture: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, config = mixture[0], quantiser_config(kind, levels=(8, 16))
    one, same, other = (quantise(vectors, config, seed=seed) for seed in (0, 0, 1))
    assert isinstance(one.quantiser, Quantiser)
    assert np.array_equal(one.codes, same.codes)
    assert not np.array_equal(one.codes, other.codes)
    assert (one.codes.max(axis=0) < (8, 16)).all()
    again = restore(one.quantiser.spec(), one.quantiser.arrays())
    assert np.array_equal(again.encode(vectors), one.codes)
    assert np.array_equal(again.encode(vectors[7:8]), one.codes[7:8])
    left = variance_left(one.quantiser, vectors, one.codes)
    assert 1 > left[0] > left[1] > 0
    assert np.allclose(again.decode(one.codes[:5]), one.quantiser.decode(one.codes[:5]))
    with pytest.raises(DataError, match="1 to 2 columns"):
        again.decode(np.zeros((1, 3), dtype=np.int64))


def test_random_codes_are_even_and_say_nothing(mixture: tuple[np.ndarray, np.ndarray]) -> None:
    vectors = np.concatenate([mixture[0], mixture[0] + 1e-3])
    codes = fit_hashed(vectors, RandomConfig(levels=(8,)), seed=0).codes[:, 0]
    counts = np.bincount(codes, minlength=8)
    assert ((counts - 100) ** 2 / 100).sum() < 24.3  # chi-square of 7 degrees of freedom, one in a thousand
    assert np.mean(codes[:400] == codes[400:]) < 0.25  # nearly equal vectors agree by chance alone


def test_settings_that_cannot_work_are_refused(mixture: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ConfigError, match="powers of two, got 100; use 64"):
        quantiser_config("lsh", levels=(100, 64))
    with pytest.raises(ConfigError, match="a level of 512 codes"):
        fit_hashed(mixture[0], LshConfig(levels=(512,)))
    with pytest.raises(ConfigError, match="only the quantiser 'rqvae'"):
        quantise(mixture[0], RandomConfig(levels=(4,)), collaborative=mixture[0])
