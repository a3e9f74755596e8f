"""The command line starts fast and fails politely."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from llmrec.cli.main import COMMANDS

HEAVY = {
    *("torch", "transformers", "datasets", "langchain", "langchain_core", "langgraph", "numpy", "pyarrow", "peft"),
    *("trl", "pandas", "sklearn", "scipy", "matplotlib", "sqlalchemy", "pydantic", "jinja2"),
}
_PROBE = """
import sys
from llmrec.cli.main import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0, stop.code
print("LOADED", *sorted(set(sys.modules) & set({heavy!r})))
"""


def _llmrec(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmrec.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    probe = [sys.executable, "-c", _PROBE.format(heavy=HEAVY)]
    answer = subprocess.run(probe, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1].strip() == "LOADED"
    for name in COMMANDS:
        assert name in answer.stdout


def test_help_answers_within_a_second() -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert _llmrec("--help").returncode == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 1.0, times


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "error: No such command 'fly'. (see: llmrec --help)"),
        (["data", "describe"], "error: Missing argument 'SPEC'. (see: llmrec data describe --help)"),
        (["data", "describe", "films", "--rows", "-1"], "error: Invalid value for '--rows'"),
        (["data", "describe", "films", "--colour"], "error: No such option"),
        (["data", "describe", "films:"], "error: unknown dataset spec, got 'films:'"),
        (["data", "describe", "table:/nowhere"], "error: no such folder or archive"),
        (["data", "download", "netflix", "--out", "x"], "error: no download named 'netflix'"),
    ],
)
def test_user_errors_are_one_line(arguments: list[str], message: str) -> None:
    answer = _llmrec(*arguments)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith(message)
    assert answer.stderr.count("\n") == 1


def test_version() -> None:
    answer = _llmrec("--version")
    assert answer.returncode == 0
    assert answer.stdout.strip().count(".") == 2
