"""Packs a mix of examples into fixed blocks of tokens, so that every shape is compiled once and nothing is padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError
from llmrec.training.examples import Example, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def pack(
    streams: Mapping[str, Iterator[Example]],
    shares: Mapping[str, float],
    tokenizer: PreTrainedTokenizerBase,
    *,
    n_tokens: int,
    block: int,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.int32], dict[str, int]]:
    """Draw examples by share of tokens, shuffle them, join them and cut into blocks.

    Examples are joined without a mask between them; each ends with the end-of-turn token, after which the model learns
    to expect something new.

    Args:
        streams: endless examples per kind.
        shares: wanted share of tokens per kind, summing to 1.
        tokenizer: of the backbone.
        n_tokens: tokens to return, rounded down to whole blocks.
        block: tokens per block.
        rng: shuffles the examples.

    Returns:
        Blocks of shape (n_tokens // block, block), and the number of tokens per kind before cutting.
    """
    if abs(sum(shares.values()) - 1) > 1e-6 or min(shares.values()) < 0:
        raise ConfigError(f"shares of the training mix must be non-negative and sum to 1, got {dict(shares)!r}")
    if n_tokens < block:
        raise ConfigError(f"n_tokens must be at least one block of {block}, got {n_tokens!r}")
    texts: list[list[int]] = []
    counts: dict[str, int] = {}
    for kind, share in shares.items():
        counts[kind] = 0
        quota = share * n_tokens
        while counts[kind] < quota:
            ids = encode(next(streams[kind]), tokenizer, learn_all=True).input_ids
            counts[kind] += len(ids)
            texts.append(ids)
    order = rng.permutation(len(texts))
    joined = np.concatenate([np.asarray(texts[index], dtype=np.int32) for index in order])
    n_blocks = n_tokens // block
    return joined[: n_blocks * block].reshape(n_blocks, block), counts
