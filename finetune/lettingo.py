"""Align a writer of user profiles with what helps a recommender: explore, evaluate, align (LettinGo, Curri-DPO).

    llmrec finetune finetune/lettingo.yaml --set dataset=films --set backbone=runs/quickstart/backbone
    accelerate launch finetune/lettingo.py finetune/lettingo.yaml --set backbone=Qwen/Qwen3-8B --set start=null ...

The YAML says what a chat model sets otherwise. A killed run goes on when it is started again with the same output:
adapters, profiles, verdicts and finished stages are kept, and a stage goes on from its last checkpoint.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.data.spec import load
from llmrec.lm.adapters import stamp
from llmrec.training.backbone import training_hardware
from llmrec.training.checks.suite import Checks, of_stages
from llmrec.training.folders import check_folders, clear_weights
from llmrec.training.lettingo.dpo import (
    POLICY,
    FinishedStage,
    StageData,
    encode_pairs,
    finished_stage,
    load_policy,
    make_dpo_trainer,
    profile_lengths,
    set_reference,
    stage_key,
    tokens_with_loss,
    train_stage,
)
from llmrec.training.lettingo.dpo_trainer import PANELS
from llmrec.training.lettingo.pairs import doubt, held_out
from llmrec.training.lettingo.preflight import check_settings
from llmrec.training.lettingo.prompts import ProfilePrompts
from llmrec.training.lettingo.recipe import LettingoRecipe, named, stages_of
from llmrec.training.lettingo.stages import explore_and_judge, set_stage
from llmrec.training.lettingo.start import start_adapters
from llmrec.training.lettingo.windows import Histories, shortfall, user_groups
from llmrec.training.quiet import quiet_libraries
from llmrec.training.recipe import load_recipe_of
from llmrec.training.run_folder import checkpoint_folder, drop_checkpoints, run_script, write_outcome
from llmrec.training.sft import first_and_best

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset

EXPLORING = timedelta(days=14)
"""How long processes wait for the first one, which explores alone; torch gives up after minutes. It holds for the whole
training, so that a process that hangs elsewhere is not noticed sooner either."""


def main(recipe_path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run the recipe; returns the facts that also stand in `training.json`."""
    recipe = load_recipe_of(LettingoRecipe, recipe_path, overrides)
    check_folders(recipe)
    with quiet_libraries():
        return run(recipe)


def run(recipe: LettingoRecipe, dataset: Dataset | None = None) -> dict[str, Any]:
    """Users, start, exploration, evaluation, alignment stage by stage, card and curves, in that order."""
    from accelerate import PartialState

    began = time.monotonic()
    output, work = Path(recipe.output), recipe.work_folder
    dataset = dataset or load(recipe.dataset, seed=recipe.seed)
    histories = Histories(dataset, recipe.labels)
    groups = user_groups(histories, dataset.interactions.n_users, recipe.windows, recipe.users, recipe.seed)
    hardware, prompts = training_hardware(), ProfilePrompts(dataset, recipe.item_fields)
    check_settings(recipe, prompts, groups.align[0], hardware)
    processes = PartialState(cpu=hardware.device == "cpu", timeout=EXPLORING)
    warnings: list[str] = []

    def warn(text: str) -> None:
        """Tell the one who runs it, and the record."""
        warnings.append(text)
        if processes.is_main_process:
            print(f"warning: {text}", file=sys.stderr, flush=True)

    if (text := shortfall(groups, recipe.users)) is not None:
        warn(text)
    start = start_adapters(recipe, dataset, histories, groups.start, work, hardware)
    with processes.main_process_first():  # the others find everything in the logs
        pairs, found = asyncio.run(explore_and_judge(recipe, set_stage(recipe, dataset, start, work), groups.align))
    if (text := doubt(found, candidates=recipe.explore.candidates)) is not None:
        warn(text)
    train, watched = held_out(pairs, share=recipe.dpo.validation_share, seed=recipe.seed)
    asked = {window.user: prompts.write(window.older, style=recipe.policy_style) for window in groups.align}

    first = policy_folder = start.get("writer")
    rows: list[dict[str, float]] = []
    best: float | None = None
    n_longer = n_tokens = 0
    learnt: list[dict[str, list[int]]] = []
    folders: list[Path] = []
    checks: dict[str, dict[str, Any]] = {}
    stages = stages_of(recipe, train)
    for number, stage in enumerate(stages, start=1):
        policy = load_policy(recipe, hardware, start=policy_folder)
        encode = partial(encode_pairs, asked=asked, policy=policy, style=recipe.policy_style)
        encoded = encode(stage, max_tokens=recipe.max_tokens)
        looked_at = encode(watched, max_tokens=recipe.max_tokens, needed=False)
        if watched and not looked_at.rows and number == 1:
            warn(
                f"none of {len(watched)} pairs for validation fits into max_tokens={recipe.max_tokens}: nothing is "
                "watched, and the last adapter is kept"
            )
        n_longer += encoded.n_longer
        n_tokens += tokens_with_loss(encoded.rows, recipe.dpo.method)
        learnt += encoded.rows
        data = StageData(encoded.rows, looked_at.rows)
        key = stage_key(number, len(stages), data, policy_folder)
        folder = checkpoint_folder(recipe, policy.name, dataset.content_hash, stage=key)
        folders.append(folder)
        first_step = int(rows[-1]["step"]) if rows else 0
        done = finished_stage(folder)
        if done is None:
            title = f"profile, stage {number} of {len(stages)}"
            trainer = make_dpo_trainer(policy, data, recipe, folder, hardware, title=title)
            if number > 1 and recipe.curriculum_settings.reference == "start":
                set_reference(trainer.model, first)
            own = Checks()
            curve = train_stage(trainer, folder, beta=recipe.dpo.beta, first_step=first_step, checks=own)
            done = FinishedStage(curve, own.record)
        rows += done.curve
        checks[f"stage {number}"] = done.checks
        tuned = [row for row in done.curve if row["step"] > first_step]  # at the first step it is the reference yet
        best = first_and_best(tuned)["best_validation_loss"]
        policy_folder = folder / POLICY

    facts: dict[str, Any] = {
        "dataset": dataset.name,
        "dataset_hash": dataset.content_hash,
        "base": policy.name,
        "n_train": sum(len(stage) for stage in stages) - n_longer,
        "n_validation": len(looked_at.rows),
        "n_longer": n_longer,
        "n_supervised": n_tokens,
        "best": best,
        "exploration": found._asdict(),
        "profile_tokens": profile_lengths(learnt),
        "warnings": warnings,
        "checks": of_stages(checks),
        "n_users": {name: len(getattr(groups, name)) for name in groups._fields},
        "seconds": time.monotonic() - began,
        "hardware": hardware.note,
    }
    if not processes.is_main_process:
        return {"curve": rows}
    assert policy_folder is not None
    clear_weights(output)
    shutil.copytree(policy_folder, output, dirs_exist_ok=True)
    if Path(recipe.backbone).is_dir():
        stamp(output, Path(recipe.backbone))  # so that it is never put on another base
    record = write_outcome(named(recipe), facts, rows, folder, PANELS)
    for earlier in folders[:-1]:
        drop_checkpoints(earlier)
    return record


if __name__ == "__main__":
    run_script(main, __doc__)
