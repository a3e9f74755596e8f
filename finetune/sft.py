"""Fine-tune one LoRA adapter on one role's data.

    llmrec finetune finetune/recommender.yaml --set dataset=films --set backbone=runs/quickstart/backbone
    accelerate launch finetune/sft.py finetune/recommender.yaml --set backbone=Qwen/Qwen3-8B

A killed run goes on from its last checkpoint when it is started again with the same output folder.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrec.data.spec import load
from llmrec.data.splits import leave_one_out
from llmrec.lm.adapters import stamp
from llmrec.lm.hardware import choose
from llmrec.lm.pretrained import load_pretrained
from llmrec.training.card import model_card
from llmrec.training.examples import supervised_tokens
from llmrec.training.quiet import quiet_libraries
from llmrec.training.recipe import SftRecipe, load_recipe
from llmrec.training.sft import build_data, curve, first_and_best, make_trainer


def main(recipe_path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run the recipe; returns the facts that also stand in `training.json`."""
    recipe = load_recipe(recipe_path, overrides)
    with quiet_libraries():
        return run(recipe)


def run(recipe: SftRecipe) -> dict[str, Any]:
    """Data, trainer, adapter, card and curve, in that order."""
    from transformers.trainer_utils import get_last_checkpoint

    output = Path(recipe.output)
    started = time.monotonic()
    dataset = load(recipe.dataset, seed=recipe.seed)
    hardware = choose(purpose="training")
    base = load_pretrained(recipe.backbone, hardware)
    data = build_data(dataset, leave_one_out(dataset.interactions), recipe, base.tokenizer)
    trainer = make_trainer(base.model, base.tokenizer, data, recipe, output / "checkpoints", hardware)
    checkpoints = output / "checkpoints"
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)) if checkpoints.exists() else None)
    trainer.save_model(str(output))
    if Path(recipe.backbone).is_dir():
        stamp(output, Path(recipe.backbone))  # so that it is never put on another base
    rows = curve(trainer.state.log_history)
    facts: dict[str, Any] = {
        "dataset": dataset.name,
        "base": base.name,
        "n_train": len(data.train),
        "n_validation": len(data.validation),
        "n_longer": data.n_longer,
        "n_supervised": supervised_tokens(data.train),
        "best": first_and_best(rows)["best_validation_loss"],
        "seconds": time.monotonic() - started,
        "hardware": hardware.note,
    }
    (output / "README.md").write_text(model_card(recipe, facts), encoding="utf-8")
    record = {**facts, "recipe": recipe.model_dump(), "curve": rows}
    (output / "training.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    shutil.rmtree(checkpoints, ignore_errors=True)  # the adapter is saved; checkpoints served resuming only
    return record


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        Path(arguments[0]),
        [value for flag, value in itertools.pairwise(arguments) if flag == "--set"],
    )
