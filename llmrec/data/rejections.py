"""Collects the rows that a loader does not take: in Arrow, so that a million bad rows cost no more than good ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llmrec.data.dataset import Rejected

_TEXT = 120  # characters of a rejected row that are kept
SCHEMA = pa.schema(
    [("source", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("text", pa.string())],
)


class RejectedRows(Sequence[Rejected]):
    """Rejected rows over a table of `SCHEMA`."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Rejected: ...
    @overload
    def __getitem__(self, index: slice) -> list[Rejected]: ...
    def __getitem__(self, index: int | slice) -> Rejected | list[Rejected]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index out of range, got {index} for {len(self)} rejected rows")
        return Rejected(**self.table.slice(index % len(self), 1).to_pylist()[0])

    def by_reason(self) -> dict[tuple[str, str], int]:
        """Number of rejected rows per (source, reason), in order of first appearance."""
        counts: dict[tuple[str, str], int] = {}
        for source, reason in zip(*(self.table.column(n).to_pylist() for n in ("source", "reason")), strict=True):
            counts[source, reason] = counts.get((source, reason), 0) + 1
        return counts


class Rejections:
    """What one load has rejected so far."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, int, str, str]] = []
        self._tables: list[Any] = []

    def __len__(self) -> int:
        return len(self._rows) + sum(int(table.num_rows) for table in self._tables)

    def add(self, source: str, line: int, reason: str, text: str | bytes = "") -> None:
        """Reject one row."""
        shown = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
        self._rows.append((source, int(line), reason, shorten(shown)))

    def add_many(self, source: str, lines: npt.NDArray[np.int64], reason: str, texts: Any) -> None:
        """Reject many rows for one reason.

        Args:
            source: file name.
            lines: line numbers, shape (n,).
            reason: why.
            texts: Arrow string array of shape (n,).
        """
        if len(lines) == 0:
            return
        shown = [shorten(str(text)) for text in texts.to_pylist()]
        columns = [pa.array([source] * len(lines)), pa.array(lines), pa.array([reason] * len(lines)), pa.array(shown)]
        self._tables.append(pa.table(columns, schema=SCHEMA))

    def table(self) -> Any:
        """All rejected rows, sorted by source and line."""
        rows = pa.table([pa.array([row[i] for row in self._rows], SCHEMA.types[i]) for i in range(4)], schema=SCHEMA)
        return pa.concat_tables([rows, *self._tables]).sort_by([("source", "ascending"), ("line", "ascending")])


def shorten(text: str) -> str:
    """One line of bounded length, without control characters."""
    clean = "".join(c if c.isprintable() else " " for c in text[: _TEXT + 1])
    return clean if len(clean) <= _TEXT else clean[: _TEXT - 1] + "…"
