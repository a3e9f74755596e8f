"""Attribute columns: what type a column of strings or of Python values has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from llmrec.data.catalogue import Kind, infer_kind
from llmrec.data.parse import Mask, missing, numbers

LIST_MARK = "|"
_MOSTLY = 0.95  # share of readable numbers from which a column is numeric and the rest is left empty
_YEAR = re.compile(r"^(?P<title>.*\S)\s*\((?P<year>1[89]\d\d|20\d\d)\)\s*$")


def typed(column: Any, name: str, notes: list[str]) -> Any:
    """A string column as numbers, lists of strings (where a value holds ``|``) or strings.

    Values that spreadsheets write for nothing ("n/a", "NULL"; the list is Arrow's) are missing.

    Args:
        column: Arrow strings, shape (n,).
        name: for notes.
        notes: gets a line when values were left empty, or kept a column from being numeric.
    """
    blank = missing(column) | _says_nothing(column, name, notes)
    text = pc.if_else(pa.array(~blank), pc.utf8_trim_whitespace(column.cast(pa.string())), pa.scalar(None, pa.string()))
    if bool(pc.any(pc.match_substring(text, LIST_MARK)).as_py()):
        return split_list(text, LIST_MARK)
    values, readable = numbers(text)
    n_present = int((~blank).sum())
    n_readable, unreadable = int(readable.sum()), ~readable & ~blank
    first = text[int(np.flatnonzero(unreadable)[0])].as_py() if unreadable.any() else None
    if n_present == 0 or n_readable < _MOSTLY * n_present:
        if n_readable > n_present / 2:
            notes.append(
                f"column {name}: read as text: {n_present - n_readable} values are not numbers, first {first!r}"
            )
        return text
    if unreadable.any():
        notes.append(
            f"column {name}: {int(unreadable.sum())} values are not numbers and were left empty, first {first!r}"
        )
    whole = bool(np.all(values[readable] == np.floor(values[readable])) and np.all(np.abs(values[readable]) < 2**53))
    cast = pa.array(np.where(readable, values, 0), mask=~readable)
    return cast.cast(pa.int64()) if whole else cast


def _says_nothing(column: Any, name: str, notes: list[str]) -> Mask:
    marks = pa.array(csv.ConvertOptions().null_values, column.type)
    trimmed = pc.utf8_trim_whitespace(column)
    found = np.asarray(pc.and_(pc.is_in(trimmed, marks), pc.not_equal(pc.utf8_length(trimmed), 0)).fill_null(False))
    if found.any():
        first = trimmed[int(np.flatnonzero(found)[0])].as_py()
        notes.append(f"column {name}: {int(found.sum())} values such as {first!r} are taken as missing")
    return found


def split_list(text: Any, mark: str) -> Any:
    """Strings such as "Drama|War" as lists of trimmed, non-empty strings; null stays null."""
    parts = pc.split_pattern(text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text, mark)
    flat = pc.utf8_trim_whitespace(parts.flatten())
    filled = np.asarray(pc.greater(pc.utf8_length(flat), 0)) if len(flat) else np.empty(0, np.bool_)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(parts), 0), dtype=np.int64)
    owner = np.repeat(np.arange(len(parts)), lengths)
    kept = np.bincount(owner[filled], minlength=len(parts))
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat.filter(pa.array(filled)), mask=pc.is_null(parts))


def from_python(values: Sequence[Any]) -> Any | None:
    """Python values (of JSON) as numbers, lists of strings or strings; None when they are nested objects."""
    present = [value for value in values if value is not None]
    if any(isinstance(value, dict) for value in present):
        return None
    if any(isinstance(value, list) for value in present):
        return pa.array([_strings(value) for value in values], pa.list_(pa.string()))
    if present and all(isinstance(value, int) and not isinstance(value, bool) for value in present):
        if all(abs(value) < 2**53 for value in present):
            return pa.array(values, pa.int64())
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if present and all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _strings(value: Any) -> list[str] | None:
    if value is None:
        return None
    members = value if isinstance(value, list) else [value]
    return [str(member).strip() for member in members if member is not None and str(member).strip()]


def split_year(titles: Any) -> tuple[Any, Any]:
    """Titles such as "Alien (1979)" as titles and years; a title without a year stays, its year is null."""
    names: list[str | None] = []
    years: list[int | None] = []
    for title in titles.to_pylist():
        match = _YEAR.match(title or "")
        names.append(match["title"] if match else ((title or "").strip() or None))
        years.append(int(match["year"]) if match else None)
    return pa.array(names, pa.string()), pa.array(years, pa.int64())


def kinds_of(table: Any) -> dict[str, Kind]:
    """Kind of every attribute of an item table."""
    return {name: infer_kind(table.column(name)) for name in table.column_names if name not in ("item_id", "title")}


def first_categories(kinds: Mapping[str, Kind], limit: int = 2) -> tuple[str, ...]:
    """The first attributes that look like categories: the default of flattened text for a user's own table."""
    return tuple(name for name, kind in kinds.items() if kind in ("categories", "category"))[:limit]
