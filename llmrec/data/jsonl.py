"""JSON lines: whole columns at once where every line is good, line by line where one is not."""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj

from llmrec.data.files import SourceFile
from llmrec.data.lines import Block, blocks
from llmrec.data.rejections import Rejections

Decode = Callable[[str], Any]


def objects(file: SourceFile, rejections: Rejections) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line; lines that are not JSON objects are rejected.

    Lines in Python notation (single quotes, as the 2014 Amazon metadata has them) are understood too.
    """
    for block in blocks(file, rejections):
        for number, text in zip(block.numbers.tolist(), block.lines.to_pylist(), strict=True):
            try:
                yield number, _decode(text)
            except ValueError as error:
                rejections.add(file.name, number, str(error), text)


def columns(
    file: SourceFile, names: Mapping[str, Any], rejections: Rejections
) -> Iterator[tuple[dict[str, Any], Block]]:
    """Some fields of every object as Arrow columns, block by block; other fields are not even decoded.

    Args:
        file: JSON lines.
        names: field name -> Arrow type to expect. Where a block does not keep to it, its values are read as strings.
        rejections: collects lines that are not objects.
    """
    schema = pa.schema([(name, kind) for name, kind in names.items()])
    options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    for block in blocks(file, rejections, size=8 << 20):
        yield _fast(block, names, options) or _slow(block, names, file.name, rejections)


def _fast(block: Block, names: Mapping[str, Any], options: Any) -> tuple[dict[str, Any], Block] | None:
    if len(block.lines) == 0:
        return {name: pa.array([], kind) for name, kind in names.items()}, block
    text = "\n".join(block.lines.to_pylist()).encode()
    try:
        read = pj.ReadOptions(block_size=len(text) + 1)
        table = pj.read_json(io.BytesIO(text), read_options=read, parse_options=options)
    except pa.ArrowInvalid:
        return None
    if table.num_rows != len(block.lines):  # two objects on a line, or one over two lines
        return None
    return {name: table.column(name).combine_chunks() for name in names}, block


def _slow(block: Block, names: Mapping[str, Any], source: str, rejections: Rejections) -> tuple[dict[str, Any], Block]:
    found: dict[str, list[str | None]] = {name: [] for name in names}
    good = np.zeros(len(block.lines), dtype=np.bool_)
    for i, text in enumerate(block.lines.to_pylist()):
        try:
            row = _decode(text)
        except ValueError as error:
            rejections.add(source, int(block.numbers[i]), str(error), text)
            continue
        good[i] = True
        for name, values in found.items():
            values.append(None if row.get(name) is None else str(row[name]))
    return {name: pa.array(values, pa.string()) for name, values in found.items()}, block.take(good)


def _decode(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        value = _python_literal(text)
        if value is None:
            raise ValueError(f"not JSON: {str(error)[:80]}") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _python_literal(text: str) -> Any:
    if not text.startswith("{'"):
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
