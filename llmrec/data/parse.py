"""Strings to numbers and times, a whole column at a time, with a mask of what could not be read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data.arrow import IntArray

Mask = npt.NDArray[np.bool_]
_NUMBER = r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$"
_LATEST = 32_503_680_000  # 3000-01-01 in seconds: larger values are milliseconds or nonsense


def missing(column: Any) -> Mask:
    """True where a value is null or blank."""
    if not _is_string(column.type):
        return np.asarray(pc.is_null(column))
    return np.asarray(pc.fill_null(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0), True))


def numbers(column: Any) -> tuple[npt.NDArray[np.float64], Mask]:
    """Values as float64 (NaN where unreadable) and a mask of the readable, finite ones. Takes strings or numbers."""
    if _is_string(column.type):
        trimmed = pc.utf8_trim_whitespace(column)
        readable = pc.fill_null(pc.match_substring_regex(trimmed, _NUMBER), False)
        column = pc.if_else(readable, trimmed, pa.scalar(None, trimmed.type))
    values = np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), float("nan")), dtype=np.float64)
    return values, np.isfinite(values)


def timestamps(column: Any, *, unit: int = 1) -> tuple[IntArray, list[tuple[Mask, str]]]:
    """Seconds since 1970 from numbers, ISO 8601 texts or Arrow timestamps, and the faults: (mask, reason) pairs.

    Args:
        column: shape (n,). Times without a zone are taken as UTC.
        unit: divisor of plain numbers (1000 for milliseconds).
    """
    if pa.types.is_temporal(column.type):
        seconds = _temporal(column)
        readable = ~np.isnan(seconds)
    else:
        seconds, readable = numbers(column)
        seconds = seconds / unit
        if _is_string(column.type) and not readable.all():
            rest = ~readable & ~missing(column)
            seconds[rest], readable[rest] = _iso(column.filter(pa.array(rest)))
    seconds = np.where(readable, seconds, 0)
    faults = [
        (~readable, "timestamp is neither a number of seconds nor an ISO date"),
        (readable & (seconds < 0), "timestamp is negative"),
        (readable & (seconds > _LATEST), "timestamp is after the year 3000 (milliseconds instead of seconds?)"),
    ]
    return np.clip(seconds, 0, _LATEST).astype(np.int64), faults


def _temporal(column: Any) -> npt.NDArray[np.float64]:
    micro = column.cast(pa.timestamp("us")).cast(pa.int64())
    return np.asarray(pc.fill_null(micro.cast(pa.float64(), safe=False), float("nan"))) // 1e6


def _iso(column: Any) -> tuple[npt.NDArray[np.float64], Mask]:
    try:
        return _temporal(pc.utf8_trim_whitespace(column).cast(pa.timestamp("us"))), np.ones(len(column), dtype=np.bool_)
    except pa.ArrowInvalid:  # zones, other ISO forms or an unreadable one: value by value
        values = np.array([_iso_value(str(text)) for text in column.to_pylist()], dtype=np.float64)
        return values, ~np.isnan(values)


def _iso_value(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return float("nan")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_string(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
