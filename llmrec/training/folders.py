"""Folders that a recipe names: a training writes over nothing that it or an earlier training did not write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.errors import ConfigError
from llmrec.lm.pretrained import check_spec
from llmrec.training.hub import FOLDER

if TYPE_CHECKING:
    from llmrec.training.recipe import Recipe

CHECKPOINTS = "checkpoints"
RECORD = "training.json"
STAGE_RECORD = "stage.json"
_MODEL = ("config.json", "generation_config.json", "model*.safetensors*", "pytorch_model*.bin*", "adapter_*")
_BESIDE = ("backbone.json", "calibration.json", "reliability.png", RECORD, STAGE_RECORD)
"""What says something of the weights beside it, and is read or shown."""


def check_folders(recipe: Recipe) -> None:
    """Refuse a backbone that is not there and folders that a training would spoil, before anything is loaded.

    Raises:
        ModelNotFoundError: there is no such backbone.
        ConfigError: output or the target of `push_to` is the backbone, is no folder, holds a model that no recipe of
            this package wrote, or lies in the other.
    """
    check_spec(recipe.backbone)
    _check("output", Path(recipe.output), Path(recipe.backbone))
    if recipe.push_to is None or not recipe.push_to.startswith(FOLDER):
        return
    target = Path(recipe.push_to.removeprefix(FOLDER)).expanduser()
    _check("push_to", target, Path(recipe.backbone))
    if target.resolve().is_relative_to(Path(recipe.output).resolve()):
        raise ConfigError(f"an adapter cannot be pushed into its own output, got push_to={str(target)!r}; name another")


def clear_weights(folder: Path) -> None:
    """Remove what an earlier training left in its output: weights of another kind would be loaded with the new ones.

    Logs, checkpoints and folders inside stay.
    """
    for pattern in (*_MODEL, *_BESIDE):
        for path in folder.glob(pattern):
            if path.is_file():
                path.unlink()


def _check(setting: str, folder: Path, backbone: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{setting} must be a folder, got the file {str(folder)!r}; name another")
    if folder.resolve() == backbone.resolve():
        raise ConfigError(
            f"{setting} is the backbone itself, got {str(folder)!r}; training would write over it: name another folder"
        )
    ours = any((folder / name).exists() for name in (RECORD, STAGE_RECORD, CHECKPOINTS))
    if not ours and any(path for pattern in _MODEL for path in folder.glob(pattern)):
        raise ConfigError(
            f"{setting} holds a model that no recipe wrote, got {str(folder)!r}; name an empty folder, or a new one"
        )
