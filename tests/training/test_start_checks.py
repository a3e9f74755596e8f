"""LettinGo's start adapters go through the self-checks of packed rows before and after their training."""

from __future__ import annotations

import json
from pathlib import Path

from llmrec.assets import asset
from llmrec.data.dataset import Dataset
from llmrec.lm.hardware import choose
from llmrec.training.folders import RECORD
from llmrec.training.lettingo.recipe import LettingoRecipe
from llmrec.training.lettingo.start import start_adapters
from llmrec.training.lettingo.windows import Histories, LabelSettings
from llmrec.training.recipe import load_recipe_of

SMALL = (
    *("users={start: 60, align: 14, test: 10}", "windows={recent: 3, older: [8], at_least: 8, targets: 2}"),
    *("start.writer_examples=16", "start.predictor_examples=16", "start.validation_examples=4"),
    *("max_tokens=320", "evaluations=1", "item_fields.target=[topics]", "lora.rank=4"),
)


def test_both_start_adapters_were_checked(films: Dataset, mini_folder: Path, tmp_path: Path) -> None:
    settings = [f"backbone={mini_folder}", f"output={tmp_path / 'out'}", *SMALL]
    recipe = load_recipe_of(LettingoRecipe, asset("finetune/lettingo.yaml"), settings)
    hardware = choose(purpose="training", device="cpu")
    histories = Histories(films, LabelSettings())
    folders = start_adapters(recipe, films, histories, list(range(60)), tmp_path / "work", hardware)
    assert set(folders) == {"writer", "predictor"}
    for folder in folders.values():
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))["checks"]
        assert set(found) == {"gradients", "packing", "frozen", "labels"}
        assert found["packing"]["difference"] is not None, "no row held two examples"
        assert found["frozen"]["compared"]
