"""Folders of saved blends: one JSON file, and a folder for each part that can be saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llmrec.data.arrow import storage_errors
from llmrec.data.splits import leave_one_out
from llmrec.errors import CacheError, ConfigError
from llmrec.ranking import registry
from llmrec.ranking.blend import BlendConfig, BlendRecommender, Fitted
from llmrec.ranking.saved import SPEC, Origin, read_spec, write_spec

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.retrieval.base import Recommender

KIND = "blend"


def save_blend(folder: Path, blend: BlendRecommender) -> None:
    """See `BlendRecommender.save`."""
    fitted = blend.fitted
    with storage_errors(folder):
        (folder / SPEC).unlink(missing_ok=True)  # old weights never stand beside new parts
    parts = [_keep(part, folder / f"part-{number}") for number, part in enumerate(blend.parts)]
    write_spec(
        folder,
        KIND,
        Origin(fitted.catalogue, fitted.train_hash),
        name=blend.name,
        config=blend.config.model_dump(mode="json"),
        fitted=fitted.model_dump(mode="json"),
        parts=parts,
    )


def load_blend(
    folder: Path, dataset: Dataset, parts: Sequence[Recommender] | None
) -> tuple[str, BlendConfig, Fitted, list[Recommender]]:
    """Name, settings, what was learned, and the parts, all fitted. See `BlendRecommender.load`."""
    spec = read_spec(folder, dataset)
    try:
        config, fitted = BlendConfig.model_validate(spec["config"]), Fitted.model_validate(spec["fitted"])
        names, name = [str(part["name"]) for part in spec["parts"]], str(spec["name"])
        if parts is None:
            parts = _restore(folder, spec["parts"], fitted, dataset)
    except (KeyError, TypeError, ValidationError) as error:
        raise CacheError(f"{folder} holds no usable blend ({error}); save the recommender again") from error
    if [part.name for part in parts] != names:
        raise CacheError(f"the blend in {folder} has the parts {names!r}, got {[part.name for part in parts]!r}")
    return name, config, fitted, list(parts)


def _keep(part: Recommender, folder: Path) -> dict[str, Any]:
    """Save a part, or note how to build it."""
    save = getattr(part, "save", None)
    if callable(save):
        save(folder)
        return {"name": part.name, "folder": folder.name}
    config = getattr(part, "config", None)
    settings = None if config is None else config.model_dump(mode="json")
    return {"name": part.name, "kind": _kind_of(part), "config": settings}


def _restore(folder: Path, parts: Any, fitted: Fitted, dataset: Dataset) -> list[Recommender]:
    """The parts: loaded, or built and fitted on the training events that the blend was fitted on."""
    split = None
    restored = []
    for part in parts:
        if "folder" in part:
            restored.append(registry.load(folder / part["folder"], dataset))
            restored[-1].name = part["name"]
            continue
        if split is None:
            split = leave_one_out(dataset.interactions)
            if split.train.content_hash != fitted.train_hash:
                raise CacheError(
                    f"the part {part['name']!r} of the blend in {folder} has to be fitted again, but the training "
                    f"events are not those it was fitted on (hash {split.train.content_hash}, then "
                    f"{fitted.train_hash}); fit the blend again, or load it with parts that are fitted"
                )
        config = registry.settings(part["kind"], part["config"] or {})
        options: dict[str, Any] = {} if config is None else {"config": config}
        restored.append(registry.fitted(part["kind"], dataset, split, **options))
        restored[-1].name = part["name"]
    return restored


def _kind_of(part: Recommender) -> str:
    """Registered name of a recommender that is built without a language model or parts of its own."""
    for name in registry.names():
        if registry.needs_backbone(name) or registry.saves(name):
            continue
        if _is_kind(part, name):
            return name
    raise ConfigError(
        f"the part {part.name!r} can neither be saved nor be built by its name; leave it out of a blend that is saved"
    )


def _is_kind(part: Recommender, name: str) -> bool:
    try:
        return type(registry.build(name)) is type(part)
    except ConfigError:  # it takes more than its name
        return False
