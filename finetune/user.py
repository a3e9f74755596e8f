"""Fine-tune the simulated user by behaviour cloning, and put its probabilities right.

    llmrec finetune finetune/user.yaml --set dataset=films --set backbone=runs/quickstart/backbone
    accelerate launch finetune/user.py finetune/user.yaml --set dataset=movielens:PATH --set backbone=Qwen/Qwen3-8B

Writes adapter, card, curves, `calibration.json` and `reliability.png` into `output`. A killed run goes on from its last
checkpoint when it is started again with the same output folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrec.data.spec import load
from llmrec.data.splits import leave_one_out
from llmrec.lm.adapters import stamp
from llmrec.lm.loading import load_backbone
from llmrec.training.backbone import load_for_training, training_hardware
from llmrec.training.checks.suite import Checks
from llmrec.training.corpus import Material
from llmrec.training.examples import supervised_tokens
from llmrec.training.folders import check_folders
from llmrec.training.quiet import quiet_libraries
from llmrec.training.recipe import load_recipe_of
from llmrec.training.run_folder import checkpoint_folder, last_checkpoint, run_script, save_weights, write_outcome
from llmrec.training.sft import SftData, as_columns, curve, first_and_best, make_trainer
from llmrec.training.user.decisions import calibrate, validation_halves
from llmrec.training.user.logs import build_user_data
from llmrec.training.user.recipe import UserRecipe


def main(recipe_path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run the recipe; returns the facts that also stand in `training.json`."""
    recipe = load_recipe_of(UserRecipe, recipe_path, overrides)
    check_folders(recipe)
    with quiet_libraries():
        return run(recipe)


def run(recipe: UserRecipe) -> dict[str, Any]:
    """Data, trainer, checks, adapter, held-out losses, calibration, card and curve, in that order."""
    started = time.monotonic()
    output = Path(recipe.output)
    dataset = load(recipe.dataset, seed=recipe.seed)
    split = leave_one_out(dataset.interactions)
    hardware = training_hardware()
    base = load_for_training(recipe, hardware)
    data = build_user_data(dataset, split, recipe, base.tokenizer)
    validation = [one for examples in data.validation.values() for one in examples]
    calibrated = recipe.calibration_users > 0
    if calibrated:
        validation_halves(dataset, split, recipe)  # refuses too few users now, not after the training
    checkpoints = checkpoint_folder(recipe, base.name, dataset.content_hash)
    watched = SftData(data.train, validation, data.n_longer)
    trainer = make_trainer(base.model, base.tokenizer, watched, recipe, checkpoints, hardware)
    checks = Checks()
    checks.templates(list(recipe.data), Material(dataset, split, recipe.history_items), base.tokenizer, base.model)
    checks.start(trainer)
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    checks.end(trainer, seed=recipe.seed)
    save_weights(trainer, output)
    rows = curve(trainer.state.log_history)
    held_out = {
        kind: trainer.evaluate(as_columns(examples), metric_key_prefix=f"eval_{kind}")[f"eval_{kind}_loss"]
        for kind, examples in data.validation.items()
        if examples
    }
    if not trainer.is_world_process_zero():
        return {"curve": rows}
    if Path(recipe.backbone).is_dir():
        stamp(output, Path(recipe.backbone))  # so that it is never put on another base
    facts: dict[str, Any] = {
        "dataset": dataset.name,
        "base": base.name,
        "n_train": len(data.train),
        "n_validation": len(validation),
        "n_longer": data.n_longer,
        "n_supervised": supervised_tokens(data.train),
        "best": first_and_best(rows)["best_validation_loss"],
        "held_out_loss": held_out,
        "checks": checks.record,
    }
    if calibrated:
        del trainer, base, watched  # a large backbone fits once
        engine = load_backbone(recipe.backbone, adapters={recipe.role: output}, device=hardware.device)
        facts["decisions"] = calibrate(engine, dataset, split, recipe)
    facts |= {"seconds": time.monotonic() - started, "hardware": hardware.note}
    return write_outcome(recipe, facts, rows, checkpoints)


if __name__ == "__main__":
    run_script(main, __doc__)
