"""Exit codes, JSON and messages that all commands share."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import typer

from llmrec.cli.common import emit_json, progress, run_command
from llmrec.errors import CacheError, ModelError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CacheError("the cache\nis broken"), 2, "error: the cache is broken\n"),
        (ModelError("it failed"), 1, "error: it failed\n"),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x/y"),
            2,
            "error: cannot use the path '/x/y': not ",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: cannot use the path '/x': permission"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 2, "error: the disk is full while writing /x; free"),
        (KeyboardInterrupt(), 130, "interrupted; run it again to go on\n"),
    ],
)
def test_errors_become_one_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught, run_command(resume="run it again to go on"):
        raise error
    assert caught.value.exit_code == code
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err.startswith(line)
    assert answer.err.count("\n") == 1


def test_bugs_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), run_command():
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), run_command():
        raise FileNotFoundError(errno.ENOENT, "no such file")


class _Interval(NamedTuple):
    value: float
    low: float


@dataclass
class _Row:
    where: Path
    numbers: np.ndarray[tuple[int], np.dtype[np.float32]]
    interval: _Interval


def test_json_understands_what_results_hold(capsys: pytest.CaptureFixture[str]) -> None:
    row = _Row(Path("a/b"), np.array([1.5, np.nan], dtype=np.float32), _Interval(0.5, float("inf")))
    emit_json({"row": row, "n": np.int64(3), "set": ("x", None), 4: True})
    assert json.loads(capsys.readouterr().out) == {
        "row": {"where": "a/b", "numbers": [1.5, None], "interval": {"value": 0.5, "low": None}},
        "n": 3,
        "set": ["x", None],
        "4": True,
    }


def test_progress_writes_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("counting", 2) as advance:
        advance(1)
        advance(1)
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err == "counting ...\ncounting: done\n"
