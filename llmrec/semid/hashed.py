"""Codes that nothing was learned for: the floors of semantic ids.

`random` draws every code from a hash of the item's vector, so that prefixes say nothing; `lsh` writes down on which
sides of random hyperplanes through the mean the vector lies, so that near items often share codes. TIGER (Rajput et
al., NeurIPS 2023, arXiv 2305.05065) compares its ids with both. What a learned quantiser gains over them is what the
content of its ids is worth.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator

from llmrec.errors import DataError
from llmrec.seeding import derive, rng
from llmrec.semid.base import Arrays, IntArray, Levels, Quantised, Vectors, check_levels, check_vectors


class RandomConfig(BaseModel):
    """Settings of codes at random."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["random"] = "random"
    levels: Levels = (256, 256, 256)
    """Number of codes per level, at least 2 each."""
    min_usage: float = Field(default=0.0, ge=0, le=1)
    """Share of the codes of each level that must be in use; less is an error. 0 accepts everything."""


class LshConfig(BaseModel):
    """Settings of codes by random hyperplanes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["lsh"] = "lsh"
    levels: Levels = (256, 256, 256)
    """Number of codes per level, powers of two: 256 takes eight hyperplanes."""
    min_usage: float = Field(default=0.0, ge=0, le=1)
    """Share of the codes of each level that must be in use; less is an error. 0 accepts everything."""

    @field_validator("levels")
    @classmethod
    def _powers_of_two(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if odd := [size for size in levels if size & (size - 1)]:
            raise ValueError(f"hyperplanes give powers of two, got {odd[0]}; use {1 << (odd[0].bit_length() - 1)}")
        return levels


class HashedCodes:
    """A quantiser that codes each level on its own; a code stands for the mean of what was left of its items.

    Args:
        config: settings.
        hashing: for `random` the seed, shape (1,); for `lsh` the mean vector and the hyperplanes of each level.
        codebooks: one array of shape (codes, d) per level.
    """

    def __init__(
        self, config: RandomConfig | LshConfig, hashing: dict[str, npt.NDArray[Any]], codebooks: tuple[Vectors, ...]
    ) -> None:
        self.config, self._hashing, self._codebooks = config, hashing, codebooks

    @property
    def levels(self) -> tuple[int, ...]:
        """Number of codes per level."""
        return self.config.levels

    @property
    def dimensions(self) -> int:
        """Width of the vectors."""
        return int(self._codebooks[0].shape[1])

    @property
    def codebooks(self) -> tuple[Vectors, ...]:
        """One array of shape (codes, d) per level."""
        return self._codebooks

    def encode(self, vectors: Vectors) -> IntArray:
        """Codes, shape (n, levels); equal vectors have equal codes."""
        return _codes(check_vectors(vectors, dimensions=self.dimensions), self.config, self._hashing)

    def decode(self, codes: IntArray) -> Vectors:
        """What the codes given stand for, shape (n, d); fewer columns than levels decode the prefix.

        Raises:
            DataError: more columns than levels, or none.
        """
        if codes.ndim != 2 or not 1 <= codes.shape[1] <= len(self._codebooks):
            raise DataError(f"codes to decode must have 1 to {len(self._codebooks)} columns, got shape {codes.shape!r}")
        rows = [book[codes[:, level]] for level, book in enumerate(self._codebooks[: codes.shape[1]])]
        return np.asarray(np.sum(rows, axis=0), dtype=np.float32)

    def spec(self) -> dict[str, Any]:
        """The settings."""
        return self.config.model_dump(mode="json")

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What the codes are computed from, and the codebooks by level."""
        return self._hashing | {f"codebook_{level}": book for level, book in enumerate(self._codebooks)}

    @classmethod
    def restore(cls, config: RandomConfig | LshConfig, arrays: Arrays) -> HashedCodes:
        """From what `arrays` gave."""
        books = tuple(arrays[f"codebook_{level}"] for level in range(len(config.levels)))
        return cls(config, {name: a for name, a in arrays.items() if not name.startswith("codebook_")}, books)


def fit_hashed(vectors: npt.NDArray[Any], config: RandomConfig | LshConfig, *, seed: int = 0) -> Quantised:
    """Code vectors without learning from them; only the codebooks, which decode, are their means.

    Raises:
        ConfigError: a level has more codes than there are vectors.
        DataError: the vectors are no finite matrix.
    """
    matrix = check_vectors(vectors)
    check_levels(config.levels, len(matrix))
    if isinstance(config, RandomConfig):
        hashing: dict[str, npt.NDArray[Any]] = {"seed": np.array([derive(seed, "random-codes")], dtype=np.uint64)}
    else:
        hashing = {"mean": matrix.mean(axis=0, dtype=np.float64).astype(np.float32)}
        for level, size in enumerate(config.levels):
            planes = rng(seed, "hyperplanes", level).standard_normal((size.bit_length() - 1, matrix.shape[1]))
            hashing[f"planes_{level}"] = planes.astype(np.float32)
    codes = _codes(matrix, config, hashing)
    return Quantised(codes, HashedCodes(config, hashing, _means(matrix, codes, config.levels)), {})


def _codes(matrix: Vectors, config: RandomConfig | LshConfig, hashing: Arrays) -> IntArray:
    if isinstance(config, RandomConfig):
        key = int(hashing["seed"][0]).to_bytes(8, "little")
        size = 4 * len(config.levels)
        digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=size, key=key).digest() for row in matrix)
        drawn = np.frombuffer(digests, dtype="<u4").reshape(len(matrix), len(config.levels))
        return np.asarray(drawn % np.array(config.levels, dtype=np.uint32), dtype=np.int64)
    columns = []
    for level in range(len(config.levels)):
        sides = (matrix - hashing["mean"]) @ hashing[f"planes_{level}"].T > 0  # (n, bits)
        columns.append(sides @ (1 << np.arange(sides.shape[1])))
    return np.stack(columns, axis=1).astype(np.int64)


def _means(matrix: Vectors, codes: IntArray, levels: tuple[int, ...]) -> tuple[Vectors, ...]:
    """Level by level the mean of what is left over behind each code; zero behind a code that no item has."""
    residual, books = matrix.copy(), []
    for level, size in enumerate(levels):
        book = np.zeros((size, matrix.shape[1]), dtype=np.float32)
        np.add.at(book, codes[:, level], residual)
        book /= np.maximum(np.bincount(codes[:, level], minlength=size), 1)[:, None]
        residual -= book[codes[:, level]]
        books.append(book)
    return tuple(books)
