"""A random model of a few thousand weights, and rows for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from llmrec.training.calrec.data import Row

PAD, END = 0, 1
VOCABULARY = 60


def tiny_model(seed: int = 0, **changes: Any) -> Any:
    """A Qwen3-shaped model in evaluation mode."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "tie_word_embeddings": True,
        "pad_token_id": PAD,
        "eos_token_id": END,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(Qwen3Config(**settings | changes)).eval()


def row(history: list[int], target: list[int], key: int | None = None) -> Row:
    """A row without begin tokens."""
    return Row([*history, *target, END], 0, len(history), 1, hash(tuple(target)) % 1000 if key is None else key)


def rows(n: int, seed: int = 0) -> list[Row]:
    """Rows of random tokens and random lengths, all targets different."""
    draws = np.random.default_rng(seed)
    found = []
    for index in range(n):
        history = draws.integers(2, VOCABULARY, size=int(draws.integers(3, 12))).tolist()
        target = draws.integers(2, VOCABULARY, size=int(draws.integers(1, 6))).tolist()
        found.append(row(history, target, key=index))
    return found
