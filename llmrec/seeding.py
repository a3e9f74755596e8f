"""Random generators derived from keys, never from global state.

A draw is a function of (run seed, keys such as user and turn), so results do not depend on the order in which sessions
run or on the number of workers.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *keys: int | str) -> int:
    """A 63-bit seed for these keys: equal keys give equal seeds on every machine."""
    text = "\x1f".join([str(seed), *(f"{type(key).__name__}:{key}" for key in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(seed: int, *keys: int | str) -> np.random.Generator:
    """A generator for these keys (Philox, whose stream is the same on every platform)."""
    return np.random.Generator(np.random.Philox(derive(seed, *keys)))
