"""From what a source read (strings and line numbers) to sorted, numbered tables. Bad rows are rejected, never fatal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.arrow import FloatArray, IntArray
from llmrec.data.catalogue import Kind
from llmrec.data.dataset import Domain
from llmrec.data.interactions import FILE_ORDER, sort_order
from llmrec.data.parse import missing, numbers, timestamps
from llmrec.data.rejections import Rejections
from llmrec.errors import DataError


@dataclass(frozen=True)
class EventBatch:
    """Consecutive events as a source has them; all columns have shape (n,)."""

    source: str
    """File name."""
    users: Any
    """Arrow strings."""
    items: Any
    """Arrow strings."""
    timestamps: Any | None
    """Arrow strings, numbers or timestamps; None when only the order of rows is known."""
    ratings: Any | None
    """Arrow strings or numbers."""
    numbers: IntArray
    """Line numbers."""
    lines: Any
    """Whole rows as text."""


@dataclass(frozen=True)
class Raw:
    """Everything that a source has read."""

    name: str
    items: Any
    """Table with item_id, title and attributes; ids present and distinct."""
    events: Iterable[EventBatch]
    users: Any | None = None
    """Table with user_id and attributes; ids present and distinct."""
    rating_range: tuple[float, float] | None = None
    """Ratings outside are rejected; None takes any finite number."""
    time_unit: int = 1
    """Divisor of numeric timestamps (1000 for milliseconds)."""
    flat_fields: tuple[str, ...] = ()
    separator: str = ". "
    kinds: dict[str, Kind] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    licence: str = ""
    item_noun: str = "item"
    domain: Domain = "items"


@dataclass(frozen=True)
class Events:
    """Accepted events, sorted by user, time and file order."""

    users: IntArray
    items: IntArray
    timestamps: IntArray
    ratings: FloatArray | None
    offsets: IntArray
    user_ids: Any
    """Arrow strings, shape (n_users,)."""
    time_is_order_only: bool
    notes: tuple[str, ...]


def distinct_rows(table: Any, key: str, source: str, lines: IntArray, rejections: Rejections) -> Any:
    """The rows of an id table whose id is present and new; the others are rejected.

    Args:
        table: with the id column `key`.
        key: name of the id column.
        source: file name.
        lines: line number of each row, shape (n,).
        rejections: collects the others.

    Raises:
        DataError: no row is left.
    """
    ids = table.column(key).cast(pa.string())
    absent = missing(ids)
    rejections.add_many(source, lines[absent], f"{key} is missing", _row_texts(table, absent))
    table, ids, lines = table.filter(pa.array(~absent)), ids.filter(pa.array(~absent)), lines[~absent]
    ids = pc.utf8_trim_whitespace(ids)
    codes = np.asarray(ids.combine_chunks().dictionary_encode().indices) if len(ids) else np.empty(0, np.int64)
    repeated = np.ones(len(ids), dtype=np.bool_)
    repeated[np.unique(codes, return_index=True)[1]] = False
    rejections.add_many(
        source, lines[repeated], f"{key} occurs twice; the first row is kept", _row_texts(table, repeated)
    )
    kept = table.set_column(table.column_names.index(key), key, ids).filter(pa.array(~repeated))
    if kept.num_rows == 0:
        raise DataError(f"{source} has no usable row{_first_reason(rejections)}")
    return kept


def collect_events(raw: Raw, rejections: Rejections) -> Events:
    """Check, number and sort all events.

    Raises:
        DataError: no event is left.
    """
    parts = [_accept(batch, raw, rejections) for batch in raw.events]
    if sum(len(part.items) for part in parts) == 0:
        raise DataError(f"{raw.name} has no usable interaction{_first_reason(rejections)}")
    encoded = pa.chunked_array([part.users for part in parts]).unify_dictionaries().combine_chunks()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    users = np.asarray(encoded.indices, dtype=np.int64)
    times = [part.timestamps for part in parts]
    order_only = times[0] is None
    seconds = np.zeros(len(users), np.int64) if order_only else np.concatenate([t for t in times if t is not None])
    order = sort_order(users, seconds)
    ratings = _joined([part.ratings for part in parts], order)
    columns = _Columns(
        users=users[order],
        items=np.concatenate([part.items for part in parts])[order],
        timestamps=seconds[order],
        ratings=ratings,
    )
    lines = np.concatenate([part.numbers for part in parts])[order]
    notes = [f"ties in time: {FILE_ORDER}; {_n_ties(columns)} events share user and second with the one before"]
    if order_only:
        notes = ["no timestamps: only the order inside each user is known"]
    else:
        columns = _without_duplicates(columns, lines, parts[0].source, rejections)
    columns, n_repeats = _without_repeats(columns)
    notes.append(f"consecutive repeats of the same item: {n_repeats} removed")
    return _offsets(columns, encoded.dictionary.cast(pa.string()), order_only, tuple(notes))


@dataclass(frozen=True)
class _Accepted:
    source: str
    users: Any
    items: IntArray
    timestamps: IntArray | None
    ratings: FloatArray | None
    numbers: IntArray


@dataclass(frozen=True)
class _Columns:
    users: IntArray
    items: IntArray
    timestamps: IntArray
    ratings: FloatArray | None

    def keep(self, mask: npt.NDArray[np.bool_]) -> _Columns:
        if mask.all():
            return self
        ratings = None if self.ratings is None else self.ratings[mask]
        return _Columns(self.users[mask], self.items[mask], self.timestamps[mask], ratings)


def _accept(batch: EventBatch, raw: Raw, rejections: Rejections) -> _Accepted:
    """Reject bad events of one batch; each is rejected for its first fault."""
    ids = raw.items.column("item_id")
    rows = pc.index_in(pc.utf8_trim_whitespace(batch.items.cast(pa.string())), value_set=ids.cast(pa.string()))
    faults = [
        (missing(batch.users), "user_id is missing"),
        (missing(batch.items), "item_id is missing"),
        (np.asarray(pc.is_null(rows)), "unknown item: no such item_id in the catalogue"),
    ]
    ratings = times = None
    if batch.ratings is not None:
        values, readable = numbers(batch.ratings)
        ratings = values.astype(np.float32)
        faults.append((~readable, "rating is not a number"))
        if raw.rating_range is not None:
            low, high = raw.rating_range
            outside = readable & ((values < low) | (values > high))
            faults.append((outside, f"rating is outside {low:g} to {high:g}"))
    if batch.timestamps is not None:
        times, time_faults = timestamps(batch.timestamps, unit=raw.time_unit)
        faults.extend(time_faults)
    bad = np.zeros(len(batch.numbers), dtype=np.bool_)
    for mask, reason in faults:
        new = mask & ~bad
        if new.any():
            rejections.add_many(batch.source, batch.numbers[new], reason, batch.lines.filter(pa.array(new)))
            bad |= new
    good, keep = ~bad, pa.array(~bad)
    users = pc.utf8_trim_whitespace(batch.users.cast(pa.string())).filter(keep)
    users = users.combine_chunks() if isinstance(users, pa.ChunkedArray) else users
    return _Accepted(
        source=batch.source,
        users=users.dictionary_encode(),
        items=np.asarray(rows.filter(keep), dtype=np.int64),
        timestamps=None if times is None else times[good],
        ratings=None if ratings is None else ratings[good],
        numbers=batch.numbers[good],
    )


def _joined(parts: Sequence[FloatArray | None], order: IntArray) -> FloatArray | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present)[order] if present else None


def _ties(columns: _Columns) -> npt.NDArray[np.bool_]:
    """True where an event has user and time of the one before it."""
    tied = np.zeros(len(columns.users), dtype=np.bool_)
    tied[1:] = (columns.users[1:] == columns.users[:-1]) & (columns.timestamps[1:] == columns.timestamps[:-1])
    return tied


def _n_ties(columns: _Columns) -> int:
    return int(_ties(columns).sum())


def _without_duplicates(columns: _Columns, lines: IntArray, source: str, rejections: Rejections) -> _Columns:
    """Reject events that repeat user, item, time and rating of an earlier row. Only ties in time can be such."""
    tied = _ties(columns)
    group = np.flatnonzero(tied | np.append(tied[1:], False))
    keys: list[npt.NDArray[Any]] = [columns.items[group], columns.timestamps[group], columns.users[group]]
    if columns.ratings is not None:
        keys.insert(0, columns.ratings[group])
    order = np.lexsort([lines[group], *keys])
    same = np.ones(max(0, len(group) - 1), dtype=np.bool_)
    for key in keys:
        same &= key[order][1:] == key[order][:-1]
    duplicate = group[order[1:][same]]
    texts = [f"item row {int(columns.items[i])} at {int(columns.timestamps[i])}" for i in duplicate]
    rejections.add_many(source, lines[duplicate], "exact duplicate of an earlier row", pa.array(texts, pa.string()))
    keep = np.ones(len(columns.users), dtype=np.bool_)
    keep[duplicate] = False
    return columns.keep(keep)


def _without_repeats(columns: _Columns) -> tuple[_Columns, int]:
    keep = np.ones(len(columns.users), dtype=np.bool_)
    keep[1:] = (columns.users[1:] != columns.users[:-1]) | (columns.items[1:] != columns.items[:-1])
    return columns.keep(keep), int((~keep).sum())


def _offsets(columns: _Columns, user_ids: Any, order_only: bool, notes: tuple[str, ...]) -> Events:
    lengths = np.bincount(columns.users, minlength=len(user_ids))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    times = columns.timestamps
    if order_only:
        times = np.arange(len(columns.users), dtype=np.int64) - offsets[columns.users]
    return Events(columns.users, columns.items, times, columns.ratings, offsets, user_ids, order_only, notes)


def _row_texts(table: Any, mask: npt.NDArray[np.bool_]) -> Any:
    rows = table.filter(pa.array(mask)).to_pylist() if mask.any() else []
    return pa.array([", ".join(str(value) for value in row.values()) for row in rows], pa.string())


def _first_reason(rejections: Rejections) -> str:
    if len(rejections) == 0:
        return ""
    first = rejections.table().slice(0, 1).to_pylist()[0]
    count = len(rejections)
    return f": {count} rows were rejected, the first in {first['source']} line {first['line']}: {first['reason']}"
