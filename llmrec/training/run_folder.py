"""The folder a training writes: checkpoints while it runs, then adapter, model card, record and curves."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmrec.errors import LlmrecError, UserError
from llmrec.plain import to_plain
from llmrec.training.card import model_card
from llmrec.training.curves import LOSS, PLOT, plot_curves
from llmrec.training.folders import CHECKPOINTS, RECORD, clear_weights
from llmrec.training.hub import push
from llmrec.training.processes import leave_processes
from llmrec.training.recipe import find_recipe

if TYPE_CHECKING:
    from llmrec.training.recipe import Recipe

    R = TypeVar("R", bound=Recipe)


def run_script(main: Callable[[Path, Sequence[str]], Any], description: str | None) -> None:
    """The command line of a script of finetune/: a recipe and settings that override it.

    Errors are one line on standard error and the exit status, as with `llmrec finetune`.
    """
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    arguments = parser.parse_args()
    try:
        main(find_recipe(arguments.recipe), arguments.overrides)
    except LlmrecError as error:
        parser.exit(2 if isinstance(error, UserError) else 1, f"error: {' '.join(str(error).split())}\n")
    leave_processes()


def checkpoint_folder(recipe: Recipe, base: str, dataset_hash: str, *, stage: str = "") -> Path:
    """Where checkpoints of this very training lie: those of another recipe, backbone or dataset are never taken up.

    Args:
        recipe: all its settings count.
        base: name of the backbone, which holds a digest of its weights.
        dataset_hash: content hash of what is trained on.
        stage: of a training that has several.
    """
    text = f"{recipe.model_dump_json(exclude={'push_to'})} {base} {dataset_hash} {stage}".rstrip()
    return Path(recipe.output) / CHECKPOINTS / hashlib.sha256(text.encode()).hexdigest()[:16]


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in a folder of `checkpoint_folder`, as `Trainer.train` takes it; None without one.

    A run that was killed while it wrote one leaves it without its state, which transformers writes last.
    """
    found = {path: path.name.rpartition("-")[2] for path in folder.glob("checkpoint-*")}
    whole = [path for path, step in found.items() if step.isdecimal() and _has_state(path)]
    return str(max(whole, key=lambda path: int(found[path]))) if whole else None


def _has_state(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def write_outcome(
    recipe: Recipe,
    facts: dict[str, Any],
    rows: list[dict[str, float]],
    checkpoints: Path,
    panels: Mapping[str, Mapping[str, str]] = LOSS,
) -> dict[str, Any]:
    """Model card, record and curves beside the adapter; its checkpoints go, since they served resuming only.

    Those of other settings in the same folder stay: their runs were killed, and go on when they are started again.

    Where the recipe says so, the finished folder is then pushed.

    Args:
        recipe: of the training.
        facts: as `model_card` reads them, and whatever else belongs into the record.
        rows: learning curve.
        checkpoints: folder of `checkpoint_folder`.
        panels: of the picture of the curve (see `llmrec.training.curves.plot_curves`).

    Returns:
        What stands in `training.json`.
    """
    output, shown = Path(recipe.output), without_paths(recipe)
    (output / "README.md").write_text(model_card(shown, facts), encoding="utf-8")
    record = {**facts, "recipe": shown.model_dump(), "curve": rows}
    write_record(output / RECORD, record)
    plot_curves(rows, output / PLOT, panels)
    if (logs := checkpoints / "runs").exists():
        shutil.copytree(logs, output / "logs", dirs_exist_ok=True)  # TensorBoard events
    drop_checkpoints(checkpoints)
    if recipe.push_to is not None:
        push(output, recipe.push_to)
    return record


def save_weights(trainer: Any, folder: Path) -> None:
    """Save what was trained, in place of what an earlier training left there."""
    if trainer.is_world_process_zero():
        clear_weights(folder)
    trainer.save_model(str(folder))


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all: a record that is there says that its training is finished."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(to_plain(record), indent=1, allow_nan=False), encoding="utf-8")
    os.replace(partial, path)


def read_record(path: Path) -> dict[str, Any] | None:
    """A record of `write_record`; None where there is none that can be read, so that its training runs again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of one finished training, a folder of `checkpoint_folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # others are in it
        folder.parent.rmdir()


def without_paths(recipe: R) -> R:
    """The recipe with names in place of folders of this machine: cards and records travel."""
    kind, _, path = recipe.dataset.partition(":")
    backbone = Path(recipe.backbone).name if Path(recipe.backbone).is_dir() else recipe.backbone
    changed = {
        "dataset": f"{kind}:{Path(path).name}" if path else kind,
        "backbone": backbone,
        "output": Path(recipe.output).name,
        "push_to": None if (recipe.push_to or "").startswith("file:") else recipe.push_to,
    }
    if getattr(recipe, "talks", None):
        changed["talks"] = Path(recipe.talks).name  # type: ignore[attr-defined]  # of the user's recipe
    return recipe.model_copy(update=changed)
