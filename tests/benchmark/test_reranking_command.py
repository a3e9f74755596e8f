"""eval/reranking.py: one table, lists before and after, and errors in a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from llmrec.assets import asset, load_file


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> object:
    script = load_file(asset("eval/reranking.py"), name="llmrec_eval_reranking")

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["reranking.py", *arguments])
        script.main()

    return run


def test_the_table_has_every_list_and_its_change(
    command: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(command)
    command("--users", "40", "--rerankers", "mmr", "calibrated", "--k", "5", "--json", str(tmp_path / "found.json"))
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [row[0].strip("| ") for row in rows if len(row) > 1] == [
        "knn, 40 users",
        "before",
        "mmr",
        "change",
        "calibrated",
        "change",
    ]
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert (found["n"], found["k"]) == (40, 5)
    more_varied = found["lists"]["mmr"]["diversity"][0] - found["lists"]["before"]["diversity"][0]
    assert found["change"]["mmr"]["diversity"][0] == pytest.approx(more_varied)
    assert more_varied > 0


def test_a_wrong_attribute_is_one_line(command: object) -> None:
    assert callable(command)
    with pytest.raises(SystemExit, match=r"error: .*nonsense"):
        command("--users", "5", "--attribute", "nonsense")
