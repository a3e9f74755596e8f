"""The folder a training writes: checkpoints while it runs, then adapter, model card, record and curves."""

from __future__ import annotations

import hashlib
import json
import shutil
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmrec.training.card import model_card
from llmrec.training.curves import LOSS, PLOT, plot_curves
from llmrec.training.hub import push
from llmrec.training.processes import leave_processes

if TYPE_CHECKING:
    from llmrec.training.recipe import Recipe

    R = TypeVar("R", bound=Recipe)

CHECKPOINTS = "checkpoints"
RECORD = "training.json"


def run_script(main: Callable[[Path, Sequence[str]], Any], description: str | None) -> None:
    """The command line of a script of finetune/: a recipe and settings that override it."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    arguments = parser.parse_args()
    main(arguments.recipe, arguments.overrides)
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
    """Model card, record and curves beside the adapter; the checkpoints go, since they served resuming only.

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
    (output / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    plot_curves(rows, output / PLOT, panels)
    if (logs := checkpoints / "runs").exists():
        shutil.copytree(logs, output / "logs", dirs_exist_ok=True)  # TensorBoard events
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
    if recipe.push_to is not None:
        push(output, recipe.push_to)
    return record


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
