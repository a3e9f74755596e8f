"""Compilation while the start adapters of `finetune/lettingo.py` are trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmrec.assets import asset
from llmrec.data.dataset import Dataset
from llmrec.lm.hardware import choose
from llmrec.training.lettingo.recipe import LettingoRecipe
from llmrec.training.lettingo.start import start_adapters
from llmrec.training.lettingo.windows import Histories
from llmrec.training.recipe import load_recipe


class _WouldTrain(Exception):
    """Stands for the training of a start adapter."""


@pytest.mark.parametrize("compiled", [True, False])
def test_a_compiled_start_has_room_for_the_graphs_of_all_its_batches(
    films: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    """Torch gives up at 8 graphs of a layer, in five lines; batches of several sizes and modes need more."""
    import torch._dynamo.config as dynamo

    before, found = dynamo.recompile_limit, []

    def train(*_: Any, **__: Any) -> None:
        found.append(dynamo.recompile_limit)
        raise _WouldTrain

    module = "llmrec.training.lettingo.start"
    monkeypatch.setattr(f"{module}.load_for_training", lambda *_: SimpleNamespace(name="x", model=None, tokenizer=None))
    monkeypatch.setattr(f"{module}.start_data", lambda *_: None)
    monkeypatch.setattr(f"{module}.make_packed_trainer", lambda *_: SimpleNamespace(train=train))
    monkeypatch.setattr(f"{module}.Checks", lambda: SimpleNamespace(start=lambda *_, **__: None))
    monkeypatch.setenv("LLMREC_COMPILE", "1" if compiled else "0")
    recipe = load_recipe(asset("finetune/lettingo.yaml"), [f"output={tmp_path / 'out'}"])
    assert isinstance(recipe, LettingoRecipe)
    hardware = choose(purpose="training", device="cpu", dtype="float32")
    with pytest.raises(_WouldTrain):
        start_adapters(recipe, films, Histories(films, recipe.labels), [0, 1], tmp_path, hardware)
    assert (found[0] >= 16) if compiled else (found == [before])
    assert dynamo.recompile_limit == before
