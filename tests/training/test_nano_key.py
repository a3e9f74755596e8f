"""The key under which nano is cached: settings that came later leave the models of before where they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llmrec.lm.hardware import Hardware
from llmrec.training.calrec.data import domain_shares
from llmrec.training.pretrain import NanoRecipe, _parts, cache_key


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this machine nor the texts of this version have a say."""
    monkeypatch.setattr("llmrec.training.pretrain.text_digest", lambda: "texts")
    monkeypatch.setattr("llmrec.lm.hardware.choose", lambda **_: Hardware("cpu", torch.float32, False, "test"))


def _key(recipe: NanoRecipe) -> str:
    dataset: Any = SimpleNamespace(content_hash="data")
    split: Any = SimpleNamespace(train=SimpleNamespace(content_hash="events", n_users=16))
    return cache_key(dataset, split, recipe, seed=3, others=[(dataset, split)])


@pytest.mark.usefixtures("fixed")
def test_golden_key_of_before_the_exponent_was_a_setting() -> None:
    """Both were computed with the version whose recipe had no exponent."""
    assert _key(NanoRecipe()) == "e4264305de98353b7830"
    assert _key(NanoRecipe(tokens=50_000)) == "7136119fb9c89a4235f1"


@pytest.mark.usefixtures("fixed")
def test_another_exponent_is_another_model() -> None:
    keys = {_key(NanoRecipe(exponent=exponent)) for exponent in (0.3, 0.5, 0.0)}
    assert len(keys) == 3
    assert _key(NanoRecipe(exponent=0.3)) == _key(NanoRecipe())


def test_golden_the_exponent_shares_the_tokens() -> None:
    """1 and 16 users: to the power of 0.5 they are 1 and 4, so a fifth and four fifths of tokens; of 0 a half each."""
    sources: Any = [(SimpleNamespace(), SimpleNamespace(train=SimpleNamespace(n_users=n))) for n in (1, 16)]
    for exponent, wanted in ((0.5, [0.2, 0.8]), (0.0, [0.5, 0.5]), (0.3, list(domain_shares([1, 16], exponent=0.3)))):
        recipe = NanoRecipe(exponent=exponent, mix={"facts": 1.0})
        assert [part.share for part in _parts(sources, recipe)] == pytest.approx(wanted)
