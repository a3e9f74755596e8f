"""The whole job at a tiny size: it runs, it resumes, and one seed gives one set of numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmrec.benchmark.grounding_check import PLANTED, check_sessions
from llmrec.benchmark.quickstart import quickstart
from llmrec.benchmark.quickstart_config import QuickstartConfig, load_config
from llmrec.benchmark.stages import Stages
from llmrec.data.spec import load
from llmrec.errors import CacheError, ConfigError
from llmrec.lm.nano import NanoShape
from llmrec.simulate.journal import Journal
from llmrec.simulate.session import Round, Session
from llmrec.training.pretrain import NanoRecipe

TINY = QuickstartConfig(
    nano=NanoRecipe(
        shape=NanoShape(vocabulary_size=1024, embedding_size=32, layers=1, heads=2, head_size=16, intermediate_size=64),
        tokens=12_800,
        block=128,
        blocks_per_step=4,
        mix={"facts": 0.5, "sequences": 0.5},
    ),
    adapters={
        "recommender": {"examples": 16, "validation_examples": 4, "evaluations": 1},
        "user": {"examples": 16, "validation_examples": 4, "evaluations": 1, "data": {"decisions": 1.0}},
    },
    evaluation={"users": 12, "samples": 3},  # type: ignore[arg-type]  # pydantic reads plain mappings
    fidelity={"users": 10},  # type: ignore[arg-type]
    simulation={"users": 3, "max_rounds": 2},  # type: ignore[arg-type]
)
pytestmark = pytest.mark.timeout(900)  # three whole jobs; minutes where the machine is busy
TIMES = ("seconds", "peak_mib", "seconds_per_session", "hardware", "machine", "stages", "curve_seconds", "cached")


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(one) for key, one in value.items() if not any(key.startswith(t) for t in TIMES)}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


class _Near(float):
    """Equal to numbers within the bound of docs/determinism.md; everything else compares exactly."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(self - other) < 1e-4

    __hash__ = float.__hash__


def _near(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _near(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_near(one) for one in value]
    return _Near(value) if isinstance(value, float) else value


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folders = (tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two"))
    for folder in folders:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LLMREC_COMPILE", "0")
            patch.setenv("LLMREC_DTYPE", "float32")
            patch.setenv("LLMREC_CACHE", str(folder / "cache"))
            quickstart("films", TINY, out=folder / "out", seed=5, say=lambda line: None)
    return folders


def test_one_seed_gives_one_report(runs: tuple[Path, Path]) -> None:
    one, two = (json.loads((folder / "out" / "report.json").read_text(encoding="utf-8")) for folder in runs)
    for part in ("dataset", "adapters", "evaluation", "fidelity", "out_of_catalogue"):
        assert _without_times(one[part]) == _without_times(two[part]), part
    for part in ("simulation", "transcripts"):  # which sessions share a batch may change the last digits
        assert _near(_without_times(one[part])) == _near(_without_times(two[part])), part
    assert one["backbone"]["curve"] == two["backbone"]["curve"]


def test_nothing_outside_the_catalogue_and_the_check_works(runs: tuple[Path, Path]) -> None:
    report = json.loads((runs[0] / "out" / "report.json").read_text(encoding="utf-8"))
    outside = report["out_of_catalogue"]
    assert outside["count"] == 0
    assert outside["checked"] > 3 * 3 * 2
    assert outside["planted_caught"] is True


def test_the_report_is_one_offline_file(runs: tuple[Path, Path]) -> None:
    page = (runs[0] / "out" / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "simulated" in page.lower()


def test_a_finished_job_is_not_done_again(runs: tuple[Path, Path]) -> None:
    said: list[str] = []
    quickstart("films", TINY, out=runs[0] / "out", seed=5, say=said.append)
    assert sum("done in an earlier run" in line for line in said) == 7


def test_another_seed_goes_into_the_same_folder(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the first seed is taken up: not its stages, checkpoints or sessions."""
    monkeypatch.setenv("LLMREC_COMPILE", "0")
    monkeypatch.setenv("LLMREC_DTYPE", "float32")
    said: list[str] = []
    again = quickstart("films", TINY, out=runs[1] / "out", seed=6, say=said.append)
    assert not [line for line in said if "done in an earlier run" in line]
    assert again["seed"] == 6
    with Journal(runs[1] / "out" / "sessions.sqlite") as journal:
        assert [run.n_sessions for run in journal.runs()] == [9, 9]


def test_a_small_table_of_your_own_goes_through_without_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    items = [f"p{row},{['red', 'blue', 'green'][row % 3]} cup {row},cup" for row in range(25)]
    (shop / "items.csv").write_text("item_id,title,category\n" + "\n".join(items) + "\n")
    events = [f"u{user},p{(7 * user + 3 * step) % 25},{100 * user + step}" for user in range(60) for step in range(6)]
    (shop / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(events) + "\n")
    monkeypatch.setenv("LLMREC_COMPILE", "0")
    monkeypatch.setenv("LLMREC_DTYPE", "float32")
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    found = quickstart(f"table:{shop}", TINY, out=tmp_path / "out", seed=5, say=said.append)
    assert sum("too few users to calibrate" in line for line in said) == 1
    assert "decisions" not in found["adapters"]["user"]
    assert not (tmp_path / "out" / "adapters" / "user" / "calibration.json").exists()
    assert (found["out_of_catalogue"]["count"], found["out_of_catalogue"]["planted_caught"]) == (0, True)


def test_stages_run_again_with_other_settings(tmp_path: Path) -> None:
    counted: list[int] = []

    def work() -> dict[str, Any]:
        counted.append(1)
        return {"n": len(counted)}

    for settings in ({"a": 1}, {"a": 1}, {"a": 2}):
        result = Stages(tmp_path, settings, say=lambda line: None).run("count", work)
    assert counted == [1, 1]
    assert result == {"n": 2}


def test_a_damaged_stage_is_named(tmp_path: Path) -> None:
    (tmp_path / "count.json").write_text("{", encoding="utf-8")
    with pytest.raises(CacheError, match=r"count\.json"):
        Stages(tmp_path, {}, say=lambda line: None).run("count", dict)


def test_the_check_counts_a_planted_title_and_row() -> None:
    catalogue = load("films").catalogue
    clean = Round(turn=0, slate=(1, 2), prose=f"Try {catalogue.display(1)}.")
    named = clean.model_copy(update={"prose": f'Try "{PLANTED}" today.'})
    beyond = clean.model_copy(update={"out_of_catalogue": (len(catalogue),)})
    for one, expected in ((clean, 0), (named, 1), (beyond, 1)):
        session = Session(
            user=0,
            user_id="u0",
            policy="agent",
            slate_size=2,
            profile={},
            likes=(),
            wants=(),
            n_history=1,
            rounds=(one,),
            ended="round limit",
        )
        assert check_sessions([session], catalogue)["count"] == expected


def test_shipped_settings_are_valid() -> None:
    assert load_config(None, spec="films").nano.tokens < load_config(None, spec="movielens:x").nano.tokens


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nano: {tokenz: 3}", "tokenz"),
        ("evaluation: {users: 0}", "evaluation.users"),
        ("a: [", "cannot be read"),
        ("x: 1", "x"),
    ],
)
def test_wrong_settings(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_config(path, spec="films")
