"""Random variables in fixed point, identical on every machine.

A draw is a raw 16-bit piece of a Philox word, looked up in a table of rounded quantiles. Raw words are the part of
numpy's random streams that never changes, and the tables do not depend on the last bit of a mathematical library: no
quantile lies near a rounding boundary (a test checks that). Sums of integers have no order, so results do not depend
on the processor either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]

UNIT = 1024
"""Integer units per nat (or per standard deviation)."""
TABLE_BITS = 16


def _normal(p: Doubles) -> Doubles:
    inverse = NormalDist().inv_cdf
    return np.array([inverse(value) for value in p.tolist()])


QUANTILES: dict[str, Callable[[Doubles], Doubles]] = {
    "gumbel": lambda p: -np.log(-np.log(p)),
    "normal": _normal,
    "exponential": lambda p: -np.log1p(-p),
    "lognormal-0.8": lambda p: np.exp(0.8 * _normal(p)),
}


def exact_quantiles(name: str) -> Doubles:
    """Quantiles at (i + 1/2) / 65536 in units, before rounding, shape (65536,)."""
    size = 2**TABLE_BITS
    return UNIT * QUANTILES[name]((np.arange(size) + 0.5) / size)


@cache
def table(name: str) -> Ints:
    """Rounded quantiles of a standard distribution, in units, shape (65536,)."""
    return np.rint(exact_quantiles(name)).astype(np.int32)


def bits(generator: np.random.Generator, *shape: int) -> npt.NDArray[np.uint16]:
    """Uniform 16-bit numbers."""
    n = math.prod(shape)
    words = np.asarray(generator.bit_generator.random_raw(-(-n // 4)), dtype="<u8")
    return words.view("<u2")[:n].reshape(shape)


def variates(generator: np.random.Generator, name: str, *shape: int) -> Ints:
    """Independent draws of a standard variable, in units."""
    return table(name).take(bits(generator, *shape))


def weighted(generator: np.random.Generator, weights: Longs) -> Longs:
    """One index per row with probability proportional to integer weights, shape (rows, choices) -> (rows,)."""
    edges = weights.cumsum(axis=1)
    aim = bits(generator, len(weights)).astype(np.int64) * edges[:, -1] >> TABLE_BITS
    chosen: Longs = (edges <= aim[:, None]).sum(axis=1).astype(np.int64)
    return chosen


def units(nats: float) -> int:
    """A constant in units."""
    return round(nats * UNIT)


def matmul(left: Longs, right: Longs) -> Longs:
    """Integer matrix product through float64 BLAS: exact, because every partial sum is an integer below 2**53."""
    product: Longs = (left.astype(np.float64) @ right.astype(np.float64)).astype(np.int64)
    return product
