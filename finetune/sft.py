"""Fine-tune one LoRA adapter on one role's data.

    llmrec finetune finetune/recommender.yaml --set dataset=films --set backbone=runs/quickstart/backbone
    accelerate launch finetune/sft.py finetune/recommender.yaml --set backbone=Qwen/Qwen3-8B

A killed run goes on from its last checkpoint when it is started again with the same output folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrec.data.spec import load
from llmrec.data.splits import leave_one_out
from llmrec.lm.adapters import stamp
from llmrec.training.backbone import load_for_training, training_hardware
from llmrec.training.checks.suite import Checks
from llmrec.training.corpus import Material
from llmrec.training.folders import check_folders
from llmrec.training.quiet import quiet_libraries
from llmrec.training.recipe import SftRecipe, load_recipe_of
from llmrec.training.run_folder import checkpoint_folder, last_checkpoint, run_script, save_weights, write_outcome
from llmrec.training.sft import build_data, curve, facts_of, make_trainer


def main(recipe_path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run the recipe; returns the facts that also stand in `training.json`."""
    recipe = load_recipe_of(SftRecipe, recipe_path, overrides)
    check_folders(recipe)
    with quiet_libraries():
        return run(recipe)


def run(recipe: SftRecipe) -> dict[str, Any]:
    """Data, trainer, checks, adapter, card and curve, in that order."""
    started = time.monotonic()
    dataset = load(recipe.dataset, seed=recipe.seed)
    split = leave_one_out(dataset.interactions)
    hardware = training_hardware()
    base = load_for_training(recipe, hardware)
    data = build_data(dataset, split, recipe, base.tokenizer)
    checkpoints = checkpoint_folder(recipe, base.name, dataset.content_hash)
    trainer = make_trainer(base.model, base.tokenizer, data, recipe, checkpoints, hardware)
    checks = Checks()
    checks.templates(list(recipe.data), Material(dataset, split, recipe.history_items), base.tokenizer, base.model)
    checks.start(trainer)
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    checks.end(trainer, seed=recipe.seed)
    save_weights(trainer, Path(recipe.output))
    rows = curve(trainer.state.log_history)
    if not trainer.is_world_process_zero():
        return {"curve": rows}
    if Path(recipe.backbone).is_dir():
        stamp(Path(recipe.output), Path(recipe.backbone))  # so that it is never put on another base
    facts: dict[str, Any] = {
        **facts_of(dataset, base, data, rows),
        "checks": checks.record,
        "seconds": time.monotonic() - started,
        "hardware": hardware.note,
    }
    return write_outcome(recipe, facts, rows, checkpoints)


if __name__ == "__main__":
    run_script(main, __doc__)
