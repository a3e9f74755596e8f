"""The items that can be recommended: a memory-mapped Arrow table whose rows are items.

Inside the toolkit an item is its row number; string ids appear at the edges only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.arrow import ArrowStrings, StringIndex, as_table
from llmrec.errors import DataError

Kind = Literal["number", "category", "categories", "text"]
Value = str | int | float
UNKNOWN = "Unknown"
_RESERVED = ("item_id", "title")
_SHORT = 40  # characters; a longer median value is prose, not a category


class Catalogue:
    """Items with ids, titles and attributes.

    Args:
        table: `pyarrow.Table` or `datasets.Dataset` with string columns ``item_id`` and ``title``; every further
            column is an attribute: numbers, strings, or lists of strings.
        flat_fields: attributes of the flattened item text, in order (CALRec).
        flat_labels: label of an attribute in flattened text; default "Category" for genres and categories, else a name.
        separator: between the parts of flattened text.
        kinds: kind of some attributes; the others are inferred from their values.
        content_hash: hash of the content when it is known already (a cached dataset), else computed on demand.
    """

    def __init__(
        self,
        table: Any,
        *,
        flat_fields: Sequence[str] = (),
        flat_labels: Mapping[str, str] | None = None,
        separator: str = ". ",
        kinds: Mapping[str, Kind] | None = None,
        content_hash: str | None = None,
    ) -> None:
        self.table = as_table(table)
        self._owner = table  # keeps the memory map of a datasets.Dataset open
        missing = [name for name in _RESERVED if name not in self.table.column_names]
        if missing:
            raise DataError(f"a catalogue needs the columns item_id and title, got {self.table.column_names!r}")
        self.attribute_names: tuple[str, ...] = tuple(n for n in self.table.column_names if n not in _RESERVED)
        unknown = [name for name in flat_fields if name not in self.attribute_names]
        if unknown:
            raise DataError(f"no attribute {unknown[0]!r} for flattened text; got {self.attribute_names!r}")
        self.flat_fields: tuple[str, ...] = tuple(flat_fields)
        self.flat_labels: dict[str, str] = {"genres": "Category", "categories": "Category"} | dict(flat_labels or {})
        self.separator = separator
        self.item_ids: Sequence[str] = ArrowStrings(self.table.column("item_id"))
        self._kinds: dict[str, Kind] = dict(kinds or {})
        self._content_hash = content_hash
        self._vocabularies: dict[str, dict[str, int]] = {}

    @classmethod
    def from_columns(
        cls,
        columns: Mapping[str, Sequence[Any]],
        *,
        flat_fields: Sequence[str] = (),
        flat_labels: Mapping[str, str] | None = None,
        separator: str = ". ",
        kinds: Mapping[str, Kind] | None = None,
    ) -> Catalogue:
        """A catalogue in memory from plain columns: ``{"item_id": [...], "title": [...], "genres": [[...], ...]}``."""
        table = pa.table({name: pa.array(list(values)) for name, values in columns.items()})
        return cls(table, flat_fields=flat_fields, flat_labels=flat_labels, separator=separator, kinds=kinds)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"Catalogue(n={len(self)}, attributes={self.attribute_names})"

    @cached_property
    def content_hash(self) -> str:
        """Hash of ids, titles and attributes; equal content gives equal hashes on every machine."""
        return self._content_hash or hash_table(self.table)

    @cached_property
    def _index(self) -> StringIndex:
        return StringIndex(self.table.column("item_id"))

    def row(self, item_id: str) -> int:
        """Row of an item id.

        Raises:
            DataError: no such id; the message lists the nearest ids.
        """
        found = self._index.find(str(item_id))
        if found is None:
            raise DataError(f"no item with id {item_id!r} in the catalogue; nearest ids: {self._nearest(str(item_id))}")
        return found

    def _nearest(self, item_id: str) -> list[str]:
        from rapidfuzz import process

        return [str(match[0]) for match in process.extract(item_id, self.item_ids[:100_000], limit=3)]

    def title(self, row: int) -> str:
        """Title of an item; "Unknown" when the source has none."""
        return str(self.table.column("title")[self._checked(row)].as_py() or UNKNOWN)

    def titles(self) -> list[str]:
        """All titles, by row."""
        return [str(title) if title else UNKNOWN for title in self.table.column("title").to_pylist()]

    def kind(self, name: str) -> Kind:
        """What an attribute holds: a number, one or several repeated short values, or free text."""
        if name not in self._kinds:
            self._kinds[name] = infer_kind(self._column(name))
        return self._kinds[name]

    def values(self, row: int, name: str) -> tuple[Value, ...]:
        """Values of an attribute; empty when missing, one element for a scalar."""
        return _as_values(self._column(name)[self._checked(row)].as_py())

    def vocabulary(self, name: str) -> dict[str, int]:
        """Each value of a category attribute with its number of items, most frequent first (ties by value).

        Raises:
            DataError: the attribute is a number or free text.
        """
        if self.kind(name) not in ("category", "categories"):
            raise DataError(f"attribute {name!r} is a {self.kind(name)}, it has no vocabulary")
        if name not in self._vocabularies:
            column = self._column(name)
            flat = pc.list_flatten(column) if _is_list(column.type) else column
            pairs = [(str(c["values"]), int(c["counts"])) for c in pc.value_counts(flat.drop_null()).to_pylist()]
            self._vocabularies[name] = dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
        return self._vocabularies[name]

    def display(self, row: int) -> str:
        """Title with the year, "Alien (1979)", when there is a year attribute and the title does not end with it."""
        title = self.title(row)
        year = self.values(row, "year") if "year" in self.attribute_names else ()
        return title if not year or title.endswith(f"({year[0]})") else f"{title} ({year[0]})"

    def describe(self, row: int) -> dict[str, Any]:
        """Id, title and every attribute that has a value."""
        row = self._checked(row)
        attributes = {name: self._column(name)[row].as_py() for name in self.attribute_names}
        present = {name: value for name, value in attributes.items() if value not in (None, "", [])}
        return {"item_id": self.item_ids[row], "title": self.title(row), **present}

    def flat(self, row: int) -> str:
        """Flattened text, "Title: Alien (1979). Category: Horror, Sci-Fi" (CALRec)."""
        parts = [f"Title: {self.display(row)}"]
        for name in self.flat_fields:
            label = self.flat_labels.get(name, name.replace("_", " ").capitalize())
            parts.append(f"{label}: {', '.join(str(value) for value in self.values(row, name)) or UNKNOWN}")
        return self.separator.join(parts)

    def document(self, row: int) -> str:
        """All text of an item for lexical and dense retrieval: title, then every attribute."""
        parts = [self.title(row)]
        parts.extend(" ".join(str(value) for value in self.values(row, name)) for name in self.attribute_names)
        return "\n".join(part for part in parts if part)

    def _column(self, name: str) -> Any:
        if name not in self.attribute_names:
            raise DataError(f"no attribute {name!r} in the catalogue; got {self.attribute_names!r}")
        return self.table.column(name)

    def _checked(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise DataError(f"no item in row {row!r}; the catalogue has rows 0 to {len(self) - 1}")
        return int(row)


def infer_kind(column: Any) -> Kind:
    """Kind of a column from its type and values; strings are categories when they are short and repeat."""
    if _is_list(column.type):
        return "categories"
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return "number"
    known = column.drop_null().cast(pa.string())
    if len(known) == 0:
        return "text"
    lengths = np.sort(np.asarray(pc.utf8_length(known)))
    repeats = int(pc.count_distinct(known).as_py()) <= max(1, len(known) // 2)
    return "category" if lengths[len(lengths) // 2] <= _SHORT and repeats else "text"


def hash_table(table: Any) -> str:
    """SHA-256 (32 hex digits) of column names and values, independent of chunking."""
    digest = hashlib.sha256()
    for name in table.column_names:
        digest.update(f"\x1e{name}\x1d".encode())
        column = table.column(name)
        for start in range(0, len(column), 65_536):
            _hash_values(column.slice(start, 65_536), digest)
    return digest.hexdigest()[:32]


def _hash_values(column: Any, digest: hashlib._Hash) -> None:
    """Nulls, lengths and values of a column, without a loop over its elements."""
    digest.update(np.asarray(pc.is_null(column)).tobytes())
    if _is_list(column.type):
        digest.update(np.asarray(pc.fill_null(pc.list_value_length(column), 0), dtype="<i8").tobytes())
        _hash_values(pc.list_flatten(column), digest)
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        filled = np.asarray(pc.fill_null(column, 0))
        digest.update(filled.astype("<i8" if pa.types.is_integer(column.type) else "<f8").tobytes())
    else:
        filled = pc.fill_null(column.cast(pa.large_string()), "")
        digest.update(np.asarray(pc.binary_length(filled), dtype="<i8").tobytes())
        for chunk in filled.chunks if isinstance(filled, pa.ChunkedArray) else [filled]:
            offsets = np.frombuffer(chunk.buffers()[1], dtype=np.int64)[chunk.offset :][: len(chunk) + 1]
            if len(chunk):
                digest.update(memoryview(chunk.buffers()[2])[offsets[0] : offsets[-1]])


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _as_values(value: Any) -> tuple[Value, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, list):
        return tuple(element for element in value if element not in (None, ""))
    return (value,)
