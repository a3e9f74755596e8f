"""Histories as lines ``user item item ...`` in order of time, optionally with a file of stars aligned to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.arrow import IntArray
from llmrec.data.build import EventBatch
from llmrec.data.files import SourceFile
from llmrec.data.lines import Block, blocks
from llmrec.data.rejections import Rejections


def sequence_events(sequences: SourceFile, ratings: SourceFile | None, rejections: Rejections) -> Iterator[EventBatch]:
    """Events of a sequence file; only their order is known.

    Lines without items, with a user seen before, or whose stars do not fit are rejected.
    """
    stars = None if ratings is None else _Stars(ratings, rejections)
    seen: list[Any] = []
    for block in blocks(sequences, rejections):
        table = _Lines(block)
        keep = table.lengths > 0
        rejections.add_many(sequences.name, block.numbers[~keep], "history without items", block.lines.filter(~keep))
        again = _repeated(table.users, seen) & keep
        reason = "a second history of the same user; the first is kept"
        rejections.add_many(sequences.name, block.numbers[again], reason, block.lines.filter(pa.array(again)))
        keep &= ~again
        if stars is not None:
            unfit = keep & (stars.lengths(table.users) != table.lengths)
            reason = f"{stars.name} has another number of stars for this user"
            rejections.add_many(sequences.name, block.numbers[unfit], reason, block.lines.filter(pa.array(unfit)))
            keep &= ~unfit
        yield table.events(keep, sequences.name, stars)


class _Lines:
    """Lines split at blanks: the first word is the user, the others are values."""

    def __init__(self, block: Block) -> None:
        self.block = block
        parts = pc.split_pattern(pc.ascii_trim_whitespace(pc.replace_substring_regex(block.lines, r"\s+", " ")), " ")
        self.starts = np.asarray(parts.offsets, dtype=np.int64)[:-1] if len(parts) else np.empty(0, np.int64)
        self.words = parts.flatten()
        self.users = self.words.take(pa.array(self.starts)).cast(pa.string())
        self.lengths: IntArray = np.asarray(pc.list_value_length(parts), dtype=np.int64) - 1

    def values(self, keep: np.ndarray[Any, np.dtype[np.bool_]]) -> Any:
        """The values of the kept lines, in order."""
        mask = np.repeat(keep, self.lengths + 1)
        mask[self.starts] = False
        return self.words.filter(pa.array(mask))

    def events(self, keep: np.ndarray[Any, np.dtype[np.bool_]], source: str, stars: _Stars | None) -> EventBatch:
        """One event per value."""
        owner = np.repeat(np.flatnonzero(keep), self.lengths[keep])
        users = self.users.take(pa.array(owner))
        items = self.values(keep)
        return EventBatch(
            source=source,
            users=users,
            items=items.cast(pa.string()),
            timestamps=None,
            ratings=None if stars is None else stars.of(self.users.filter(pa.array(keep))),
            numbers=self.block.numbers[owner],
            lines=pc.binary_join_element_wise(users, items.cast(pa.string()), " "),
        )


class _Stars:
    """A file of stars, by user."""

    def __init__(self, file: SourceFile, rejections: Rejections) -> None:
        self.name = file.name
        tables = [_Lines(block) for block in blocks(file, rejections)]
        everything = [np.ones(len(table.lengths), dtype=np.bool_) for table in tables]
        self._users = pa.chunked_array([table.users for table in tables], pa.string()).combine_chunks()
        lengths = [table.lengths for table in tables]
        self._lengths = np.concatenate(lengths) if lengths else np.empty(0, np.int64)
        self._starts = np.cumsum(self._lengths) - self._lengths
        parts = [table.values(mask) for table, mask in zip(tables, everything, strict=True)]
        self._values = pa.chunked_array(parts, pa.large_string())

    def _rows(self, users: Any) -> IntArray:
        return np.asarray(pc.fill_null(pc.index_in(users, value_set=self._users), -1), dtype=np.int64)

    def lengths(self, users: Any) -> IntArray:
        """Number of stars of each user; -1 where there are none."""
        rows = self._rows(users)
        return np.where(rows >= 0, self._lengths[rows] if len(self._lengths) else -1, -1)

    def of(self, users: Any) -> Any:
        """The stars of these users, in order."""
        rows = self._rows(users)
        lengths = self._lengths[rows]
        first = np.repeat(self._starts[rows] - (np.cumsum(lengths) - lengths), lengths)
        return self._values.take(pa.array(first + np.arange(int(lengths.sum())))).combine_chunks()


def _repeated(users: Any, seen: list[Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Marks users of an earlier line; `seen` grows by this block."""
    codes = np.asarray(users.dictionary_encode().indices) if len(users) else np.empty(0, np.int64)
    again = np.ones(len(users), dtype=np.bool_)
    again[np.unique(codes, return_index=True)[1]] = False
    for earlier in seen:
        again |= np.asarray(pc.is_in(users, value_set=earlier))
    seen.append(users)
    return again
