"""A tiny random model and tables for the tests of decoding, and the plain way to score a path."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from llmrec.semid.prefix_table import PAD, IntArray, PrefixTable

VOCABULARY = 60
END = 4


@lru_cache(maxsize=4)
def tiny_model(vocabulary: int = VOCABULARY, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,  # wide, so that positions and prefixes make a difference that a test can see
        "tie_word_embeddings": True,
        "eos_token_id": None,
        "bos_token_id": None,
        "pad_token_id": 0,
        **changes,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen3ForCausalLM(Qwen3Config(**settings)).eval()


def equal_paths(n_items: int = 60, *, codes: int = 8) -> IntArray:
    """Distinct random codes of three levels with global token numbers."""
    draw = np.random.default_rng(0)
    every = np.stack(np.meshgrid(*[np.arange(codes)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    paths: IntArray = draw.permutation(every)[:n_items] + np.array([5, 5 + codes, 5 + 2 * codes])
    return paths


def ragged_table() -> PrefixTable:
    """Paths of one to four tokens, some equal, each closed by the end token."""
    paths = [path[: 1 + number % 3].tolist() for number, path in enumerate(equal_paths(40))]
    return PrefixTable.from_paths(paths, end=END, duplicates="share")


def prompts(lengths: Sequence[int] = (1, 9, 4, 30), vocabulary: int = VOCABULARY) -> list[list[int]]:
    draw = np.random.default_rng(1)
    return [draw.integers(5, vocabulary, length).tolist() for length in lengths]


def plain_scores(model: Any, prompt: Sequence[int], paths: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Log-probability of each path, each as a row of its own without any cache; paths padded with -1."""
    ids = torch.tensor([[*prompt, *np.where(path == PAD, 0, path).tolist()] for path in paths])
    with torch.inference_mode():
        logprobs = model(input_ids=ids).logits[:, len(prompt) - 1 : -1].log_softmax(dim=2)
    new = ids[:, len(prompt) :]
    chosen = logprobs.gather(2, new[:, :, None])[:, :, 0].double().numpy()
    scores: npt.NDArray[np.float64] = np.where(paths == PAD, 0.0, chosen).sum(axis=1)
    return scores
