"""Residual k-means, plain and balanced: recovered clusters, even use, errors."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.errors import ConfigError, DataError, ModelError
from llmrec.seeding import rng
from llmrec.semid.balanced import BalancedConfig, fit_balanced
from llmrec.semid.base import Quantiser, default_levels
from llmrec.semid.kmeans import KmeansConfig, fit_kmeans
from llmrec.semid.quantiser import check_usage, quantise, quantiser_config, restore, usage
from llmrec.semid.report import code_entropy, variance_left


@pytest.fixture(scope="module")
def mixture() -> tuple[np.ndarray, np.ndarray]:
    """Sixteen clusters of 40 items, far apart: (vectors, cluster of each)."""
    draws = rng(0, "mixture")
    labels = np.repeat(np.arange(16), 40)
    vectors = 5 * draws.normal(size=(16, 12))[labels] + 0.3 * draws.normal(size=(640, 12))
    return vectors.astype(np.float32), labels


@pytest.mark.parametrize("kind", ["kmeans", "balanced"])
def test_the_first_level_finds_planted_clusters(kind: str, mixture: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, labels = mixture
    codes = quantise(vectors, quantiser_config(kind, levels=(16, 8), normalise=False), seed=0).codes
    pairs = {(int(label), int(code)) for label, code in zip(labels, codes[:, 0], strict=True)}
    assert len(pairs) <= 18  # 16 were it perfect; k-means may split one cluster and join two


@pytest.mark.parametrize("kind", ["kmeans", "balanced"])
def test_variance_left_falls_with_every_level(kind: str, mixture: tuple[np.ndarray, np.ndarray]) -> None:
    vectors = mixture[0]
    result = quantise(vectors, quantiser_config(kind, levels=(16, 16, 16)), seed=0)
    left = variance_left(result.quantiser, vectors, result.codes)
    assert 1 > left[0] > left[1] > left[2] > 0


@pytest.mark.parametrize("n", [640, 101])
def test_balanced_sizes_are_equal_up_to_one(n: int) -> None:
    vectors = rng(1, n).normal(size=(n, 6)) ** 3  # skewed, so that plain clusters are uneven
    codes = fit_balanced(vectors, BalancedConfig(levels=(8, 16)), seed=0).codes
    for level, size in enumerate((8, 16)):
        counts = np.bincount(codes[:, level], minlength=size)
        assert set(counts.tolist()) <= {n // size, -(-n // size)}
        assert counts[: n % size].tolist() == [n // size + 1] * (n % size)  # the first take one more
    plain = fit_kmeans(vectors, KmeansConfig(levels=(8, 16)), seed=0).codes
    assert np.ptp(np.bincount(plain[:, 0])) > 1  # the property is not for free


def test_balanced_golden_on_a_line() -> None:
    """Two codes for 0, 1, 2, 10: the far item pulls no third one along without a quota, with it the halves are even.

    Whichever centre starts where, cluster 0 takes two of the four; stable are {0, 1} and {2, 10} or the reverse.
    """
    points = np.array([[0.0], [1.0], [2.0], [10.0]])
    codes = fit_balanced(points, BalancedConfig(levels=(2,), normalise=False), seed=0).codes[:, 0]
    assert codes[0] == codes[1]
    assert codes[2] == codes[3]
    plain = fit_kmeans(points, KmeansConfig(levels=(2,), normalise=False), seed=0).codes[:, 0]
    assert plain[0] == plain[1] == plain[2] != plain[3]


def test_residual_codes_golden() -> None:
    """Centres 0 and 10 with halves at -1 and +1: level 0 says which centre, level 1 which side, and nothing is left."""
    points = np.array([[-1.0], [1.0], [9.0], [11.0]])
    result = fit_kmeans(points, KmeansConfig(levels=(2, 2), normalise=False), seed=0)
    assert sorted(result.quantiser.codebooks[0][:, 0].tolist()) == pytest.approx([0, 10])
    assert sorted(result.quantiser.codebooks[1][:, 0].tolist()) == pytest.approx([-1, 1])
    assert result.quantiser.decode(result.codes) == pytest.approx(points)
    assert len(np.unique(result.codes, axis=0)) == 4


def test_normalised_residuals_use_codes_more_evenly() -> None:
    """Within clusters most residuals are short and a few long: plain k-means spends its codes on those few."""
    draws = rng(2)
    noise = draws.normal(size=(600, 32)) * draws.pareto(1.2, size=(600, 1))
    vectors = 50 * draws.normal(size=(8, 32))[draws.integers(0, 8, size=600)] + noise
    plain, even = (
        code_entropy(fit_kmeans(vectors, KmeansConfig(levels=(8, 16), normalise=on), seed=0).codes[:, 1])
        for on in (False, True)
    )
    assert even > plain + 0.3


@pytest.mark.parametrize("kind", ["kmeans", "balanced"])
@pytest.mark.parametrize("normalise", [True, False])
def test_equal_seeds_give_equal_codes_and_files_restore(kind: str, normalise: bool) -> None:
    vectors = rng(4).normal(size=(300, 10)).astype(np.float32)
    config = quantiser_config(kind, levels=(8, 8), normalise=normalise)
    one, two = quantise(vectors, config, seed=3), quantise(vectors, config, seed=3)
    assert (one.codes == two.codes).all()
    assert (one.codes != quantise(vectors, config, seed=4).codes).any()
    assert isinstance(one.quantiser, Quantiser)
    again = restore(one.quantiser.spec(), one.quantiser.arrays())
    assert (again.encode(vectors) == one.quantiser.encode(vectors)).all()
    assert (again.decode(one.codes) == one.quantiser.decode(one.codes)).all()
    if kind == "kmeans":
        assert (one.quantiser.encode(vectors) == one.codes).all()
        assert (one.quantiser.encode(vectors[5:6]) == one.codes[5:6]).all()  # alone as in a batch


def test_a_large_catalogue_is_fitted_on_a_sample() -> None:
    vectors = rng(6).normal(size=(500, 4))
    result = fit_kmeans(vectors, KmeansConfig(levels=(4,), max_points=50), seed=0)
    assert result.codes.shape == (500, 1)
    assert usage(result.codes, (4,)) == [1.0]


def test_duplicates_share_every_code() -> None:
    vectors = np.repeat(rng(7).normal(size=(40, 6)), 3, axis=0)
    codes = fit_kmeans(vectors, KmeansConfig(levels=(8, 8)), seed=0).codes
    assert (codes[0::3] == codes[1::3]).all()
    assert (codes[0::3] == codes[2::3]).all()


def test_settings_that_cannot_work_are_refused() -> None:
    vectors = rng(8).normal(size=(20, 4))
    with pytest.raises(ConfigError, match="256 codes needs at least as many items, got 20; use smaller levels"):
        quantise(vectors, quantiser_config("kmeans"))
    with pytest.raises(ConfigError, match="only 2 different vectors"):
        quantise(np.repeat(vectors[:2], 10, axis=0), quantiser_config("kmeans", levels=(4,)))
    with pytest.raises(ConfigError, match="level 1 has 20 codes, but only 1 different"):
        quantise(vectors, quantiser_config("balanced", levels=(20, 20)))
    with pytest.raises(ConfigError, match="no quantiser is called 'vq'; choose from kmeans, balanced, rqvae"):
        quantiser_config("vq")
    with pytest.raises(ConfigError, match=r"'levels\.1' of the quantiser 'kmeans', got 1"):
        quantiser_config("kmeans", levels=(4, 1))
    with pytest.raises(ConfigError, match="'iteration'"):
        quantiser_config("kmeans", iteration=3)
    with pytest.raises(ConfigError, match="only the quantiser 'rqvae' takes collaborative vectors"):
        quantise(vectors, quantiser_config("kmeans", levels=(4,)), collaborative=vectors)
    vectors[3, 1] = np.nan
    with pytest.raises(DataError, match="in row 3"):
        quantise(vectors, quantiser_config("kmeans", levels=(4,)))
    with pytest.raises(DataError, match=r"shape \(4,\)"):
        quantise(np.zeros(4), quantiser_config("kmeans", levels=(4,)))


def test_low_usage_is_an_error() -> None:
    """Two of four codes in use, wanted 80 %."""
    with pytest.raises(ModelError, match="level 0 uses 2 of 4 codes, wanted 80%"):
        check_usage(np.array([[0], [3], [3]]), (4,), 0.8)
    check_usage(np.array([[0], [3], [3]]), (4,), 0.5)


@pytest.mark.parametrize(("n", "codes"), [(12_101, 256), (3_416, 128), (705, 32), (320, 16), (10, 2)])
def test_default_levels(n: int, codes: int) -> None:
    assert default_levels(n) == (codes, codes, codes)
