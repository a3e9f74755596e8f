"""Fine-tune one LoRA adapter on one role's data.

    llmrec finetune finetune/recommender.yaml --set dataset=films --set backbone=runs/quickstart/backbone
    accelerate launch finetune/sft.py finetune/recommender.yaml --set backbone=Qwen/Qwen3-8B

A killed run goes on from its last checkpoint when it is started again with the same output folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
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
    # Checkpoints of another recipe, backbone or dataset must never be taken up.
    key = hashlib.sha256(f"{recipe.model_dump_json()} {base.name} {dataset.content_hash}".encode()).hexdigest()[:16]
    checkpoints = output / "checkpoints" / key
    trainer = make_trainer(base.model, base.tokenizer, data, recipe, checkpoints, hardware)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)) if checkpoints.exists() else None)
    trainer.save_model(str(output))
    rows = curve(trainer.state.log_history)
    if not trainer.is_world_process_zero():
        return {"curve": rows}
    if Path(recipe.backbone).is_dir():
        stamp(output, Path(recipe.backbone))  # so that it is never put on another base
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
    (output / "README.md").write_text(model_card(without_paths(recipe), facts), encoding="utf-8")
    record = {**facts, "recipe": without_paths(recipe).model_dump(), "curve": rows}
    (output / "training.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    if (logs := checkpoints / "runs").exists():
        shutil.copytree(logs, output / "logs", dirs_exist_ok=True)  # TensorBoard events
    shutil.rmtree(output / "checkpoints", ignore_errors=True)  # the adapter is saved; they served resuming only
    return record


def without_paths(recipe: SftRecipe) -> SftRecipe:
    """The recipe with names in place of folders of this machine: cards and records travel."""
    kind, _, path = recipe.dataset.partition(":")
    dataset = f"{kind}:{Path(path).name}" if path else kind
    backbone = Path(recipe.backbone).name if Path(recipe.backbone).is_dir() else recipe.backbone
    return recipe.model_copy(update={"dataset": dataset, "backbone": backbone, "output": Path(recipe.output).name})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    arguments = parser.parse_args()
    main(arguments.recipe, arguments.overrides)
