"""Residual quantisation: each level quantises what the levels before it left over.

``c_l = argmin_k ||r_l - e_{l,k}||^2``, ``r_{l+1} = r_l - e_{l,c_l}``; a code sequence stands for the sum of its rows.

What is left over has very different lengths, so plain k-means of a small catalogue gives most items one code near zero
and the rest of the codes to a few far ones. With `normalise` every level works on residuals of length 1 (as GRID does,
snap-research/GRID), which spreads the codes; a code then stands for its row times the mean length at its level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from llmrec.errors import DataError
from llmrec.semid.base import Arrays, IntArray, Quantised, Vectors, check_levels, check_vectors

_CHUNK = 16_384  # rows whose distances to all codes are held at once
_ROUNDING = 1e-5  # of the mean length at the first level: shorter residuals are rounding, not direction

FitLevel = Callable[[Vectors, int, int], tuple[IntArray, Vectors]]
"""(residuals (n, d), number of codes, level) -> (code of each row (n,), codebook (codes, d))."""


class ResidualCodebooks:
    """A quantiser that is its codebooks, whoever learned them.

    Args:
        config: settings of the method that learned them, a model with a field ``kind``.
        codebooks: one array of shape (codes, d) per level.
        scales: mean length of what each level was given, by which it was divided row by row, shape (levels,); None
            where levels work on plain residuals.
    """

    def __init__(self, config: BaseModel, codebooks: tuple[Vectors, ...], scales: Vectors | None = None) -> None:
        self.config = config
        self._codebooks = tuple(np.ascontiguousarray(book, dtype=np.float32) for book in codebooks)
        self._scales = scales

    @property
    def levels(self) -> tuple[int, ...]:
        """Number of codes per level."""
        return tuple(len(book) for book in self._codebooks)

    @property
    def dimensions(self) -> int:
        """Width of the vectors."""
        return int(self._codebooks[0].shape[1])

    @property
    def codebooks(self) -> tuple[Vectors, ...]:
        """One array of shape (codes, d) per level."""
        return self._codebooks

    def encode(self, vectors: Vectors) -> IntArray:
        """The nearest code of each level, shape (n, levels)."""
        residual = check_vectors(vectors, dimensions=self.dimensions).copy()
        codes = np.empty((len(residual), len(self._codebooks)), dtype=np.int64)
        smallest = 0.0 if self._scales is None else _ROUNDING * float(self._scales[0])
        unit = 1.0
        for level, book in enumerate(self._codebooks):
            if self._scales is not None:
                unit *= float(self._scales[level])
                residual = normalised(residual, smallest / unit)
            codes[:, level] = nearest(residual, book)
            residual -= book[codes[:, level]]
        return codes

    def decode(self, codes: IntArray) -> Vectors:
        """What the codes given stand for, shape (n, d); fewer columns than levels decode the prefix.

        Raises:
            DataError: more columns than levels, or none.
        """
        if codes.ndim != 2 or not 1 <= codes.shape[1] <= len(self._codebooks):
            raise DataError(f"codes to decode must have 1 to {len(self._codebooks)} columns, got shape {codes.shape!r}")
        scales = np.ones(len(self._codebooks)) if self._scales is None else np.cumprod(self._scales, dtype=np.float64)
        total = np.zeros((len(codes), self.dimensions), dtype=np.float32)
        for level in range(codes.shape[1]):
            total += np.float32(scales[level]) * self._codebooks[level][codes[:, level]]
        return total

    def spec(self) -> dict[str, Any]:
        """The settings."""
        return self.config.model_dump(mode="json")

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The codebooks by level, and the scales where there are any."""
        books = {f"codebook_{level}": book for level, book in enumerate(self._codebooks)}
        return books if self._scales is None else {**books, "scales": self._scales}

    @classmethod
    def restore(cls, config: BaseModel, arrays: Arrays) -> ResidualCodebooks:
        """From what `arrays` gave."""
        n_levels = sum(name.startswith("codebook_") for name in arrays)
        return cls(config, tuple(arrays[f"codebook_{level}"] for level in range(n_levels)), arrays.get("scales"))


def squared_distances(vectors: Vectors, centres: Vectors) -> Vectors:
    """Squared Euclidean distances, shape (n, codes), up to the squared length of each vector (equal along a row)."""
    distances: Vectors = np.einsum("kd,kd->k", centres, centres)[None, :] - 2.0 * (vectors @ centres.T)
    return distances


def nearest(vectors: Vectors, centres: Vectors) -> IntArray:
    """The nearest centre of each vector, shape (n,); of equally near ones the first."""
    codes = np.empty(len(vectors), dtype=np.int64)
    for start in range(0, len(vectors), _CHUNK):
        codes[start : start + _CHUNK] = squared_distances(vectors[start : start + _CHUNK], centres).argmin(axis=1)
    return codes


def normalised(residual: Vectors, smallest: float) -> Vectors:
    """Rows of length 1; rows up to the length `smallest` become 0."""
    lengths = np.linalg.norm(residual, axis=1, keepdims=True)
    kept = lengths > smallest
    return np.asarray(np.where(kept, residual / np.where(kept, lengths, 1.0), 0.0), dtype=np.float32)


def quantise_residually(
    vectors: npt.NDArray[Any], levels: tuple[int, ...], config: BaseModel, fit_level: FitLevel, *, normalise: bool
) -> Quantised:
    """Fit level after level on what is left over.

    Raises:
        ConfigError: a level has more codes than there are vectors.
        DataError: the vectors are no finite matrix.
    """
    residual = check_vectors(vectors).copy()
    check_levels(levels, len(residual))
    codes = np.empty((len(residual), len(levels)), dtype=np.int64)
    codebooks, scales = [], []
    smallest, unit = 0.0, 1.0
    for level, n_codes in enumerate(levels):
        if normalise:
            length = float(np.linalg.norm(residual, axis=1).mean())
            scales.append(length or 1.0)
            unit *= scales[-1]
            smallest = smallest or _ROUNDING * scales[0]
            residual = normalised(residual, smallest / unit)
        codes[:, level], book = fit_level(residual, n_codes, level)
        residual -= book[codes[:, level]]
        codebooks.append(book)
    learned = np.array(scales, dtype=np.float32) if normalise else None
    return Quantised(codes, ResidualCodebooks(config, tuple(codebooks), learned), {})
