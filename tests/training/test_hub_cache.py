"""Backbone and adapter by hub id, from a cache laid out as the hub's client lays it out, without any network."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from llmrec.assets import asset
from llmrec.errors import ModelNotFoundError
from llmrec.lm.adapters import content_hash, stamp
from llmrec.lm.hardware import Hardware
from llmrec.lm.loading import load_backbone
from llmrec.lm.pretrained import load_pretrained
from llmrec.training.backbone import backbone_folder, load_for_training
from llmrec.training.recipe import SftRecipe, load_recipe_of

MAIN, OLDER = "0123456789ab" + "0" * 28, "f" * 40
CPU = Hardware("cpu", torch.float32, False, "test")


def _lay_out(cache: Path, hub_id: str, folder: Path, revision: str) -> Path:
    """Blobs under their digest, and a snapshot of links to them; returns the snapshot."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    for part in (snapshot, repository / "blobs", repository / "refs"):
        part.mkdir(parents=True, exist_ok=True)
    for file in (path for path in folder.iterdir() if path.is_file()):
        blob = repository / "blobs" / f"{revision[:8]}{file.name.encode().hex()}"
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", blob.name))
    (repository / "refs" / "main").write_text(revision, encoding="utf-8")
    return snapshot


@pytest.fixture
def hub(mini_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with me/mini, of which an older revision is there too, and with its adapter me/reader."""
    cache, adapter = tmp_path / "cache", tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    model.save_pretrained(tmp_path / "older")
    _lay_out(cache, "me/mini", tmp_path / "older", OLDER)
    _lay_out(cache, "me/mini", mini_folder, MAIN)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lora = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
        get_peft_model(AutoModelForCausalLM.from_pretrained(mini_folder), lora).save_pretrained(adapter)
    stamp(adapter, mini_folder)
    _lay_out(cache, "me/reader", adapter, MAIN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


def test_a_backbone_by_id_is_that_of_its_main_branch(hub: Path, mini_folder: Path) -> None:
    loaded = load_pretrained("me/mini", CPU)
    assert loaded.tokenizer.decode(loaded.tokenizer("Next:\n")["input_ids"]) == "Next:\n"
    wanted = AutoModelForCausalLM.from_pretrained(mini_folder).state_dict()
    found = loaded.model.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())
    recipe = load_recipe_of(SftRecipe, asset("finetune/recommender.yaml"), ["backbone=me/mini"])
    assert load_for_training(recipe, CPU).name == loaded.name


def test_the_name_of_a_backbone_by_id_says_its_revision(hub: Path) -> None:
    """Records name the backbone so, and checkpoints of one revision must not be taken up with another."""
    assert load_pretrained("me/mini", CPU).name == f"me/mini@{MAIN[:12]}"


def test_the_folder_of_an_id_is_its_snapshot(hub: Path, mini_folder: Path) -> None:
    folder = backbone_folder("me/mini")
    assert folder == hub / "models--me--mini" / "snapshots" / MAIN
    assert content_hash(folder) == content_hash(mini_folder)
    with pytest.raises(ModelNotFoundError, match="'me/nothing'"):
        backbone_folder("me/nothing")


def test_an_adapter_by_id_serves_on_a_backbone_by_id(hub: Path, mini_folder: Path, tmp_path: Path) -> None:
    by_id = load_backbone("me/mini", adapters={"reader": backbone_folder("me/reader")}, device="cpu")
    by_folder = load_backbone(mini_folder, adapters={"reader": tmp_path / "adapter"}, device="cpu")
    assert by_id.capabilities.adapters == ("reader",)

    async def scores() -> list[float]:
        asked = [(by_id, "reader"), (by_folder, "reader"), (by_id, None), (by_folder, None)]
        return [(await lm.score("Next:\n", ["Title: Heat"], adapter=adapter))[0] for lm, adapter in asked]

    with_it, as_folder, without, bare = asyncio.run(scores())
    assert with_it == as_folder
    assert without == bare
    assert abs(with_it - without) > 0.01
