"""`eval/calrec.py`: lines are measured once, for the weights and settings that they stand for; shuffled histories."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from llmrec.assets import asset, load_file

SMALL = (
    *("--data", "films", "--baselines", "popular", "--users", "20", "--examples", "16", "--samples", "2"),
    *("--batch-size", "8", "--max-tokens", "256", "--history-items", "4", "--select", "loss"),
)


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return load_file(asset("eval/calrec.py"), name="calrec_study_under_test")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMREC_COMPILE", "0")
    monkeypatch.setenv("LLMREC_DTYPE", "float32")


def _run(study: ModuleType, monkeypatch: pytest.MonkeyPatch, backbone: Path, out: Path, *more: str) -> str:
    monkeypatch.setattr("sys.argv", ["calrec.py", *SMALL, "--backbone", str(backbone), "--out", str(out), *more])
    assert study.main() == 0
    return (out / "calrec.md").read_text(encoding="utf-8")


def test_a_line_is_measured_once_for_the_weights_that_it_stands_for(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, mini_folder: Path, tmp_path: Path
) -> None:
    backbone, out = tmp_path / "backbone", tmp_path / "out"
    shutil.copytree(mini_folder, backbone)
    calls: list[str] = []
    measured = study.measured

    def counted(model: Any, *rest: Any) -> Any:
        calls.append(model.name)
        return measured(model, *rest)

    monkeypatch.setattr(study, "measured", counted)
    text = _run(study, monkeypatch, backbone, out, "--arms", "untuned", "II", "I+II")
    assert len(calls) == 4
    assert "| I+II minus |" in text
    assert "| II minus |" in text
    record = json.loads((out / "calrec.json").read_text(encoding="utf-8"))["films"]
    assert set(record["lines"]) == {"popular", "untuned", "II", "I+II"}
    records = {path: path.stat().st_mtime_ns for path in (out / "models").glob("*/training.json")}
    assert len(records) == 3  # II from nothing, I, II from I

    assert _run(study, monkeypatch, backbone, out, "--arms", "untuned", "II", "I+II") == text
    assert len(calls) == 4
    assert {path: path.stat().st_mtime_ns for path in (out / "models").glob("*/training.json")} == records

    config = json.loads((backbone / "config.json").read_text(encoding="utf-8"))
    (backbone / "config.json").write_text(json.dumps(config | {"transformers_version": "0"}), encoding="utf-8")
    _run(study, monkeypatch, backbone, out, "--arms", "untuned", "II")
    assert len(calls) == 6  # the floor depends on no weights
    assert len(list((out / "models").iterdir())) == 4


class _Kept:
    """Keeps the histories that it is given."""

    name = "kept"

    def __init__(self) -> None:
        self.histories: list[list[int]] = []

    def fit(self, dataset: Any, split: Any) -> None:
        """Nothing to do."""

    async def score(self, histories: Sequence[Any], *, users: Sequence[int] | None = None, seed: int = 0) -> Any:
        self.histories += [list(history) for history in histories]
        return np.zeros((len(histories), 3))


async def test_shuffled_histories_are_the_same_items_in_an_order_of_each_user(study: ModuleType) -> None:
    history = np.arange(30)
    kept = [_Kept(), _Kept(), _Kept()]
    await study.Shuffled(kept[0], seed=0).score([history, history], users=[4, 9])
    await study.Shuffled(kept[1], seed=0).score([history], users=[9])  # another batch
    await study.Shuffled(kept[2], seed=1).score([history], users=[9])
    first, second = kept[0].histories
    assert sorted(first) == sorted(second) == history.tolist()
    assert len({tuple(first), tuple(second), tuple(history.tolist())}) == 3
    assert kept[1].histories == [second]
    assert kept[2].histories != [second]
    assert history.tolist() == list(range(30))


def test_golden_differences_are_paired_by_user(study: ModuleType) -> None:
    """One user won by each is 0 on the mean, whoever they are; a user more is 1 / 4."""
    values = {"II": np.array([[1.0], [1.0], [1.0], [0.0]]), "popular": np.array([[1.0], [0.0], [1.0], [0.0]])}
    lines = study.differences("II", values, 0)
    assert lines[0].startswith("| II minus |")
    assert lines[2].startswith("| popular | +0.2500 [+0.0000, ")
    assert len(lines) == 3
