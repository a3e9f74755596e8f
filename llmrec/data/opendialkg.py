"""OpenDialKG: human dialogues over a knowledge graph, the part about films (Moon et al., ACL 2019).

The catalogue is ``items.json``; its interactions are the titles recommended in ``turns_train.jsonl``, dialogue by
dialogue. ``turns_*.jsonl`` holds the turns with a recommendation (`turns`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from llmrec.data.build import EventBatch, Raw
from llmrec.data.catalogue import Catalogue
from llmrec.data.columns import from_python, kinds_of
from llmrec.data.files import FileSet, SourceFile
from llmrec.data.redial import checked_turns
from llmrec.data.rejections import Rejections
from llmrec.data.turns import RecommendationTurn, read_turns
from llmrec.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

LICENCE = "OpenDialKG: CC BY-NC 4.0; cite Moon et al. 2019"
_ITEMS, _TRAIN = "items.json", "turns_train.jsonl"
_ATTRIBUTES = {
    "genre": "genres",
    "director": "directors",
    "actor": "actors",
    "writer": "writers",
    "language": "languages",
}


def source_files(files: FileSet) -> list[SourceFile]:
    """The items and the training turns.

    Raises:
        DataError: one of them is missing.
    """
    items, train = files.find(_ITEMS), files.find(_TRAIN)
    if items is None or train is None:
        raise DataError(f"no OpenDialKG data in {files.path}: expected {_ITEMS} and {_TRAIN}, got {files.names()!r}")
    return [items, train]


def read(files: FileSet, rejections: Rejections) -> Raw:
    """Films, and what was recommended in the training dialogues."""
    file, _ = source_files(files)
    items = _items(file, rejections)
    catalogue = Catalogue(items)
    return Raw(
        name="opendialkg",
        items=items,
        events=_events(files, catalogue, rejections),
        flat_fields=("genres",) if "genres" in items.column_names else (),
        kinds=kinds_of(items),
        notes=("interactions are the titles recommended in training dialogues; a dialogue is a user",),
        licence=LICENCE,
        item_noun="film",
        domain="movies",
    )


def turns(
    path: Path, catalogue: Catalogue, *, part: str = "valid", rejections: Rejections | None = None
) -> list[RecommendationTurn]:
    """Turns with a recommendation; see `llmrec.data.redial.turns`."""
    return checked_turns(FileSet(path), f"turns_{part}.jsonl", catalogue, rejections)


def _items(file: SourceFile, rejections: Rejections) -> pa.Table:
    with file.open() as stream:
        try:
            given = json.load(stream)
        except ValueError as error:
            raise DataError(f"{file.name} is not JSON ({error}); fetch it again") from error
    if not isinstance(given, dict):
        raise DataError(f"{file.name} must map ids to items, got {type(given).__name__}")
    kept: dict[str, dict[str, Any]] = {}
    for number, (item_id, row) in enumerate(given.items(), start=1):
        if isinstance(row, dict) and str(row.get("name") or "").strip():
            kept[item_id] = row
        else:
            rejections.add(file.name, number, "an item must be an object with a name", f"{item_id}: {row}")
    if not kept:
        raise DataError(f"{file.name} has no usable item; got {len(given)} entries")
    rows = list(kept.values())
    columns: dict[str, Any] = {
        "item_id": pa.array(list(kept), pa.string()),
        "title": pa.array([" ".join(str(row["name"]).split()) for row in rows], pa.string()),
        "year": pa.array([_year(row.get("year")) for row in rows], pa.int64()),
    }
    for source, name in _ATTRIBUTES.items():
        column = from_python([_distinct(row.get(source)) for row in rows])
        if column is not None:
            columns[name] = column
    return pa.table(columns)


def _year(value: Any) -> int | None:
    text = str(value or "")[:4]
    return int(text) if text.isdigit() and len(text) == 4 else None


def _distinct(values: Any) -> Any:
    """Without the repeats that the graph's several edges leave."""
    return list(dict.fromkeys(map(str, values))) if isinstance(values, list) else values


def _events(files: FileSet, catalogue: Catalogue, rejections: Rejections) -> Iterator[EventBatch]:
    users: list[str] = []
    items: list[str] = []
    for turn in read_turns(files, _TRAIN, catalogue, rejections):
        users += [turn.dialogue] * len(turn.targets)
        items += [catalogue.item_ids[row] for row in turn.targets]
    yield EventBatch(
        source=_TRAIN,
        users=pa.array(users, pa.string()),
        items=pa.array(items, pa.string()),
        timestamps=None,
        ratings=None,
        numbers=np.arange(1, len(users) + 1, dtype=np.int64),
        lines=pa.array([f"{user} {item}" for user, item in zip(users, items, strict=True)], pa.string()),
    )
