"""A simulation that is killed again and again ends with every session exactly once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.simulate.journal import Journal
from tests.simulate import child

_ROOT = Path(__file__).resolve().parents[2]
_KILLS = 10


def _zygote(journal: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(Path(child.__file__)), str(journal)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )


def _fork(zygote: subprocess.Popen[str]) -> int:
    assert zygote.stdin is not None
    zygote.stdin.write("go\n")
    zygote.stdin.flush()
    return int(_line(zygote))


def _line(zygote: subprocess.Popen[str]) -> str:
    assert zygote.stdout is not None
    return zygote.stdout.readline().strip()


def _written(journal: Path) -> int:
    if not journal.exists():
        return 0
    with sqlite3.connect(journal, timeout=30) as connection:
        tables = {name for (name,) in connection.execute("select name from sqlite_master")}
        n = int(connection.execute("select count(*) from sessions").fetchone()[0]) if "sessions" in tables else 0
    connection.close()
    return n


def _run_to_the_end(zygote: subprocess.Popen[str]) -> None:
    _fork(zygote)
    assert _line(zygote) == "ended 0"


def _rows(journal: Path) -> list[dict[str, Any]]:
    with Journal(journal, create=False) as book:
        return [one.model_dump(exclude={"seconds"}) for one in book.sessions("killed")]


def test_ten_kills_leave_every_session_exactly_once(tmp_path: Path) -> None:
    """Each child is killed after it has written a random number of further sessions, at a random moment."""
    killed, whole = tmp_path / "killed.db", tmp_path / "whole.db"
    draws = np.random.default_rng(5)
    n_sessions = 2 * child.N_USERS
    sizes = []
    with _zygote(killed) as zygote:
        for _ in range(_KILLS):
            before = _written(killed)
            victim = _fork(zygote)
            goal = min(before + int(draws.integers(0, 4)), n_sessions - 20)  # the child must still be at work
            while _written(killed) < goal:
                time.sleep(0.03)
            time.sleep(float(draws.uniform(0.0, 0.1)))
            os.kill(victim, signal.SIGKILL)
            assert _line(zygote) == f"ended {-signal.SIGKILL}"
            sizes.append(_written(killed))
        assert sizes == sorted(sizes)
        assert 0 < sizes[-1] < n_sessions
        _run_to_the_end(zygote)
        assert zygote.stdin is not None
        zygote.stdin.close()
    with _zygote(whole) as zygote:
        _run_to_the_end(zygote)
        assert zygote.stdin is not None
        zygote.stdin.close()
    rows = _rows(killed)
    assert set(Counter((one["user"], one["policy"]) for one in rows).values()) == {1}
    assert len(rows) == n_sessions
    assert rows == _rows(whole)
