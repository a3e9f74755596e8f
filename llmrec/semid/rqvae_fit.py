"""Trains an RQ-VAE on item vectors; settings and network stand in `llmrec.semid.rqvae`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from llmrec.errors import ConfigError, DataError, ModelError
from llmrec.seeding import derive
from llmrec.semid.base import Quantised, Vectors, check_levels, check_vectors
from llmrec.semid.kmeans import cluster
from llmrec.semid.rqvae import RqVae, RqVaeConfig, RqVaeQuantiser
from llmrec.semid.rqvae_losses import (
    alignment_loss,
    category_loss,
    dispersion_loss,
    quantisation_loss,
    soft_codes,
    uniform_loss,
)

_INIT_POINTS = 20_000  # latents from which the codebooks start
_DISPERSION_ITEMS = 256  # of a batch; pairs grow with the square
_DISPERSION_TEMPERATURE = 1.0


@dataclass(frozen=True)
class _Inputs:
    """What a batch is drawn from."""

    vectors: Tensor  # (n, d), standardised
    collaborative: Tensor | None  # (n, d2)
    categories: Tensor | None  # (n, levels)


def fit_rqvae(
    vectors: npt.NDArray[Any],
    config: RqVaeConfig,
    *,
    seed: int = 0,
    collaborative: npt.NDArray[Any] | None = None,
    categories: npt.NDArray[np.int64] | None = None,
) -> Quantised:
    """Train an RQ-VAE.

    Args:
        vectors: shape (n, d).
        config: settings.
        seed: of weights, order and codes that are moved.
        collaborative: shape (n, d2), rows of zeros for items without any; needed where ``alignment`` is above 0.
        categories: label per item and level, shape (n, levels), -1 for none; needed where ``category`` is above 0.

    Raises:
        ConfigError: more codes than items, or a weight without the data it needs, or data without its weight.
        DataError: an array is not finite or does not fit the vectors.
        ModelError: the training diverged.
    """
    matrix = check_vectors(vectors)
    check_levels(config.levels, len(matrix))
    mean, scale = _statistics(matrix, config)
    inputs = _Inputs(
        torch.from_numpy((matrix - mean) / scale),
        _collaborative(collaborative, config, len(matrix)),
        _categories(categories, config, len(matrix)),
    )
    training = _Training(config, inputs, seed)
    curve = training.run()
    quantiser = RqVaeQuantiser(config, training.network, mean, scale)
    epoch = -(-len(matrix) // config.batch_size)
    facts = {"codes_moved": training.moved, "loss": float(np.mean(curve[-epoch:])), "loss_at_first": curve[0]}
    return Quantised(quantiser.encode(matrix), quantiser, facts)


class _Training:
    def __init__(self, config: RqVaeConfig, inputs: _Inputs, seed: int) -> None:
        self.config, self.inputs = config, inputs
        self.draws = torch.Generator().manual_seed(derive(seed, "rqvae-order"))
        self.moved = 0
        n_dimensions = inputs.vectors.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "rqvae-weights"))
            self.network = RqVae(
                dimensions=n_dimensions, levels=config.levels, hidden=config.hidden, latent=config.latent
            )
            self.projection = (
                None
                if inputs.collaborative is None
                else nn.Linear(inputs.collaborative.shape[1], config.latent, bias=False)
            )
        self._start_codebooks(seed)
        layers = [*self.network.encoder.parameters(), *self.network.decoder.parameters()]
        if self.projection is not None:
            layers += list(self.projection.parameters())
        groups = [
            {"params": layers, "weight_decay": config.weight_decay},
            {"params": list(self.network.codebooks.parameters()), "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)

    @torch.no_grad()
    def _start_codebooks(self, seed: int) -> None:
        """Residual k-means over the untrained latents; a level without enough different ones starts among them."""
        rows = torch.randperm(len(self.inputs.vectors), generator=self.draws)[:_INIT_POINTS]
        residual = self.network.encoder(self.inputs.vectors[rows])
        for level, book in enumerate(self.network.codebooks):
            if len(torch.unique(residual, dim=0)) > len(book):
                centres = cluster(residual.numpy(), len(book), iterations=30, seed=derive(seed, "rqvae-start", level))
                book.copy_(torch.from_numpy(centres))
            else:
                book.copy_(residual[torch.randint(len(residual), (len(book),), generator=self.draws)])
            residual = residual - book[torch.cdist(residual, book).argmin(dim=1)]

    def run(self) -> list[float]:
        """Loss of every step.

        Raises:
            ModelError: a loss is not finite.
        """
        curve: list[float] = []
        last_reset = self.config.steps - max(1, self.config.steps // 10)
        for step, rows in enumerate(self._batches(), start=1):
            loss = self._loss(rows)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            curve.append(float(loss.detach()))
            if not np.isfinite(curve[-1]):
                raise ModelError(
                    f"the RQ-VAE diverged at step {step} (loss {curve[-1]!r}); use a lower learning_rate than "
                    f"{self.config.learning_rate!r}"
                )
            if self.config.reset_every and step % self.config.reset_every == 0 and step <= last_reset:
                self._move_dead_codes()
        return curve

    def _batches(self) -> Iterator[Tensor]:
        """Rows of each step: every item once before any comes again."""
        done = 0
        while True:
            order = torch.randperm(len(self.inputs.vectors), generator=self.draws)
            for rows in torch.split(order, self.config.batch_size):
                if done == self.config.steps:
                    return
                yield rows
                done += 1

    def _loss(self, rows: Tensor) -> Tensor:
        config, network = self.config, self.network
        vectors = self.inputs.vectors[rows]
        latents = network.encoder(vectors)
        result = network.quantise(latents)
        through = latents + (result.total - latents).detach()  # straight through
        decoded = network.decoder(through)
        chosen = [book[code] for book, code in zip(network.codebooks, result.codes.T, strict=True)]
        loss = functional.mse_loss(decoded, vectors) * vectors.shape[1]
        loss = loss + quantisation_loss(result.residuals, chosen, config.commitment)
        if self.projection is not None and self.inputs.collaborative is not None:
            target = self.projection(self.inputs.collaborative[rows])
            loss = loss + config.alignment * alignment_loss(through, target, config.alignment_temperature)
        if config.category or config.uniform:
            loss = loss + self._category_terms(rows, result.residuals)
        if config.dispersion:
            loss = loss + config.dispersion * dispersion_loss(decoded[:_DISPERSION_ITEMS], _DISPERSION_TEMPERATURE)
        return loss

    def _category_terms(self, rows: Tensor, residuals: list[Tensor]) -> Tensor:
        config, total = self.config, residuals[0].new_zeros(())
        for level, (residual, book) in enumerate(zip(residuals, self.network.codebooks, strict=True)):
            soft = soft_codes(residual, book, config.code_temperature)
            if self.inputs.categories is not None:
                total = total + config.category * category_loss(soft, self.inputs.categories[rows, level])
            total = total + config.uniform * uniform_loss(soft)
        return total

    @torch.no_grad()
    def _move_dead_codes(self) -> None:
        """Put each code that no item has onto the residual of a random item."""
        residual = self.network.encoder(self.inputs.vectors)
        for book in self.network.codebooks:
            codes = torch.cdist(residual, book).argmin(dim=1)
            dead = torch.bincount(codes, minlength=len(book)) == 0
            n_dead = int(dead.sum())
            if n_dead:
                book[dead] = residual[torch.randint(len(residual), (n_dead,), generator=self.draws)]
                state = self.optimizer.state.get(book, {})
                for name in ("exp_avg", "exp_avg_sq"):
                    if name in state:
                        state[name][dead] = 0.0  # the momentum of the old place
                self.moved += n_dead
                codes = torch.cdist(residual, book).argmin(dim=1)
            residual = residual - book[codes]


def _statistics(matrix: Vectors, config: RqVaeConfig) -> tuple[Vectors, Vectors]:
    mean = matrix.mean(axis=0, dtype=np.float64)
    spread = matrix.std(axis=0, dtype=np.float64)
    if config.standardise == "whole":
        spread = np.full_like(spread, float(np.sqrt(np.mean(spread**2))))
    if not spread.any():
        raise DataError("all item vectors are equal, so there is nothing to quantise; use other vectors")
    scale = np.where(spread > 0, spread, 1.0)
    return mean.astype(np.float32), scale.astype(np.float32)


def _collaborative(given: npt.NDArray[Any] | None, config: RqVaeConfig, n: int) -> Tensor | None:
    if (given is None) != (config.alignment == 0):
        raise ConfigError(
            f"collaborative vectors and alignment above 0 go together, got alignment {config.alignment!r} and "
            f"{'no vectors' if given is None else 'vectors'}"
        )
    if given is None:
        return None
    if len(given) != n:
        raise DataError(f"collaborative vectors must have one row per item ({n}), got {len(given)}")
    return torch.from_numpy(check_vectors(given).copy())


def _categories(given: npt.NDArray[np.int64] | None, config: RqVaeConfig, n: int) -> Tensor | None:
    if (given is None) != (config.category == 0):
        raise ConfigError(
            f"category labels and category above 0 go together, got category {config.category!r} and "
            f"{'no labels' if given is None else 'labels'}"
        )
    if given is None:
        return None
    if given.shape != (n, len(config.levels)):
        raise DataError(f"categories must have shape ({n}, {len(config.levels)}), got {given.shape!r}")
    return torch.from_numpy(np.array(given, dtype=np.int64))
