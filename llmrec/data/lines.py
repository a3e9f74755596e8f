"""Text files as blocks of lines in Arrow, split into columns without a Python loop over rows.

Line numbers survive every step, so each rejected row can be named. Files with quotes go through Python's csv module
instead, record by record: a quoted field may span lines.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.arrow import IntArray
from llmrec.data.files import SourceFile
from llmrec.data.rejections import Rejections
from llmrec.errors import DataError

BLOCK = 32 << 20
MAX_LINE = 1 << 20
_MAX_SPAN = 1000  # lines that one quoted record may span before its quote counts as never closed


@dataclass(frozen=True)
class Block:
    """Consecutive lines of a file."""

    lines: Any
    """Arrow large_string array without line ends, shape (n,)."""
    numbers: IntArray
    """Line number of each, from 1, shape (n,)."""

    def take(self, mask: npt.NDArray[np.bool_]) -> Block:
        """The lines where the mask is true."""
        return self if bool(mask.all()) else Block(self.lines.filter(pa.array(mask)), self.numbers[mask])


@dataclass(frozen=True)
class Columns:
    """Fields of consecutive rows."""

    fields: list[Any]
    """One Arrow string array per column, each of shape (n,)."""
    numbers: IntArray
    """Line number of each row, shape (n,)."""
    lines: Any
    """The whole rows as text, for messages, shape (n,)."""


def blocks(file: SourceFile, rejections: Rejections, *, encoding: str = "utf-8", size: int = BLOCK) -> Iterator[Block]:
    """Lines of a text file that are not blank, in blocks.

    Lines that are not valid text or longer than one mebibyte are rejected.
    """
    number = 1
    with file.open() as stream:
        for raw in _raw_blocks(stream, size):
            data = _first(raw, file) if number == 1 else raw
            block = _to_lines(data, number, file.name, rejections, encoding)
            number += raw.count(b"\n")
            filled = np.asarray(pc.greater(pc.binary_length(block.lines), 0))
            yield block.take(filled)


def split(
    block: Block, delimiter: str, width: int, source: str, rejections: Rejections, *, at_least: int | None = None
) -> Columns:
    """Split lines at a delimiter of one or more characters; lines with another number of fields are rejected.

    Args:
        block: lines.
        delimiter: such as "::" or a tab.
        width: expected number of fields.
        source: file name, for rejections.
        rejections: collects the others.
        at_least: accept lines with at least this many fields and ignore those after `width`.
    """
    n_fields = np.asarray(pc.count_substring(block.lines, delimiter)).astype(np.int64) + 1
    fits = n_fields == width if at_least is None else n_fields >= at_least
    for wrong in np.unique(n_fields[~fits]):
        bad = n_fields == wrong
        reason = f"expected {width} fields, got {int(wrong)}"
        rejections.add_many(source, block.numbers[bad], reason, block.lines.filter(pa.array(bad)))
    good = block.take(fits)
    parts = pc.split_pattern(good.lines, delimiter)
    starts = np.asarray(parts.offsets)[:-1] if len(parts) else np.empty(0, np.int64)
    flat = parts.flatten()
    fields = [flat.take(pa.array(starts + i)).cast(pa.large_string()) for i in range(width)]
    return Columns(fields, good.numbers, good.lines)


def delimited(file: SourceFile, delimiter: str, rejections: Rejections) -> tuple[list[str], Iterator[Columns]]:
    """A file with a header line: column names, and an iterator over blocks of its rows.

    Quotes have a meaning in comma-separated files only.

    Raises:
        DataError: the file is empty or its header cannot be used.
    """
    rows = (
        _quoted(file, delimiter, rejections)
        if delimiter == "," and _has_quotes(file)
        else _plain(file, delimiter, rejections)
    )
    header = next(rows, None)
    if header is None or len(header.fields) == 0 or len(header.fields[0]) == 0:
        raise DataError(f"{file.name} is empty; it needs a header line with column names")
    names = [str(field[0].as_py()).strip() for field in header.fields]
    if len(set(names)) != len(names) or "" in names:
        raise DataError(f"{file.name} needs distinct, non-empty column names in its first line, got {names!r}")
    return names, rows


def _plain(file: SourceFile, delimiter: str, rejections: Rejections) -> Iterator[Columns]:
    width = 0
    for block in blocks(file, rejections):
        if width == 0:
            if len(block.lines) == 0:
                continue
            width = str(block.lines[0].as_py()).count(delimiter) + 1
            head = np.arange(len(block.lines)) == 0
            yield split(block.take(head), delimiter, width, file.name, rejections)
            block = block.take(~head)
        yield split(block, delimiter, width, file.name, rejections)


def _quoted(file: SourceFile, delimiter: str, rejections: Rejections, *, batch: int = 50_000) -> Iterator[Columns]:
    width = 0
    rows: list[list[str]] = []
    numbers: list[int] = []
    for number, fields in _records(file, delimiter, rejections):
        rows.append(fields)
        numbers.append(number)
        if not width or len(rows) == batch:  # the header is a batch of its own
            width = len(fields)
            yield _transposed(rows, numbers, width)
            rows, numbers = [], []
    if width:
        yield _transposed(rows, numbers, width)


def _records(file: SourceFile, delimiter: str, rejections: Rejections) -> Iterator[tuple[int, list[str]]]:
    """Records of a quoted file with the number of their first line.

    A record that cannot be read costs its first line only: the lines after a quote that is never closed are read again
    as records of their own.
    """
    lines = _single_lines(file, rejections)
    pending: list[tuple[int, str]] = []
    width = 0
    while pending or (pending := list(islice(lines, 1))):
        fields, used, fault = _parse(pending, lines, delimiter, width)
        if fault:
            rejections.add(file.name, *_with_reason(pending[0], fault))
            used = 1
        else:
            width = width or len(fields)
            yield pending[0][0], fields
        pending = pending[used:]


def _with_reason(line: tuple[int, str], reason: str) -> tuple[int, str, str]:
    return line[0], reason, line[1]


def _parse(
    pending: list[tuple[int, str]], lines: Iterator[tuple[int, str]], delimiter: str, width: int
) -> tuple[list[str], int, str]:
    """The first record of `pending`, which grows as needed: its fields, number of lines used, and what is wrong."""
    quotes = 0
    for used in range(1, _MAX_SPAN):
        if used > len(pending):
            pending.extend(islice(lines, 1))
        if used > len(pending):
            break
        quotes += pending[used - 1][1].count('"')
        if quotes % 2 == 0:
            return _fields("\n".join(text for _, text in pending[:used]), used, delimiter, width)
    return [], 0, "broken CSV: a quote is opened and never closed"


def _fields(record: str, used: int, delimiter: str, width: int) -> tuple[list[str], int, str]:
    try:
        fields = next(csv.reader(record.splitlines(keepends=True), delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        return [], used, f"broken CSV: {error}"
    if width and len(fields) != width:
        return [], used, f"expected {width} fields, got {len(fields)}"
    return fields, used, ""


def _single_lines(file: SourceFile, rejections: Rejections) -> Iterator[tuple[int, str]]:
    for block in blocks(file, rejections):
        yield from zip(block.numbers.tolist(), block.lines.to_pylist(), strict=True)


def _transposed(rows: Sequence[Sequence[str]], numbers: list[int], width: int) -> Columns:
    fields = [pa.array([row[i] for row in rows], pa.large_string()) for i in range(width)]
    texts = pa.array([",".join(row) for row in rows], pa.large_string())
    return Columns(fields, np.asarray(numbers, dtype=np.int64), texts)


def _has_quotes(file: SourceFile) -> bool:
    with file.open() as stream:
        while chunk := stream.read(BLOCK):
            if b'"' in chunk:
                return True
    return False


def _raw_blocks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Bytes in pieces that end with a line end (the last piece is given one)."""
    rest = b""
    while data := stream.read(size):
        data = rest + data
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            rest = data
            continue
        rest = data[cut:]
        yield data[:cut]
    if rest:
        yield rest + b"\n"


def _first(raw: bytes, file: SourceFile) -> bytes:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{file.name} is UTF-16; save it as UTF-8")
    return raw.removeprefix(b"\xef\xbb\xbf")


def _to_lines(data: bytes, first: int, source: str, rejections: Rejections, encoding: str) -> Block:
    if encoding != "utf-8":
        data = data.decode(encoding).encode()
    ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n")) + 1
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    numbers = first + np.arange(len(ends), dtype=np.int64)
    binary = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    bad = _unreadable(data, binary, np.diff(offsets), numbers, source, rejections)
    if bad.any():
        binary, numbers = binary.filter(pa.array(~bad)), numbers[~bad]
    return Block(pc.ascii_rtrim(binary.cast(pa.large_string()), characters="\r\n"), numbers)


def _unreadable(
    data: bytes, lines: Any, lengths: IntArray, numbers: IntArray, source: str, rejections: Rejections
) -> npt.NDArray[np.bool_]:
    """Marks lines that are too long, hold NUL bytes or are not UTF-8, and rejects them."""
    bad = lengths > MAX_LINE
    for long in np.flatnonzero(bad):
        text = lines[int(long)].as_py()[:200]
        reason = f"line of {int(lengths[long])} bytes, more than {MAX_LINE} allowed"
        rejections.add(source, int(numbers[long]), reason, text)
    try:
        data.decode()
        suspicious = b"\x00" in data
    except UnicodeDecodeError:
        suspicious = True
    if suspicious:  # rare, so a loop over the lines of this block is fine
        for i, line in enumerate(lines.to_pylist()):
            fault = _fault(line)
            if fault and not bad[i]:
                bad[i] = True
                rejections.add(source, int(numbers[i]), fault, line[:200].rstrip(b"\r\n"))
    return np.asarray(bad, dtype=np.bool_)


def _fault(line: bytes) -> str | None:
    if b"\x00" in line:
        return "holds a NUL byte"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start})"
    return None
