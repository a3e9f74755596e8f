"""What quantisers and the artifact of semantic ids share: array types, the quantiser contract, an encoder's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import Field

from llmrec.errors import ConfigError, DataError

IntArray = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[Any]]
Levels = Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)]
"""Number of codes per level of a quantiser."""


@runtime_checkable
class Quantiser(Protocol):
    """A fitted quantiser: item vectors to code prefixes and back. It never changes after fitting."""

    @property
    def levels(self) -> tuple[int, ...]:
        """Number of codes per level."""
        ...

    @property
    def dimensions(self) -> int:
        """Width of the vectors it takes."""
        ...

    @property
    def codebooks(self) -> tuple[Vectors, ...]:
        """One array of shape (codes, width) per level."""
        ...

    def encode(self, vectors: Vectors) -> IntArray:
        """Codes of vectors, shape (n, levels)."""
        ...

    def decode(self, codes: IntArray) -> Vectors:
        """Vectors of codes; fewer columns than levels decode the prefix. Shape (n, dimensions)."""
        ...

    def spec(self) -> dict[str, Any]:
        """Settings that go to JSON and back, with the key ``kind``."""
        ...

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Learned arrays by name."""
        ...


class Quantised(NamedTuple):
    """What fitting a quantiser gives."""

    codes: IntArray
    """Codes of the fitted vectors, shape (n, levels). A balanced quantiser's `encode` may differ: it fills no quota."""
    quantiser: Quantiser
    facts: dict[str, Any]
    """What happened while fitting, for the report; plain JSON values."""


@dataclass(frozen=True, eq=False)
class EncoderState:
    """Where the item vectors came from, and all that is needed to make vectors of items that did not exist then."""

    spec: str
    """The spec string of the item vectors, such as ``tfidf`` or ``2*minilm+cf``."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON values."""
    arrays: Arrays = field(default_factory=dict)


def check_vectors(vectors: npt.NDArray[Any], *, dimensions: int | None = None) -> Vectors:
    """Item vectors as a contiguous float32 matrix.

    Raises:
        DataError: not a matrix, empty, not finite, or of another width than `dimensions`.
    """
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise DataError(f"item vectors must be a matrix of shape (n_items, dimensions), got shape {matrix.shape!r}")
    if dimensions is not None and matrix.shape[1] != dimensions:
        raise DataError(
            f"the ids were made from vectors of width {dimensions}, got width {matrix.shape[1]}; "
            "use the encoder that the ids were made with"
        )
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise DataError(f"item vectors must be finite, got {matrix[row]!r} in row {row}; make the vectors again")
    return matrix


def check_levels(levels: tuple[int, ...], n_vectors: int) -> None:
    """Refuse a quantiser that cannot work.

    Raises:
        ConfigError: a level has more codes than there are vectors.
    """
    if max(levels) > n_vectors:
        raise ConfigError(
            f"a level of {max(levels)} codes needs at least as many items, got {n_vectors}; "
            f"use smaller levels, such as {','.join(map(str, default_levels(n_vectors)))}"
        )


def default_levels(n_items: int) -> tuple[int, ...]:
    """Three levels of TIGER's 256 codes, fewer for a small catalogue: at least 16 items share a code on average."""
    codes = 2
    while codes < 256 and codes * 2 * 16 <= n_items:
        codes *= 2
    return (codes,) * 3
