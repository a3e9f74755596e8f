"""Pushing a finished adapter, and what a training refuses to load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmrec.assets import asset
from llmrec.errors import ConfigError, MissingDependencyError, StorageError
from llmrec.lm.hardware import Hardware
from llmrec.training.backbone import check_four_bits, load_for_training
from llmrec.training.hub import push
from llmrec.training.recipe import SftRecipe, load_recipe_of
from llmrec.training.run_folder import checkpoint_folder, without_paths

RECIPE = asset("finetune/recommender.yaml")


def _recipe(*overrides: str) -> SftRecipe:
    return load_recipe_of(SftRecipe, RECIPE, overrides)


def test_a_folder_gets_what_others_can_use(tmp_path: Path) -> None:
    adapter, remote = tmp_path / "adapter", tmp_path / "deep" / "remote"
    for name in (
        "adapter_model.safetensors",
        "README.md",
        "logs/events",
        "checkpoints/x/state",
        "backbone/config.json",
    ):
        (adapter / name).parent.mkdir(parents=True, exist_ok=True)
        (adapter / name).write_text(name, encoding="utf-8")
    assert push(adapter, f"file:{remote}") == str(remote)
    push(adapter, f"file:{remote}")  # once more, over what is there
    found = sorted(str(path.relative_to(remote)) for path in remote.rglob("*") if path.is_file())
    assert found == ["README.md", "adapter_model.safetensors", "backbone/config.json"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "adapter").mkdir()
    with pytest.raises(StorageError, match="the adapter is complete in"):
        push(tmp_path / "adapter", f"file:{tmp_path / 'file' / 'inside'}")
    with pytest.raises(StorageError, match="into itself"):
        push(tmp_path / "adapter", f"file:{tmp_path / 'adapter' / 'copy'}")


@pytest.mark.parametrize("target", ["nothing", "a/b/c", "https://hub/x", "file:"])
def test_what_is_no_target_is_said_before_training(target: str) -> None:
    with pytest.raises(ConfigError, match="push_to"):
        _recipe(f"push_to={target!r}")


def test_where_an_adapter_goes_changes_neither_training_nor_card(tmp_path: Path) -> None:
    local, hub = _recipe(f"push_to=file:{tmp_path}"), _recipe("push_to=someone/adapter")
    assert checkpoint_folder(local, "base", "data") == checkpoint_folder(_recipe(), "base", "data")
    assert without_paths(local).push_to is None
    assert without_paths(hub).push_to == "someone/adapter"


def test_four_bits_need_cuda_and_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Hardware("cpu", torch.float32, False, "test")
    with pytest.raises(ConfigError, match="runs on 'cpu'; set quantise=none"):
        load_for_training(_recipe("quantise=4bit"), cpu)
    monkeypatch.setattr("llmrec.training.backbone.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install .llmrec\[qlora\]"):
        check_four_bits(Hardware("cuda:0", torch.bfloat16, False, "test"))
    with pytest.raises(ConfigError, match="quantise"):
        _recipe("quantise=8bit")
