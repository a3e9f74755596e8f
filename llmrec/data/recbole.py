"""RecBole atomic files: tab-separated tables whose header names a type, ``movie_title:token_seq``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.data.build import EventBatch, Raw, distinct_rows
from llmrec.data.columns import split_list, typed
from llmrec.data.files import FileSet, SourceFile
from llmrec.data.lines import delimited
from llmrec.data.rejections import Rejections
from llmrec.data.tables import column_of
from llmrec.errors import DataError

_RENAMED = {"movie_title": "title", "release_year": "year", "class": "genres", "genre": "genres"}


def source_files(files: FileSet) -> list[SourceFile]:
    """``*.inter``, ``*.item`` and ``*.user``, or an empty list when there is no ``*.inter``."""
    found = [_with_suffix(files, suffix) for suffix in (".inter", ".item", ".user")]
    if found[0] is None:
        return []
    if found[1] is None:
        raise DataError(f"{files.path} has {found[0].name} but no .item file with titles; got {files.names()!r}")
    return [file for file in found if file]


def read(files: FileSet, rejections: Rejections) -> Raw:
    """Read atomic files. ``token_seq`` columns are lists of words, except the title."""
    by_suffix = {file.suffix: file for file in source_files(files)}
    notes: list[str] = []
    items = _entities(by_suffix[".item"], "item_id", notes, rejections)
    if "title" not in items.column_names:
        raise DataError(f"{by_suffix['.item'].name} has no title column; got {items.column_names!r}")
    users = _entities(by_suffix[".user"], "user_id", notes, rejections) if ".user" in by_suffix else None
    order = ["item_id", "title", *(n for n in items.column_names if n not in ("item_id", "title"))]
    return Raw("recbole", items.select(order), _events(by_suffix[".inter"], rejections), users, notes=tuple(notes))


def _with_suffix(files: FileSet, suffix: str) -> SourceFile | None:
    return files.first(lambda file: file.suffix == suffix)


def _typed_header(names: list[str], source: str) -> tuple[list[str], list[str]]:
    pairs = [name.split(":", 1) for name in names]
    if any(len(pair) != 2 for pair in pairs):
        raise DataError(
            f"{source} is not an atomic file: every column needs a type, as in user_id:token; got {names!r}"
        )
    return [_RENAMED.get(pair[0], pair[0]) for pair in pairs], [pair[1] for pair in pairs]


def _entities(file: SourceFile, key: str, notes: list[str], rejections: Rejections) -> Any:
    header, rows = delimited(file, "\t", rejections)
    names, kinds = _typed_header(header, file.name)
    column_of(names, key, file.name)
    parts = list(rows)
    columns = {}
    for i, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        if name == "zip_code":
            notes.append("column zip_code left out: an identifier of a place, not a taste")
            continue
        text = (
            pa.chunked_array([part.fields[i] for part in parts], pa.large_string()).combine_chunks().cast(pa.string())
        )
        if name in (key, "title"):
            columns[name] = text
        elif kind == "token_seq":
            columns[name] = split_list(text, " ")
        else:
            columns[name] = typed(text, name, notes)
    numbers = np.concatenate([part.numbers for part in parts]) if parts else np.empty(0, np.int64)
    return distinct_rows(pa.table(columns), key, file.name, numbers, rejections)


def _events(file: SourceFile, rejections: Rejections) -> Iterator[EventBatch]:
    header, rows = delimited(file, "\t", rejections)
    names, _ = _typed_header(header, file.name)
    user, item, time = (column_of(names, name, file.name) for name in ("user_id", "item_id", "timestamp"))
    stars = names.index("rating") if "rating" in names else None
    for part in rows:
        ratings = None if stars is None else part.fields[stars]
        fields = part.fields
        yield EventBatch(file.name, fields[user], fields[item], fields[time], ratings, part.numbers, part.lines)
