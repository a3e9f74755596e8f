"""What `finetune/lettingo.py` refuses, and what it says, before it trains anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmrec.assets import asset, load_file
from llmrec.data.dataset import Dataset
from llmrec.errors import ConfigError, ModelNotFoundError, ServerDownError, UserError
from llmrec.lm.adapters import STAMP_FILE, AdapterStore, content_hash
from llmrec.lm.hardware import choose
from llmrec.lm.scripted import RecordingLM, ScriptedLM
from tests.training.small_lettingo import small_recipe


class _WouldTrain(Exception):
    """Stands for the training of the start adapters."""


@pytest.fixture
def run(films: Dataset, mini_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the script with changed settings up to its first training."""
    script: ModuleType = load_file(asset("finetune/lettingo.py"), name="lettingo_preflight_under_test")

    def train(*_: Any) -> None:
        raise _WouldTrain

    monkeypatch.setattr(script, "start_adapters", train)
    monkeypatch.setattr(script, "training_hardware", lambda: choose(purpose="training", device="cpu"))
    return lambda *changes: script.run(small_recipe(mini_folder, tmp_path / "out", *changes), films)


def _adapter(folder: Path, made_for: str | None) -> Path:
    """A folder that looks like an adapter."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    if made_for is not None:
        (folder / STAMP_FILE).write_text(json.dumps({"base_content_hash": made_for}), encoding="utf-8")
    return folder


def test_the_screen_tells_of_smaller_groups_before_anything_is_trained(
    run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(_WouldTrain):
        run("users.align=5000")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1
    assert "users.align=5000" in lines[0]
    with pytest.raises(_WouldTrain):
        run()
    assert "warning: " not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            "writers=[{name: a, adapter: /nope}]",
            ConfigError,
            r"writer-a: there is no such adapter, got '/nope'.*: none",
        ),
        ("predictor={adapter: /nope}", ConfigError, "predictor: there is no such adapter, got '/nope'"),
        ("writers=[{name: a, prompt: profile/nope}]", ConfigError, r"'a': no prompt template, got 'profile/nope'"),
        ("writers=[{name: a, prompt: user/leave}]", ConfigError, r"'a': prompt template 'user/leave' cannot be"),
        ("writers=[{name: a, backbone: /nope}]", ModelNotFoundError, "no model folder, got '/nope'"),
        ("predictor={backbone: 'endpont:x'}", ConfigError, "unknown kind of backbone 'endpont'"),
        ("predictor={backbone: 'endpoint:http://127.0.0.1:9/v1'}", ServerDownError, "127.0.0.1:9"),
        (
            "writers=[{name: a, backbone: other/model, adapter: start}]",
            ConfigError,
            "'other/model'; leave its backbone",
        ),
        ("writers=[{name: 'my writer', adapter: start, style: raw}]", ConfigError, "got 'writer-my writer'; rename it"),
        ("quantise=4bit", ConfigError, "4bit needs a CUDA device"),
    ],
)
def test_players_that_cannot_play_are_refused_before_anything_is_trained(
    run: Callable[..., None], change: str, error: type[UserError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(change)


def test_adapters_of_another_backbone_are_refused_before_anything_is_trained(
    run: Callable[..., None], mini_folder: Path, tmp_path: Path
) -> None:
    other = _adapter(tmp_path / "other", "0" * 64)
    own = _adapter(tmp_path / "own", content_hash(mini_folder))
    for change in ("predictor={{adapter: {}}}", "writers=[{{name: a, adapter: {}}}]"):
        with pytest.raises(ConfigError, match="trained on another backbone"):
            run(change.format(other))
        with pytest.raises(_WouldTrain):
            run(change.format(own))
    with pytest.raises(ModelNotFoundError, match=r"no adapter_config\.json"):
        run(f"predictor={{adapter: {mini_folder}}}")


def test_an_adapter_may_be_one_that_the_backbone_has(
    run: Callable[..., None], mini_folder: Path, tmp_path: Path
) -> None:
    backbone = tmp_path / "backbone"
    shutil.copytree(mini_folder, backbone)
    store = AdapterStore(backbone)
    store.add("profile", _adapter(tmp_path / "profile", None))
    store.save()
    with pytest.raises(_WouldTrain):
        run(f"backbone={backbone}", "predictor={adapter: profile}")
    with pytest.raises(ConfigError, match=r"got 'user'; adapters of .*: profile; name an adapter folder"):
        run(f"backbone={backbone}", "predictor={adapter: user}")


def test_the_adapter_start_may_go_on_the_same_backbone_by_another_path(
    run: Callable[..., None], mini_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(mini_folder, tmp_path / "copy")
    with pytest.raises(_WouldTrain):
        run(f"predictor={{adapter: start, backbone: {tmp_path / 'copy'}}}")
    config = tmp_path / "copy" / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="the adapter 'start' is trained on the recipe's backbone"):
        run(f"predictor={{adapter: start, backbone: {tmp_path / 'copy'}}}")


async def _record(path: Path, lm: ScriptedLM) -> None:
    await RecordingLM(lm, path).generate("anything")


async def test_a_predictor_that_cannot_score_is_refused_before_anything_is_trained(
    films: Dataset, mini_folder: Path, tmp_path: Path
) -> None:
    from llmrec.training.lettingo.preflight import check_players

    await _record(tmp_path / "writes.jsonl", ScriptedLM(lambda _: "A profile."))
    spec = f"scripted:{tmp_path / 'writes.jsonl'}"
    check_players(small_recipe(mini_folder, tmp_path, f'writers=[{{name: a, backbone: "{spec}"}}]'))
    with pytest.raises(ConfigError, match="the predictor must score labels"):
        check_players(small_recipe(mini_folder, tmp_path, f'predictor={{backbone: "{spec}"}}'))


def test_paths_of_writers_and_predictor_may_begin_at_home(tmp_path: Path) -> None:
    recipe = small_recipe(
        "x", tmp_path, "work=~/work", "predictor={adapter: ~/a}", "writers=[{name: a, backbone: ~/b}]"
    )
    found = (recipe.work, recipe.predictor.adapter, recipe.writers[0].backbone)
    assert found == tuple(str(Path.home() / name) for name in ("work", "a", "b"))
