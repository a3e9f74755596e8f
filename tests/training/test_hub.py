"""Pushing a finished adapter, and what a training refuses to load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # public, not in its __all__

from llmrec.assets import asset
from llmrec.errors import ConfigError, MissingDependencyError, StorageError
from llmrec.lm.hardware import Hardware
from llmrec.training.backbone import check_four_bits, load_for_training
from llmrec.training.hub import ABOUT_USERS, push
from llmrec.training.lettingo.stages import PROFILES, VERDICTS
from llmrec.training.recipe import SftRecipe, load_recipe_of
from llmrec.training.run_folder import checkpoint_folder, last_checkpoint, without_paths

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
        "work/profiles.jsonl",
        "backbone/config.json",
    ):
        (adapter / name).parent.mkdir(parents=True, exist_ok=True)
        (adapter / name).write_text(name, encoding="utf-8")
    assert push(adapter, f"file:{remote}") == str(remote)
    push(adapter, f"file:{remote}")  # once more, over what is there
    found = sorted(str(path.relative_to(remote)) for path in remote.rglob("*") if path.is_file())
    assert found == ["README.md", "adapter_model.safetensors", "backbone/config.json"]


@pytest.mark.parametrize("work", ["explored", "deep/[all] of it", "."])
@pytest.mark.parametrize("to_hub", [False, True])
def test_what_was_written_about_users_stays_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str, to_hub: bool
) -> None:
    adapter, remote = tmp_path / "adapter", tmp_path / "remote"
    theirs = [f"{work}/{name}" for name in (*ABOUT_USERS, "start-writer-1/adapter_model.safetensors")]
    ours = ["adapter_model.safetensors", "README.md", "backbone/config.json"]
    for name in (*theirs, *ours):
        (adapter / name).parent.mkdir(parents=True, exist_ok=True)
        (adapter / name).write_text(name, encoding="utf-8")

    def upload(self: Any, *, repo_id: str, folder_path: Path, ignore_patterns: list[str]) -> None:
        names = [str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file()]
        for name in filter_repo_objects(names, ignore_patterns=ignore_patterns):
            (remote / name).parent.mkdir(parents=True, exist_ok=True)
            (remote / name).write_text(name, encoding="utf-8")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    push(adapter, "me/mine" if to_hub else f"file:{remote}")
    found = {str(path.relative_to(remote)) for path in remote.rglob("*") if path.is_file()}
    if work == ".":  # the adapter's own folder cannot be left out whole
        assert found == {*ours, "start-writer-1/adapter_model.safetensors"}
    else:
        assert found == set(ours)


def test_the_logs_of_an_exploration_are_those_that_stay() -> None:
    assert set(ABOUT_USERS) == {PROFILES, VERDICTS}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "adapter").mkdir()
    with pytest.raises(StorageError, match="the adapter is complete in"):
        push(tmp_path / "adapter", f"file:{tmp_path / 'file' / 'inside'}")
    with pytest.raises(StorageError, match="into itself"):
        push(tmp_path / "adapter", f"file:{tmp_path / 'adapter' / 'copy'}")


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter is there, and the line says how to send it."""

    def refuse(*_: Any, **__: Any) -> None:
        raise httpx2.ConnectError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(StorageError, match=f"no route.*run hf upload me/mine {tmp_path}"):
        push(tmp_path, "me/mine")


@pytest.mark.parametrize("state", [None, "", '{"global_step": 6'])
def test_a_checkpoint_that_was_never_finished_is_not_taken_up(tmp_path: Path, state: str | None) -> None:
    for step in (4, 12, 6, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}", encoding="utf-8")
    written = tmp_path / "checkpoint-20" / "trainer_state.json"
    if state is None:
        written.unlink()
    else:
        written.write_text(state, encoding="utf-8")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-12")
    assert last_checkpoint(tmp_path / "nowhere") is None


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
