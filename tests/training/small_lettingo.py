"""A recipe of `finetune/lettingo.yaml` that runs in seconds."""

from __future__ import annotations

from pathlib import Path

from llmrec.assets import asset
from llmrec.training.lettingo.recipe import LettingoRecipe
from llmrec.training.recipe import load_recipe

SMALL = (
    *("users={start: 120, align: 14, test: 10}", "windows={recent: 3, older: [8], at_least: 8, targets: 2}"),
    *("start.writer_examples=40", "start.predictor_examples=40", "start.validation_examples=10"),
    *("explore={candidates: 4, max_tokens: 16}", "max_tokens=320", "evaluations=2"),
    *("item_fields.target=[topics]", "lora.rank=4", "batch_size=8", "learning_rate=3e-3"),
)


def small_recipe(backbone: Path | str, output: Path, *changes: str) -> LettingoRecipe:
    """The shipped recipe with few users and short texts; changes as for `--set`."""
    recipe = load_recipe(
        asset("finetune/lettingo.yaml"), [f"backbone={backbone}", f"output={output}", *SMALL, *changes]
    )
    assert isinstance(recipe, LettingoRecipe)
    return recipe
