"""Amazon reviews: sequences with ``items.jsonl``, or the official review and metadata JSON lines (2014, 2018, 2023).

He and McAuley, "Ups and Downs", WWW 2016 (2014 files); Ni et al., "Justifying Recommendations", EMNLP 2019 (2018); Hou
et al., "Bridging Language and Items for Retrieval and Recommendation", 2024 (2023).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec.data.build import EventBatch, Raw, distinct_rows
from llmrec.data.columns import kinds_of
from llmrec.data.files import FileSet, SourceFile
from llmrec.data.jsonl import columns, objects
from llmrec.data.markup import plain_text
from llmrec.data.rejections import Rejections
from llmrec.data.sequences import sequence_events
from llmrec.errors import DataError

LICENCE = "McAuley Lab, UCSD: research use; cite the paper of the release (2014, 2018 or 2023)"
_PRICE = re.compile(r"(\d[\d,]*(?:\.\d+)?)")
_TEXT = pa.string()


@dataclass(frozen=True)
class _Form:
    """Names of the review fields in one release."""

    user: str
    item: str
    rating: str
    time: str
    unit: int


_RELEASES = (
    _Form("reviewerID", "asin", "overall", "unixReviewTime", 1),  # 2014 and 2018
    _Form("user_id", "parent_asin", "rating", "timestamp", 1000),  # 2023: milliseconds
)


def source_files(files: FileSet) -> list[SourceFile]:
    """The files that this source reads.

    Raises:
        DataError: neither form is there.
    """
    if sequences := files.find("sequences.txt"):
        items = files.find("items.jsonl")
        if items is None:
            raise DataError(f"{files.path} has sequences.txt but no items.jsonl; got {files.names()!r}")
        return [sequences, items]
    meta = files.first(_is_meta)
    reviews = files.first(lambda file: file.suffix in (".json", ".jsonl") and not _is_meta(file))
    if meta is None or reviews is None:
        raise DataError(
            f"no Amazon data in {files.path}: expected sequences.txt and items.jsonl, or a review file "
            f"and a meta_* file (.json or .jsonl, .gz too), got {files.names()!r}"
        )
    return [reviews, meta]


def read(files: FileSet, rejections: Rejections) -> Raw:
    """Read whichever form is there."""
    first, second = source_files(files)
    if first.name.startswith("sequences.txt"):
        items, notes = _items(second, "item_id", rejections)
        return _raw(files, items, sequence_events(first, None, rejections), 1, notes)
    form = _release(first)
    items, notes = _items(second, form.item, rejections)
    return _raw(files, items, _reviews(first, form, rejections), form.unit, notes)


def _raw(files: FileSet, items: Any, events: Iterator[EventBatch], unit: int, notes: list[str]) -> Raw:
    return Raw(
        name=files.path.stem,
        items=items,
        events=events,
        rating_range=(1.0, 5.0),
        time_unit=unit,
        flat_fields=tuple(name for name in ("categories", "brand", "price") if name in items.column_names),
        kinds=kinds_of(items),
        notes=tuple(notes),
        licence=LICENCE,
        item_noun="product",
        domain="products",
    )


def _is_meta(file: SourceFile) -> bool:
    return file.name.startswith("meta") and file.suffix in (".json", ".jsonl")


def _release(reviews: SourceFile) -> _Form:
    first = next((row for _, row in objects(reviews, Rejections())), None)
    if first is None:
        raise DataError(f"{reviews.name} is empty or has no JSON object")
    for form in _RELEASES:
        if form.user in first and form.item in first:
            return form
    raise DataError(
        f"{reviews.name} is not a review file: expected reviewerID and asin, or user_id and parent_asin; "
        f"got {list(first)!r}"
    )


def _reviews(file: SourceFile, form: _Form, rejections: Rejections) -> Iterator[EventBatch]:
    kinds = {form.user: _TEXT, form.item: _TEXT, form.rating: pa.float64(), form.time: pa.int64()}
    for found, block in columns(file, kinds, rejections):
        yield EventBatch(
            source=file.name,
            users=found[form.user],
            items=found[form.item],
            timestamps=found[form.time],
            ratings=found[form.rating],
            numbers=block.numbers,
            lines=block.lines,
        )


def _items(file: SourceFile, key: str, rejections: Rejections) -> tuple[Any, list[str]]:
    """Items with title, categories (the first path), and brand and price where the source has any."""
    rows = list(objects(file, rejections))
    found: dict[str, list[Any]] = {"item_id": [], "title": [], "categories": [], "brand": [], "price": []}
    several = 0
    for _, row in rows:
        path, n_paths = _category_path(row)
        several += n_paths > 1
        found["item_id"].append(_clean(row.get(key)))
        found["title"].append(_clean(row.get("title")))
        found["categories"].append(path)
        found["brand"].append(_clean(row.get("brand") or row.get("store")))
        found["price"].append(_price(row.get("price")))
    types = {"categories": pa.list_(_TEXT), "price": pa.float64()}
    arrays = {name: pa.array(values, types.get(name, _TEXT)) for name, values in found.items()}
    present = {n: a for n, a in arrays.items() if n in ("item_id", "title", "categories") or a.null_count < len(a)}
    lines = np.array([number for number, _ in rows], dtype=np.int64)
    notes = [f"categories: the first path of each product; {several} products have further paths"]
    return distinct_rows(pa.table(present), "item_id", file.name, lines, rejections), notes


def _category_path(row: Mapping[str, Any]) -> tuple[list[str], int]:
    """The first category path, without empty or repeated levels, and the number of paths."""
    value = row.get("categories") or row.get("category") or []
    if not isinstance(value, list):
        value = [value]
    paths = value if value and isinstance(value[0], list) else [value]
    levels = [text for level in paths[0] if (text := _clean(level))]
    return list(dict.fromkeys(levels)), len(paths)


def _clean(value: object) -> str | None:
    """Plain text of a field: no HTML entities, tags or line ends; None when nothing is left."""
    if value is None or isinstance(value, list | dict):
        return None
    return plain_text(str(value)) or None


def _price(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _PRICE.search(value) if isinstance(value, str) and len(value) < 40 else None
    return float(match[1].replace(",", "")) if match else None


def product_code_ranks(files: FileSet, item_ids: Sequence[str]) -> Any:
    """Rank of each item's ASIN in ascending order, by which the 2014 files sort the events of one day.

    Args:
        files: the folder that the dataset was read from.
        item_ids: ids of the catalogue, by row.

    Returns:
        int64, shape (n_items,).

    Raises:
        DataError: an item has no ASIN.
    """
    file = files.find("items.jsonl")
    if file is None:  # review files: the id is the ASIN
        codes = list(item_ids)
    else:
        by_id = {str(row.get("item_id")): str(row["asin"]) for _, row in objects(file, Rejections()) if row.get("asin")}
        missing = next((one for one in item_ids if one not in by_id), None)
        if missing is not None:
            raise DataError(f"items.jsonl names no asin for item {missing!r}; ties cannot be found without it")
        codes = [by_id[one] for one in item_ids]
    return np.argsort(np.argsort(codes, kind="stable"), kind="stable").astype(np.int64)
