"""Folders of saved recommenders: one JSON file says what is in them and which catalogue they belong to.

The rest of a folder is the recommender's own: weights in safetensors, nothing pickled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmrec.errors import CacheError, StorageError

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split

SPEC = "recommender.json"
FORMAT = 2


class Origin(NamedTuple):
    """What a recommender was fitted on, as hashes."""

    catalogue: str
    """`Catalogue.content_hash`: another one means other items by the same numbers."""
    train: str
    """`Interactions.content_hash` of the training events: others may hold the targets of an evaluation."""

    @classmethod
    def of(cls, dataset: Dataset, split: Split) -> Origin:
        """Of what is fitted on now."""
        return cls(dataset.catalogue.content_hash, split.train.content_hash)


def write_spec(folder: Path, kind: str, origin: Origin, **fields: Any) -> None:
    """Write the file that names a saved recommender; call it last, so that a half-written folder is none.

    Args:
        folder: made if it is missing.
        kind: name of the recommender in `llmrec.ranking.registry`.
        origin: what it was fitted on.
        fields: settings and whatever the loader needs, as plain values.

    Raises:
        StorageError: the folder cannot be written.
    """
    spec = {"format": FORMAT, "kind": kind, **origin._asdict(), **fields}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPEC).write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {folder / SPEC}: {error.strerror or error}") from error


def read_kind(folder: Path) -> str:
    """Which recommender a folder holds. Raises `CacheError` as `read_spec` does."""
    return str(_read(folder)["kind"])


def describe_folder(folder: Path) -> dict[str, Any]:
    """All that a folder says of itself. Raises `CacheError` as `read_spec` does, but not for another catalogue."""
    return _read(folder)


def read_spec(folder: Path, dataset: Dataset) -> dict[str, Any]:
    """What `write_spec` wrote.

    Raises:
        CacheError: the file is missing or damaged, or the catalogue has changed since.
    """
    spec = _read(folder)
    here = dataset.catalogue.content_hash
    if spec["catalogue"] != here:
        raise CacheError(
            f"{folder} was fitted on another catalogue (hash {spec['catalogue']}) than that of {dataset.name!r} "
            f"(hash {here}): its item numbers mean other items; fit it again"
        )
    return spec


def origin_of(spec: dict[str, Any]) -> Origin:
    """What `write_spec` was given."""
    return Origin(str(spec["catalogue"]), str(spec["train"]))


def check_events(name: str, origin: Origin, split: Split) -> None:
    """Refuse a recommender that was fitted on other training events than those of the split.

    Args:
        name: of the recommender, or its folder, for the message.

    Raises:
        CacheError: the events are others: among them may be what the split holds out.
    """
    if origin.train != split.train.content_hash:
        raise CacheError(
            f"{name} was fitted on other training events (hash {origin.train}) than those of this split (hash "
            f"{split.train.content_hash}, {split.protocol}), which may hold the targets that are asked for: its "
            "figures would be worth nothing; fit it on this split (the viewers of films change with --seed)"
        )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / SPEC
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CacheError(f"no saved recommender in {folder}: {SPEC} is missing; save one there first") from error
    except (OSError, ValueError) as error:
        raise CacheError(f"{path} cannot be read ({error}); save the recommender again") from error
    if not isinstance(spec, dict) or not {"format", "kind", "catalogue"} <= spec.keys():
        raise CacheError(f"{path} is not the description of a saved recommender; save the recommender again")
    if spec["format"] != FORMAT or "train" not in spec:
        raise CacheError(f"{path} has format {spec['format']!r}, this version reads {FORMAT}; fit and save it again")
    return spec
