"""Teach a backbone to choose tools and to write their arguments, with an adapter for each.

    llmrec finetune finetune/tools.yaml --set dataset=films --set backbone=runs/quickstart/backbone
    accelerate launch finetune/tools.py finetune/tools.yaml --set backbone=Qwen/Qwen3-8B --set learning_rate=5e-6

Writes one folder for each adapter. A killed run goes on where it was when it is started again with the same output.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrec.data.dataset import Dataset
from llmrec.data.spec import load
from llmrec.data.splits import leave_one_out
from llmrec.lm.adapters import AdapterStore, stamp
from llmrec.ranking import registry
from llmrec.roles.orchestrator import is_tool_adapter
from llmrec.tools.resources import build_resources
from llmrec.training.backbone import load_for_training, training_hardware
from llmrec.training.checks.suite import Checks
from llmrec.training.folders import RECORD, check_folders
from llmrec.training.hub import push
from llmrec.training.packed_trainer import make_packed_trainer
from llmrec.training.quiet import quiet_libraries
from llmrec.training.recipe import load_recipe_of
from llmrec.training.run_folder import (
    checkpoint_folder,
    last_checkpoint,
    read_record,
    run_script,
    save_weights,
    write_outcome,
)
from llmrec.training.sft import curve, facts_of
from llmrec.training.tools.data import ToolTurns, adapter_data, adapter_tools, tool_turns
from llmrec.training.tools.recipe import ToolsRecipe


def main(recipe_path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run the recipe; returns the facts of every adapter by its name."""
    recipe = load_recipe_of(ToolsRecipe, recipe_path, overrides)
    check_folders(recipe)
    with quiet_libraries():
        return run(recipe)


def run(recipe: ToolsRecipe) -> dict[str, Any]:
    """Turns, then one adapter after the other, then their entry at the backbone."""
    from accelerate import PartialState

    dataset = load(recipe.dataset, seed=recipe.seed)
    split = leave_one_out(dataset.interactions)
    knn = registry.fitted("knn", dataset, split)
    turns = tool_turns(build_resources(dataset, train=split.train, neighbours=knn), split.train, recipe)
    facts: dict[str, Any] = {}
    for name, tools in adapter_tools(recipe, turns).items():
        facts[name] = train(recipe, name, tools, turns, dataset)
    if not PartialState(cpu=training_hardware().device == "cpu").is_main_process:  # all of them find a finished record
        return together(facts)
    if recipe.push_to is not None:
        push(Path(recipe.output), recipe.push_to)
    if recipe.register_adapters and Path(recipe.backbone).is_dir():
        store = AdapterStore.load(Path(recipe.backbone))
        for name in [name for name in store if is_tool_adapter(name)]:  # of an earlier run, perhaps in the other mode
            store.remove(name)
        for name in facts:
            store.add(name, Path(recipe.output) / name)
        store.save()
    return together(facts)


def together(adapters: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One record of all adapters; theirs stand under `adapters`, each loss is its own."""
    done = [one for one in adapters.values() if "best" in one]
    if not done:  # not the process that writes
        return {"adapters": adapters, "curve": []}
    return {
        "dataset": done[0]["dataset"],
        **{name: sum(one[name] for one in done) for name in ("n_train", "n_validation", "n_longer", "seconds")},
        "best": None,
        "curve": [],
        "adapters": adapters,
    }


def train(
    recipe: ToolsRecipe, name: str, tools: tuple[str, ...] | None, turns: ToolTurns, dataset: Dataset
) -> dict[str, Any]:
    """One adapter: the one of an earlier run where it is the same, else a new one."""
    started = time.monotonic()
    stage = recipe.model_copy(update={"role": name, "output": str(Path(recipe.output) / name), "push_to": None})
    hardware = training_hardware()
    base = load_for_training(stage, hardware)  # anew for each: the one before has an adapter in it
    checkpoints = checkpoint_folder(stage, base.name, dataset.content_hash, stage=" ".join(tools or ()))
    if (finished := _finished(stage, checkpoints.name)) is not None:
        return finished
    data = adapter_data(tools, turns, stage, base.tokenizer)
    trainer = make_packed_trainer(base.model, base.tokenizer, data, stage, checkpoints, hardware)
    checks = Checks()
    checks.start(trainer, packed=True)
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    checks.end(trainer, seed=recipe.seed)
    save_weights(trainer, Path(stage.output))
    rows = curve(trainer.state.log_history)
    if not trainer.is_world_process_zero():
        return {"curve": rows}
    facts: dict[str, Any] = {
        **facts_of(dataset, base, data, rows),
        "training": checkpoints.name,
        "tools": list(tools) if tools is not None else "all",
        "n_tokens": sum(len(one.input_ids) for one in data.train),
        "checks": checks.record,
        "seconds": time.monotonic() - started,
        "hardware": hardware.note,
    }
    if Path(recipe.backbone).is_dir():
        stamp(Path(stage.output), Path(recipe.backbone))  # so that it is never put on another base
    return write_outcome(stage, facts, rows, checkpoints)


def _finished(stage: ToolsRecipe, training: str) -> dict[str, Any] | None:
    """The record of this very training, where it was finished before the run was killed."""
    facts = read_record(Path(stage.output) / RECORD)
    return facts if facts is not None and facts.get("training") == training else None


if __name__ == "__main__":
    run_script(main, __doc__)
