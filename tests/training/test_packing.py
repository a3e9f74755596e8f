"""Packing keeps shares and loses nothing before the cut."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llmrec.errors import ConfigError
from llmrec.seeding import rng
from llmrec.training.examples import Segment
from llmrec.training.packing import pack


@pytest.fixture(scope="module")
def tokenizer(mini_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(mini_folder)


def _streams() -> dict[str, Any]:
    return {
        "a": itertools.repeat((Segment("Title: Alien (1979)", True),)),
        "b": itertools.repeat((Segment("Watched: Heat", False), Segment(" yes", True))),
    }


def test_shares_and_shape(tokenizer: Any) -> None:
    blocks, counts = pack(_streams(), {"a": 0.75, "b": 0.25}, tokenizer, n_tokens=4000, block=64, rng=rng(0))
    assert blocks.shape == (4000 // 64, 64)
    assert counts["a"] / sum(counts.values()) == pytest.approx(0.75, abs=0.02)
    ends = (blocks == tokenizer.eos_token_id).sum()
    assert ends > 100  # every example ends with the end-of-turn token


def test_same_generator_same_blocks(tokenizer: Any) -> None:
    one, _ = pack(_streams(), {"a": 0.5, "b": 0.5}, tokenizer, n_tokens=2000, block=50, rng=rng(7))
    two, _ = pack(_streams(), {"a": 0.5, "b": 0.5}, tokenizer, n_tokens=2000, block=50, rng=rng(7))
    assert (one == two).all()


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.6}, {"a": 1.5, "b": -0.5}])
def test_wrong_shares(shares: dict[str, float], tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="sum to 1"):
        pack(_streams(), shares, tokenizer, n_tokens=2000, block=50, rng=rng(0))


def test_fewer_tokens_than_a_block(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="at least one block"):
        pack(_streams(), {"a": 1.0, "b": 0.0}, tokenizer, n_tokens=20, block=50, rng=rng(0))
