"""The RQ-VAE: it reconstructs, uses its codes, says when it collapsed, and its optional terms do what they claim."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from llmrec.errors import ConfigError, DataError, ModelError
from llmrec.seeding import rng
from llmrec.semid.quantiser import quantise, quantiser_config, restore, usage
from llmrec.semid.report import code_entropy, purity, variance_left
from llmrec.semid.rqvae import RqVae, RqVaeConfig
from llmrec.semid.rqvae_losses import (
    alignment_loss,
    category_loss,
    dispersion_loss,
    quantisation_loss,
    soft_codes,
    uniform_loss,
)

SMALL: dict[str, Any] = {"hidden": (32,), "latent": 8, "batch_size": 128, "steps": 150, "reset_every": 25}


def config(**settings: Any) -> RqVaeConfig:
    made = quantiser_config("rqvae", **{**SMALL, "levels": (16, 16), **settings})
    assert isinstance(made, RqVaeConfig)
    return made


@pytest.fixture(scope="module")
def mixture() -> np.ndarray:
    """Clusters with clusters inside, and dimensions of very different spread."""
    draws = rng(0, "rqvae-mixture")
    vectors = 3 * draws.normal(size=(16, 12))[np.repeat(np.arange(16), 32)]
    vectors = vectors + draws.normal(size=(8, 12))[np.tile(np.arange(8), 64)] + 0.2 * draws.normal(size=(512, 12))
    return (vectors * np.geomspace(0.01, 10, 12) + 7).astype(np.float32)


def test_it_uses_its_codes_and_explains_the_vectors(mixture: np.ndarray) -> None:
    result = quantise(mixture, config(), seed=0)
    assert min(usage(result.codes, (16, 16))) >= 0.8
    left = variance_left(result.quantiser, mixture, result.codes)
    assert left[1] < left[0] < 1
    assert left[1] < 0.35
    assert result.facts["loss"] < result.facts["loss_at_first"]


@pytest.mark.parametrize("standardise", ["dimensions", "whole"])
def test_equal_seeds_give_equal_codes_and_files_restore(standardise: str, mixture: np.ndarray) -> None:
    settings = config(standardise=standardise, steps=40, min_usage=0)
    one, two = quantise(mixture, settings, seed=3), quantise(mixture, settings, seed=3)
    assert (one.codes == two.codes).all()
    assert (one.codes != quantise(mixture, settings, seed=4).codes).any()
    again = restore(one.quantiser.spec(), one.quantiser.arrays())
    assert (again.encode(mixture) == one.codes).all()
    assert (again.decode(one.codes) == one.quantiser.decode(one.codes)).all()
    assert [book.shape for book in again.codebooks] == [(16, 8), (16, 8)]
    with pytest.raises(ConfigError, match="do not fit its settings"):
        restore({**one.quantiser.spec(), "latent": 9}, one.quantiser.arrays())
    with pytest.raises(DataError, match="1 to 2 columns"):
        again.decode(np.zeros((2, 3), dtype=np.int64))


def test_training_leaves_the_global_generator_alone(mixture: np.ndarray) -> None:
    before = torch.get_rng_state()
    quantise(mixture, config(steps=2, min_usage=0), seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_collapse_is_an_error_and_moving_dead_codes_prevents_it(mixture: np.ndarray) -> None:
    """A decay of the layers that drives all latents together, without and with the search for dead codes."""
    settings = {"levels": (64, 64), "learning_rate": 0.03, "commitment": 5.0, "steps": 150}
    with pytest.raises(ModelError, match="the quantiser collapsed: level 0 uses"):
        quantise(mixture, config(**settings, reset_every=0), seed=0)
    accepted = quantise(mixture, config(**settings, reset_every=0, min_usage=0), seed=0)
    moved = quantise(mixture, config(**settings, reset_every=10, min_usage=0), seed=0)
    assert moved.facts["codes_moved"] > 0
    assert sum(usage(moved.codes, (64, 64))) > sum(usage(accepted.codes, (64, 64)))


def test_divergence_is_an_error(mixture: np.ndarray) -> None:
    with pytest.raises(ModelError, match="diverged at step"):
        quantise(mixture, config(learning_rate=1e30, min_usage=0), seed=0)


def test_quantising_golden() -> None:
    """Codes 0 and 3 per level on a line: 2.6 is nearest to 3, what is left, -0.4, to 0. Sum 3, residuals 2.6 and -0.4.

    Loss with commitment 0.25: (2.6 - 3)^2 * 1.25 + (-0.4 - 0)^2 * 1.25 = 0.4.
    """
    network = RqVae(dimensions=1, levels=(2, 2), hidden=(), latent=1)
    with torch.no_grad():
        for book in network.codebooks:
            book.copy_(torch.tensor([[0.0], [3.0]]))
    result = network.quantise(torch.tensor([[2.6]]))
    assert result.codes.tolist() == [[1, 0]]
    assert [round(float(residual), 6) for residual in result.residuals] == [2.6, -0.4]
    assert result.total.tolist() == [[3.0]]
    chosen = [book[code] for book, code in zip(network.codebooks, result.codes.T, strict=True)]
    assert float(quantisation_loss(result.residuals, chosen, 0.25).detach()) == pytest.approx(0.4)


def test_loss_terms_golden() -> None:
    """Even use costs 0 and one code log K; equal cosines make InfoNCE log n; agreement of 2 among 3 others' sum.

    HCC with p = e1, e1, e2, labels 0, 0, 1: items 0 and 1 agree with each other alone, so -log(1 / 1) = 0. With labels
    0, 1, 0: item 0 agrees with item 1 (another label) and not with item 2: -log(0 / 1), floored at 1e-9; item 2 agrees
    with nobody: -log(1e-9 / 1e-9) = 0; item 1 has no partner. Mean of 20.72 and 0 is 10.36.
    """
    assert float(uniform_loss(torch.full((4, 8), 1 / 8))) == pytest.approx(0, abs=1e-6)
    assert float(uniform_loss(torch.eye(8)[[0, 0, 0]])) == pytest.approx(math.log(8), abs=1e-6)
    assert float(alignment_loss(torch.ones(5, 3), torch.ones(5, 3), 0.1)) == pytest.approx(math.log(5))
    assert float(alignment_loss(10 * torch.eye(3), torch.eye(3), 0.01)) == pytest.approx(0, abs=1e-6)
    zero_rows = torch.tensor([[1.0, 0], [0, 1.0], [0, 0]])
    assert float(alignment_loss(torch.eye(3)[:, :2] + 0.1, zero_rows, 1.0)) == pytest.approx(
        float(alignment_loss(torch.eye(3)[:2, :2] + 0.1, zero_rows[:2], 1.0))
    )
    soft = torch.eye(4)[[0, 0, 1]]
    assert float(category_loss(soft, torch.tensor([0, 0, 1]))) == pytest.approx(0, abs=1e-6)
    assert float(category_loss(soft, torch.tensor([0, 1, 0]))) == pytest.approx(-math.log(1e-9) / 2, rel=1e-4)
    assert float(category_loss(soft, torch.tensor([-1, -1, -1]))) == 0
    assert float(dispersion_loss(torch.tensor([[1.0, 0], [2.0, 0], [0, 5.0]]), 1.0)) == pytest.approx((math.e + 2) / 3)


def test_even_use_has_a_gradient() -> None:
    """From soft codes: a count of hard codes would have none."""
    book, residual = torch.randn(4, 2, requires_grad=True), torch.randn(9, 2, requires_grad=True)
    uniform_loss(soft_codes(residual, book, 1.0)).backward()  # type: ignore[no-untyped-call]
    assert book.grad is not None
    assert residual.grad is not None
    assert float(book.grad.abs().sum()) > 0
    assert float(residual.grad.abs().sum()) > 0


def planted(seed: int, n_faint: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    """Vectors that show one grouping loudly and another one faintly: (generator, vectors, loud, faint)."""
    draws = rng(seed)
    loud, faint = draws.integers(0, 8, size=400), draws.integers(0, n_faint, size=400)
    centres = 1.5 * draws.normal(size=(8, 10))[loud] + draws.normal(size=(n_faint, 10))[faint]
    return draws, centres + 0.1 * draws.normal(size=(400, 10)), loud, faint


def test_alignment_brings_collaborative_structure_into_the_codes() -> None:
    """Users follow the grouping that text shows faintly."""
    draws, text, _, faint = planted(5, 8)
    users = draws.normal(size=(8, 6))[faint] + 0.1 * draws.normal(size=(400, 6))
    settings = {"levels": (8, 8), "batch_size": 100, "min_usage": 0}
    plain = quantise(text, config(**settings), seed=0)
    aligned = quantise(text, config(**settings, alignment=3.0), seed=0, collaborative=users)
    assert purity(aligned.codes[:, 0], faint) > purity(plain.codes[:, 0], faint) + 0.08
    assert all(len(np.unique(aligned.codes[:, level])) >= 0.8 * 8 for level in range(2))  # alignment costs no codes


def test_categories_shape_the_codes_and_even_use_keeps_entropy() -> None:
    """The verify list of CAT-ID2: purity rises with the weight, and with both terms the entropy does not fall."""
    _, text, loud, category = planted(6, 6)
    labels = np.stack([category, category * 8 + loud], axis=1)
    settings = {"levels": (8, 8), "batch_size": 100, "min_usage": 0}
    plain = quantise(text, config(**settings), seed=0)
    shaped = quantise(text, config(**settings, category=20.0, uniform=20.0), seed=0, categories=labels)
    assert purity(shaped.codes[:, 0], category) > purity(plain.codes[:, 0], category) + 0.2
    assert code_entropy(shaped.codes[:, 0]) >= code_entropy(plain.codes[:, 0])


def test_data_and_weights_go_together(mixture: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"alignment above 0 go together, got alignment 0\.0 and vectors"):
        quantise(mixture, config(), collaborative=mixture)
    with pytest.raises(ConfigError, match=r"got alignment 0\.5 and no vectors"):
        quantise(mixture, config(alignment=0.5))
    with pytest.raises(ConfigError, match=r"got category 1\.0 and no labels"):
        quantise(mixture, config(category=1.0))
    with pytest.raises(DataError, match="one row per item"):
        quantise(mixture, config(alignment=0.5), collaborative=mixture[:5])
    with pytest.raises(DataError, match=r"shape \(512, 2\)"):
        quantise(mixture, config(category=1.0), categories=np.zeros((512, 3), dtype=np.int64))
    with pytest.raises(ConfigError, match="use smaller levels"):
        quantise(mixture[:10], config())
    with pytest.raises(DataError, match="all item vectors are equal"):
        quantise(np.ones((40, 3)), config())
