"""A user's own data: a folder with ``items.*``, ``interactions.*``, optionally ``users.*``: CSV, Parquet or JSON lines.

``items``: item_id, title, and any further columns, which become attributes; ``|`` inside a value separates the members
of a list. ``interactions``: user_id, item_id, timestamp (seconds since 1970 or ISO 8601), optionally rating. ``users``:
user_id and attributes. An optional ``dataset.yaml`` names things; see `TableSettings`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from llmrec.data.arrow import IntArray
from llmrec.data.build import EventBatch, Raw, distinct_rows
from llmrec.data.columns import first_categories, from_python, kinds_of, typed
from llmrec.data.files import FileSet, SourceFile
from llmrec.data.jsonl import columns as json_columns
from llmrec.data.jsonl import objects
from llmrec.data.lines import delimited
from llmrec.data.markup import without_markup
from llmrec.data.rejections import Rejections
from llmrec.errors import ConfigError, DataError

_FORMATS = (".csv", ".parquet", ".jsonl")
_EVENT_COLUMNS = ("user_id", "item_id", "timestamp", "rating")
_PARQUET_ROWS = 1_000_000


class TableSettings(BaseModel):
    """The optional ``dataset.yaml`` of a table folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    """Name in reports; default the folder's."""
    item_noun: str = "item"
    """What one item is called in prompts and answers, such as "book"."""
    domain: Literal["films", "movies", "products", "items"] = "items"
    """Word for the catalogue as a whole."""
    licence: str = ""
    """Shown by `llmrec data describe`."""
    flat_fields: tuple[str, ...] | None = None
    """Attributes of the flattened item text; default the first two that look like categories."""
    separator: str = ". "
    """Between the parts of the flattened item text."""
    rating_range: tuple[float, float] | None = None
    """Ratings outside are rejected; default any finite number."""


def source_files(files: FileSet) -> list[SourceFile]:
    """``items.*``, ``interactions.*``, ``users.*`` and ``dataset.yaml``, those that are there.

    Raises:
        DataError: items or interactions are missing, or are there in two formats.
    """
    found = [_only(files, "items"), _only(files, "interactions")]
    for name, file in zip(("items", "interactions"), found, strict=True):
        if file is None:
            expected = ", ".join(f"{name}{suffix}" for suffix in _FORMATS)
            raise DataError(f"{files.path} has none of {expected}; got {files.names()!r}")
    return [file for file in (*found, _only(files, "users"), files.find("dataset.yaml")) if file]


def read(files: FileSet, rejections: Rejections) -> Raw:
    """Read the folder."""
    settings = _settings(files)
    by_name = {file.name.split(".")[0]: file for file in source_files(files)}
    notes: list[str] = []
    items = _entities(by_name["items"], "item_id", notes, rejections)
    column_of(items.column_names, "title", by_name["items"].name)
    order = ["item_id", "title", *(n for n in items.column_names if n not in ("item_id", "title"))]
    kinds = kinds_of(items)
    flat_fields = first_categories(kinds) if settings.flat_fields is None else settings.flat_fields
    for field in flat_fields:
        if field not in kinds:
            raise ConfigError(f"dataset.yaml: no attribute {field!r} for flat_fields; got {list(kinds)!r}")
    return Raw(
        name=settings.name or files.path.stem,
        items=items.select(order),
        events=_events(by_name["interactions"], notes, rejections),
        users=_entities(by_name["users"], "user_id", notes, rejections) if "users" in by_name else None,
        rating_range=settings.rating_range,
        flat_fields=flat_fields,
        separator=settings.separator,
        kinds=kinds,
        notes=tuple(notes),
        licence=settings.licence,
        item_noun=settings.item_noun,
        domain=settings.domain,
    )


def column_of(names: list[str], wanted: str, source: str) -> int:
    """Position of a column.

    Raises:
        DataError: there is none; the message names the nearest.
    """
    if wanted in names:
        return names.index(wanted)
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.6)
    hint = f"; rename {near[0]!r}?" if near else ""
    raise DataError(f"{source} has no column {wanted!r}; got {names!r}{hint}")


def _settings(files: FileSet) -> TableSettings:
    file = files.find("dataset.yaml")
    if file is None:
        return TableSettings()
    try:
        with file.open() as stream:
            return TableSettings.model_validate(yaml.safe_load(stream) or {})
    except yaml.YAMLError as error:
        raise ConfigError(f"dataset.yaml is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        known = ", ".join(TableSettings.model_fields)
        raise ConfigError(f"dataset.yaml: {where}: {first['msg']}; keys are {known}") from error


def _only(files: FileSet, stem: str) -> SourceFile | None:
    found = [file for suffix in _FORMATS if (file := files.find(f"{stem}{suffix}"))]
    if len(found) > 1:
        raise DataError(f"{files.path} has {stem} twice: {[file.name for file in found]!r}; keep one")
    return found[0] if found else None


def _entities(file: SourceFile, key: str, notes: list[str], rejections: Rejections) -> Any:
    """An id table of any format, with typed attributes."""
    if file.suffix == ".csv":
        table, lines = _csv_entities(file, key, notes, rejections)
    elif file.suffix == ".jsonl":
        table, lines = _json_entities(file, key, notes, rejections)
    else:
        table, lines = _parquet_entities(file, key, notes)
    return distinct_rows(table, key, file.name, lines, rejections)


def _csv_entities(file: SourceFile, key: str, notes: list[str], rejections: Rejections) -> tuple[Any, IntArray]:
    names, rows = delimited(file, ",", rejections)
    column_of(names, key, file.name)
    parts = list(rows)
    columns = {}
    for i, name in enumerate(names):
        text = (
            pa.chunked_array([part.fields[i] for part in parts], pa.large_string()).combine_chunks().cast(pa.string())
        )
        columns[name] = _text(text, name, key, notes)
    lines = np.concatenate([part.numbers for part in parts]) if parts else np.empty(0, np.int64)
    return pa.table(columns), lines


def _json_entities(file: SourceFile, key: str, notes: list[str], rejections: Rejections) -> tuple[Any, IntArray]:
    rows = list(objects(file, rejections))
    if not rows:
        raise DataError(f"{file.name} is empty or has no JSON object")
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    column_of(names, key, file.name)
    columns = {}
    for name in names:
        values = [row.get(name) for _, row in rows]
        if name in (key, "title"):
            text = pa.array([None if value is None else str(value) for value in values], pa.string())
            columns[name] = _text(text, name, key, notes)
        elif (column := from_python(values)) is None:
            notes.append(f"column {name} left out: nested objects")
        else:
            columns[name] = _text(column, name, key, notes) if column.type == pa.string() else column
    return pa.table(columns), np.array([number for number, _ in rows], dtype=np.int64)


def _parquet_entities(file: SourceFile, key: str, notes: list[str]) -> tuple[Any, IntArray]:
    table = _parquet(file).read()
    column_of(table.column_names, key, file.name)
    columns = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        converted = _parquet_column(column, name, key, notes)
        if converted is None:
            notes.append(f"column {name} left out: type {column.type}")
        else:
            columns[name] = converted
    return pa.table(columns), np.arange(1, table.num_rows + 1, dtype=np.int64)


def _parquet_column(column: Any, name: str, key: str, notes: list[str]) -> Any | None:
    kind = column.type
    if name in (key, "title"):
        return _text(column.cast(pa.string()), name, key, notes)
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), column.type.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        nested = pa.types.is_nested(kind.value_type)
        return None if nested else column.cast(pa.list_(pa.string()))
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64())
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        return None
    text = column.cast(pa.string())
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return _text(text, name, key, notes) if is_text else text


def _text(column: Any, name: str, key: str, notes: list[str]) -> Any:
    """A column of strings: ids as they are, titles without markup, attributes with their type as well."""
    if name == key:
        return column
    plain = without_markup(column, name, notes)
    return plain if name == "title" else typed(plain, name, notes)


def _parquet(file: SourceFile) -> Any:
    if file.member is not None or file.name.endswith(".gz"):
        raise DataError(f"{file.name}: Parquet is read from a folder, not from an archive; unpack it first")
    try:
        return pq.ParquetFile(file.path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file.name} is not a readable Parquet file: {' '.join(str(error).split())[:120]}") from error


def _events(file: SourceFile, notes: list[str], rejections: Rejections) -> Iterator[EventBatch]:
    """Checks the columns at once, reads the rows later."""
    if file.suffix == ".jsonl":
        kinds = _json_kinds(file, notes)
        return _json_events(file, kinds, rejections)
    if file.suffix == ".parquet":
        opened = _parquet(file)
        _checked_event_columns(opened.schema_arrow.names, file.name, notes)
        return _parquet_events(file, opened)
    names, rows = delimited(file, ",", rejections)
    positions = _checked_event_columns(names, file.name, notes)
    return (
        EventBatch(
            source=file.name,
            users=part.fields[positions["user_id"]],
            items=part.fields[positions["item_id"]],
            timestamps=part.fields[positions["timestamp"]],
            ratings=part.fields[positions["rating"]] if "rating" in positions else None,
            numbers=part.numbers,
            lines=part.lines,
        )
        for part in rows
    )


def _checked_event_columns(names: list[str], source: str, notes: list[str]) -> dict[str, int]:
    positions = {name: column_of(names, name, source) for name in _EVENT_COLUMNS[:3]}
    if "rating" in names:
        positions["rating"] = names.index("rating")
    others = [name for name in names if name not in positions]
    if others:
        notes.append(f"{source}: columns left out: {', '.join(others)}")
    return positions


def _json_kinds(file: SourceFile, notes: list[str]) -> dict[str, Any]:
    """Arrow type to expect of each event column, from the first object."""
    first = next((row for _, row in objects(file, Rejections())), None)
    if first is None:
        raise DataError(f"{file.name} is empty or has no JSON object")
    return {name: _json_type(first[name]) for name in _checked_event_columns(list(first), file.name, notes)}


def _json_events(file: SourceFile, kinds: dict[str, Any], rejections: Rejections) -> Iterator[EventBatch]:
    for found, block in json_columns(file, kinds, rejections):
        yield EventBatch(
            source=file.name,
            users=found["user_id"].cast(pa.string()),
            items=found["item_id"].cast(pa.string()),
            timestamps=found["timestamp"],
            ratings=found.get("rating"),
            numbers=block.numbers,
            lines=block.lines,
        )


def _json_type(value: object) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return pa.string()
    return pa.int64() if isinstance(value, int) else pa.float64()


def _parquet_events(file: SourceFile, opened: Any) -> Iterator[EventBatch]:
    names = [name for name in _EVENT_COLUMNS if name in opened.schema_arrow.names]
    start = 1
    try:
        for batch in opened.iter_batches(batch_size=_PARQUET_ROWS, columns=names):
            columns = {name: _plain(batch.column(name)) for name in names}
            users, items = columns["user_id"].cast(pa.string()), columns["item_id"].cast(pa.string())
            yield EventBatch(
                source=file.name,
                users=users,
                items=items,
                timestamps=columns["timestamp"],
                ratings=columns.get("rating"),
                numbers=np.arange(start, start + len(users), dtype=np.int64),
                lines=items,
            )
            start += len(users)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{file.name} is damaged after row {start - 1}: {' '.join(str(error).split())[:120]}"
        ) from error


def _plain(column: Any) -> Any:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
