"""``llmrec data``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llmrec.cli.main import main


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    answer = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, answer.out, answer.err


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """Three items (two of one name, one without), two users, two bad rows."""
    (tmp_path / "items.csv").write_text("item_id,title,year,kind\na,Alien,1979,[red]\nb,Alien,1979,[red]\nc,,,[red]\n")
    rows = "u,a,86400,5\nu,b,172800,4\nv,a,0,3\nv,zz,9,3\nv,b,soon,3\n"
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp,rating\n" + rows)
    return f"table:{tmp_path}"


def test_golden_describe_json(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "data", "describe", spec, "--json", "--rows", "1", "--seed", "3")
    answer: dict[str, Any] = json.loads(out)
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert (answer["n_users"], answer["n_items"], answer["n_interactions"], answer["seed"]) == (2, 3, 3, 3)
    assert answer["sparsity"] == 0.5
    assert answer["n_items_without_interactions"] == 1
    assert answer["time"]["first"] == "1970-01-01T00:00:00+00:00"
    assert answer["time"]["days"] == 2.0
    assert answer["history_lengths"]["mean"] == 1.5
    assert answer["history_lengths"]["q100"] == 2.0
    assert answer["missing_titles"] == 1
    assert answer["duplicate_titles"] == {"n_titles": 1, "n_items": 2, "examples": {"Alien (1979)": 2}}
    assert answer["rating_counts"] == {"3": 1, "4": 1, "5": 1}
    assert answer["attributes"]["year"] == {"kind": "number", "missing": 1, "min": 1979, "max": 1979}
    assert answer["sample_histories"][0]["first_items"] == ["Alien (1979)", "Alien (1979)"]
    assert answer["rejected"] == [
        {
            "source": "interactions.csv",
            "line": 5,
            "reason": "unknown item: no such item_id in the catalogue",
            "text": "v,zz,9,3",
        },
        {
            "source": "interactions.csv",
            "line": 6,
            "reason": "timestamp is neither a number of seconds nor an ISO date",
            "text": "v,b,soon,3",
        },
    ]


def test_describe_for_people_shows_every_rejected_row(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "data", "describe", spec)
    assert code == 0
    assert "interactions.csv:5: unknown item: no such item_id in the catalogue: v,zz,9,3" in out
    assert "interactions.csv:6: timestamp is neither" in out
    assert "[red]" in out  # values that look like markup are shown as they are
    assert re.search(r"sparsity +50\.0000%", out)


def test_strict_exits_with_2(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "data", "describe", spec, "--strict")
    assert (code, out) == (2, "")
    assert err.startswith("error: 2 rows were rejected (strict), the first in interactions.csv line 5: unknown item")


def test_films_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("llmrec.data.films")
    code, out, _ = _run(capsys, "data", "describe", "films", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["n_items"] >= 600
    assert answer["n_rejected"] == 0


def test_real_data_is_described(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "data", "describe", f"movielens:{real_data / 'movielens-1m'}", "--json")
    answer = json.loads(out)
    assert code == 0
    assert (answer["n_users"], answer["n_items"], answer["n_interactions"]) == (6_040, 3_416, 999_611)
    assert answer["notes"]


def test_download_shows_the_licence_and_the_spec(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = tmp_path / "ml-1m.zip"
    fetched.write_bytes(b"x" * 10)
    monkeypatch.setattr("llmrec.data.download.fetch", lambda *_args, **_settings: fetched)
    code, out, err = _run(capsys, "data", "download", "movielens-1m", "--out", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out)["spec"] == f"movielens:{fetched}"
    assert "no redistribution" in err
