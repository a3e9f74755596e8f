"""RQ-VAE: an autoencoder whose latent vector is quantised level by level (TIGER, arXiv 2305.05065).

Encoder 512-256-128 to a latent of 32, three codebooks of 256, a mirrored decoder. The paper trains it on unit vectors
with Adagrad at 0.4 for 20,000 epochs; rebuilds of that collapse to one code. So here, as the rebuilds that work do:
standardised inputs, k-means initialisation, AdamW at 1e-3, and codes that nobody uses are put back among the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from llmrec.errors import ConfigError, DataError
from llmrec.semid.base import Arrays, IntArray, Levels, Vectors, check_vectors

_CHUNK = 16_384  # rows that go through the network at once


class RqVaeConfig(BaseModel):
    """Settings of the RQ-VAE."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["rqvae"] = "rqvae"
    levels: Levels = (256, 256, 256)
    """Number of codes per level."""
    hidden: tuple[PositiveInt, ...] = (512, 256, 128)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    latent: PositiveInt = 32
    """Width of the latent vector and of the codes."""
    standardise: Literal["dimensions", "whole"] = "whole"
    """Centred inputs, all divided by one number, or each dimension at unit variance. The second raises the smallest
    components of an SVD to the size of the largest, and codes then follow categories less."""
    steps: PositiveInt = 2000
    """Updates; not epochs, of which a small catalogue would need many more than a large one."""
    batch_size: PositiveInt = 1024
    """Items per step; a smaller catalogue is one batch."""
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-4
    """Of the layers; codes are not decayed."""
    commitment: NonNegativeFloat = 0.25
    """Weight of the pull of a residual towards its code."""
    reset_every: NonNegativeInt = 100
    """Steps between searches for codes without items, which move to the residual of a random item; 0 never. The last
    tenth of the training goes without, so that moved codes can settle."""
    min_usage: float = Field(default=0.8, ge=0, le=1)
    """Share of the codes of each level that must be in use at the end; less is an error. 0 accepts everything."""
    alignment: NonNegativeFloat = 0.0
    """Weight of the contrast between quantised latents and collaborative vectors (DAS, arXiv 2508.10584)."""
    alignment_temperature: PositiveFloat = 0.1
    # The three weights below follow CAT-ID2 (arXiv 2511.01461). The paper's exact formulas are not public in what was
    # read: llmrec/semid/rqvae_losses.py holds one consistent reading of them, so results are no reproduction.
    category: NonNegativeFloat = 0.0
    """Weight of the pull of items of one category, at the depth of the level, towards equal codes (HCC)."""
    uniform: NonNegativeFloat = 0.0
    """Weight of even use of the codes of each level (CSC)."""
    dispersion: NonNegativeFloat = 0.0
    """Weight of keeping decoded items apart (Disp)."""
    code_temperature: PositiveFloat = 1.0
    """Of the soft assignment ``softmax(-||r - e_k||^2 / temperature)`` in those losses."""


class Quantisation(NamedTuple):
    """A batch of latents, quantised."""

    codes: Tensor
    """Shape (batch, levels)."""
    residuals: list[Tensor]
    """What each level was given to quantise, shape (batch, latent) each; carries the encoder's gradient."""
    total: Tensor
    """Sum of the codes' vectors, shape (batch, latent); carries the codebooks' gradient."""


class RqVae(nn.Module):
    """The network: plain layers and codebooks, no training.

    Args:
        dimensions: width of the inputs.
        levels: number of codes per level.
        hidden: widths of the encoder's hidden layers.
        latent: width of the latent vector.
    """

    def __init__(self, *, dimensions: int, levels: Sequence[int], hidden: Sequence[int], latent: int) -> None:
        super().__init__()
        self.encoder = _layers((dimensions, *hidden, latent))
        self.decoder = _layers((latent, *reversed(hidden), dimensions))
        self.codebooks = nn.ParameterList([nn.Parameter(torch.zeros(size, latent)) for size in levels])

    def quantise(self, latents: Tensor) -> Quantisation:
        """The nearest code of each level for what the levels before it left over.

        Args:
            latents: shape (batch, latent).
        """
        residual, codes, residuals = latents, [], []
        total = torch.zeros_like(latents)
        for book in self.codebooks:
            residuals.append(residual)
            code = torch.cdist(residual.detach(), book.detach()).argmin(dim=1)  # (batch,)
            codes.append(code)
            total = total + book[code]
            residual = residual - book[code].detach()
        return Quantisation(torch.stack(codes, dim=1), residuals, total)


def _layers(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class RqVaeQuantiser:
    """A trained RQ-VAE.

    Args:
        config: its settings.
        network: its weights.
        mean: of the inputs, shape (d,).
        scale: by which centred inputs are divided, shape (d,).
    """

    def __init__(self, config: RqVaeConfig, network: RqVae, mean: Vectors, scale: Vectors) -> None:
        self.config = config
        self.network = network.eval().requires_grad_(False)
        self._mean, self._scale = mean, scale

    @property
    def levels(self) -> tuple[int, ...]:
        """Number of codes per level."""
        return self.config.levels

    @property
    def dimensions(self) -> int:
        """Width of the vectors."""
        return len(self._mean)

    @property
    def codebooks(self) -> tuple[Vectors, ...]:
        """One array of shape (codes, latent) per level."""
        return tuple(book.detach().numpy() for book in self.network.codebooks)

    def encode(self, vectors: Vectors) -> IntArray:
        """Codes of vectors, shape (n, levels)."""
        matrix = (check_vectors(vectors, dimensions=self.dimensions) - self._mean) / self._scale
        parts = [
            self.network.quantise(self.network.encoder(torch.from_numpy(matrix[start : start + _CHUNK]))).codes
            for start in range(0, len(matrix), _CHUNK)
        ]
        return torch.cat(parts).numpy().astype(np.int64)

    def decode(self, codes: IntArray) -> Vectors:
        """Decoded vectors, shape (n, d); fewer columns than levels decode the prefix.

        Raises:
            DataError: more columns than levels, or none.
        """
        if codes.ndim != 2 or not 1 <= codes.shape[1] <= len(self.levels):
            raise DataError(f"codes to decode must have 1 to {len(self.levels)} columns, got shape {codes.shape!r}")
        columns = torch.from_numpy(np.array(codes, dtype=np.int64)).T  # (levels, n)
        books = list(self.network.codebooks)[: len(columns)]
        latents = torch.stack([book[column] for book, column in zip(books, columns, strict=True)]).sum(dim=0)
        decoded = np.asarray(self.network.decoder(latents).numpy(), dtype=np.float32)
        return decoded * self._scale + self._mean

    def spec(self) -> dict[str, Any]:
        """The settings."""
        return self.config.model_dump(mode="json")

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Weights and input statistics."""
        weights = {f"network.{name}": tensor.numpy() for name, tensor in self.network.state_dict().items()}
        return {"mean": self._mean, "scale": self._scale, **weights}

    @classmethod
    def restore(cls, config: RqVaeConfig, arrays: Arrays) -> RqVaeQuantiser:
        """From what `arrays` gave.

        Raises:
            ConfigError: the arrays do not fit the settings.
        """
        network = RqVae(
            dimensions=len(arrays["mean"]), levels=config.levels, hidden=config.hidden, latent=config.latent
        )
        weights = {
            name.removeprefix("network."): torch.from_numpy(np.array(values))
            for name, values in arrays.items()
            if name.startswith("network.")
        }
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ConfigError(f"the weights of the RQ-VAE do not fit its settings: {error}; train it again") from error
        return cls(config, network, np.array(arrays["mean"]), np.array(arrays["scale"]))
