"""Fine-tune the generative recommender with CALRec's three losses, in one stage or in two.

    llmrec finetune finetune/calrec.yaml --set dataset=films --set backbone=runs/quickstart/backbone
    accelerate launch finetune/calrec.py finetune/calrec.yaml --set backbone=Qwen/Qwen3-8B --set micro_batch=8

Writes the adapter (with tuning=full the whole model) to `output`, and with stages=both that of stage I to
`output/stage-I`. A killed run goes on from its last checkpoint when it is started again with the same output folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.data.spec import load
from llmrec.lm.adapters import stamp
from llmrec.training.backbone import training_hardware
from llmrec.training.calrec.data import Domain, Form, supervised_tokens, training_rows, validation_rows
from llmrec.training.calrec.domain import save_sum
from llmrec.training.calrec.recipe import CalrecRecipe, Stage, without_folders
from llmrec.training.calrec.stages import (
    check_prompts,
    finished_stage,
    load_tunable,
    mark_finished,
    stage_folder,
    stage_key,
)
from llmrec.training.calrec.trainer import PANELS, curve, make_trainer, validation_of
from llmrec.training.calrec.validation import RankingCheck
from llmrec.training.card import RANKED
from llmrec.training.checks.gradient import check_gradients
from llmrec.training.checks.suite import Checks, of_stages
from llmrec.training.folders import check_folders
from llmrec.training.quiet import quiet_libraries
from llmrec.training.recipe import load_recipe_of
from llmrec.training.run_folder import (
    checkpoint_folder,
    drop_checkpoints,
    last_checkpoint,
    run_script,
    save_weights,
    write_outcome,
)

if TYPE_CHECKING:
    from llmrec.lm.hardware import Hardware


def main(recipe_path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run the recipe; returns the facts that also stand in `training.json`."""
    recipe = load_recipe_of(CalrecRecipe, recipe_path, overrides)
    check_folders(recipe)
    with quiet_libraries():
        return run(recipe)


def run(recipe: CalrecRecipe) -> dict[str, Any]:
    """Stage after stage, then card, curves and record."""
    from accelerate import PartialState

    started = time.monotonic()
    hardware = training_hardware()
    processes = PartialState(cpu=hardware.device == "cpu")
    rows: list[dict[str, float]] = []
    found: dict[str, dict[str, Any]] = {}
    start = None if recipe.start is None else Path(recipe.start)
    for stage in recipe.stage_names:
        own, found[stage], checkpoints = run_stage(recipe, stage, start, hardware, processes)
        first_step = rows[-1]["step"] if rows else 0.0
        rows += [{**row, "step": first_step + row["step"]} for row in own]
        start = stage_folder(recipe, stage)
    if not processes.is_main_process:
        return {"curve": rows}
    last = found[recipe.stage_names[-1]]
    facts: dict[str, Any] = {
        **{name: last[name] for name in ("dataset", "base", "n_validation", "best", *RANKED)},
        **{name: sum(one[name] for one in found.values()) for name in ("n_train", "n_longer", "n_supervised")},
        "checks": of_stages({f"stage {name}": one.pop("checks") for name, one in found.items()}),
        "stages": found,
        "seconds": time.monotonic() - started,
        "hardware": hardware.note,
    }
    return write_outcome(without_folders(recipe), facts, rows, checkpoints, PANELS)


def run_stage(
    recipe: CalrecRecipe, stage: Stage, start: Path | None, hardware: Hardware, processes: Any
) -> tuple[list[dict[str, float]], dict[str, Any], Path]:
    """Data, model, trainer, checks, training, weights, in that order; gives curve, facts and folder of checkpoints."""
    domains = [Domain.of(load(spec, seed=recipe.seed)) for spec in recipe.specs(stage)]
    tunable = load_tunable(recipe, hardware, start=start)
    content = " ".join(domain.dataset.content_hash for domain in domains)
    checkpoints = checkpoint_folder(recipe, tunable.base_name, content, stage=stage)
    folder, key = stage_folder(recipe, stage), stage_key(checkpoints, start)
    if (done := finished_stage(folder, key)) is not None:
        return done["curve"], done["facts"], checkpoints

    form = Form(tunable.codec, recipe.history_items, recipe.max_tokens)
    train = training_rows(
        domains,
        recipe.n_examples(stage),
        form,
        exponent=recipe.exponent,
        targets=recipe.targets,
        seed=recipe.seed,
    )
    watched = validation_rows(domains, recipe.validation.examples, form, seed=recipe.seed)
    ranking = None
    if recipe.select == "ndcg":
        ranking = RankingCheck(domains, recipe.validation, history_items=recipe.history_items, seed=recipe.seed)
    title = f"{recipe.role}, stage {stage}"
    trainer = make_trainer(tunable, train.rows, watched.rows, recipe, checkpoints, hardware, ranking, title=title)

    checks = Checks()
    checks.run("prompts", lambda: check_prompts(domains, form, seed=recipe.seed))
    checks.start(trainer.plain())
    checks.run("combined loss", lambda: check_gradients(trainer.model, lambda: trainer.probe(train.rows[:4])))
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    checks.end(trainer.plain(), seed=recipe.seed)
    save_weights(trainer, folder)
    if recipe.tuning == "domain" and start is not None and processes.is_main_process:
        save_sum(trainer.accelerator.unwrap_model(trainer.model), start, folder)

    rows = curve(trainer.state.log_history)
    facts: dict[str, Any] = {
        "dataset": " + ".join(domain.dataset.name for domain in domains),
        "base": tunable.base_name,
        "n_train": len(train.rows),
        "n_shortened": train.n_shortened,
        "n_longer": train.n_longer,
        "n_validation": len(watched.rows),
        "n_supervised": supervised_tokens(train.rows),
        **validation_of(rows),
        "checks": checks.record,
    }
    if processes.is_main_process:
        if recipe.tuning != "full" and Path(recipe.backbone).is_dir():
            stamp(folder, Path(recipe.backbone))  # so that it is never put on another base
        mark_finished(folder, key, curve=rows, facts=facts)
        if stage != recipe.stage_names[-1]:
            drop_checkpoints(checkpoints)
    processes.wait_for_everyone()
    return rows, facts, checkpoints


if __name__ == "__main__":
    run_script(main, __doc__)
