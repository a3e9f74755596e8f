"""A suite runs its cells once, goes on after a kill, and its table says what a reader needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from llmrec.assets import asset
from llmrec.benchmark.suite import CellResult, cell_key, cells, run_cells
from llmrec.benchmark.suite_config import SuiteConfig, load_suite
from llmrec.benchmark.suite_table import lines, markdown
from llmrec.data.spec import load
from llmrec.errors import CacheError, ConfigError
from llmrec.metrics.ranking import ndcg_at
from llmrec.ranking import registry
from llmrec.ranking.fit import Progress
from llmrec.ranking.progress import told

TINY = {"width": 8, "layers": 1, "heads": 1, "fit": {"epochs": 1, "validation_users": 50}}
SUITE = SuiteConfig.model_validate(
    {
        "seeds": [0, 1],
        "datasets": {
            "films": {
                "spec": "films",
                "rows": {
                    "popular": {"model": "popular", "seeded": False},
                    "knn (narrow)": {"model": "knn", "config": {"window": 2}, "seeded": False},
                    "sasrec": {"model": "sasrec", "config": TINY},
                },
            }
        },
    }
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[CellResult]]:
    out = tmp_path_factory.mktemp("suite")
    return out, run_cells(SUITE, list(cells(SUITE)), data="", out=out, say=lambda line: None)


def test_what_draws_nothing_runs_once_and_the_rest_once_per_seed(results: tuple[Path, list[CellResult]]) -> None:
    ran = [(one.cell.row, one.cell.seed) for one in results[1]]
    assert ran == [("popular", 0), ("knn (narrow)", 0), ("sasrec", 0), ("sasrec", 1)]
    assert not np.array_equal(results[1][2].ranks, results[1][3].ranks)


def test_finished_cells_are_not_run_again_and_a_changed_setting_is(results: tuple[Path, list[CellResult]]) -> None:
    out, before = results
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("cell.json")}
    assert len(stamps) == 4
    again = run_cells(SUITE, list(cells(SUITE)), data="", out=out, say=lambda line: None)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("cell.json")} == stamps
    np.testing.assert_array_equal(again[2].ranks, before[2].ranks)
    plain = json.loads(SUITE.model_dump_json())
    plain["datasets"]["films"]["rows"]["knn (narrow)"]["config"]["window"] = 3
    changed = SuiteConfig.model_validate(plain)
    run_cells(changed, list(cells(changed, rows=["knn (narrow)"])), data="", out=out, say=lambda line: None)
    moved = [path for path in stamps if path.stat().st_mtime_ns != stamps[path]]
    assert [path.parent.parent.name for path in moved] == ["knn (narrow)"]


def _changed(row: str, **config: object) -> SuiteConfig:
    plain = json.loads(SUITE.model_dump_json())
    plain["datasets"]["films"]["rows"][row]["config"] |= config
    return SuiteConfig.model_validate(plain)


def test_a_changed_setting_of_what_is_trained_starts_a_new_training(
    results: tuple[Path, list[CellResult]], tmp_path: Path
) -> None:
    """The checkpoint of the old settings lies in the same folder, and neither stops the suite nor is continued."""
    shutil.copytree(results[0], tmp_path, dirs_exist_ok=True)
    wider = _changed("sasrec", width=16)
    done = run_cells(wider, list(cells(wider, rows=["sasrec"])), data="", out=tmp_path, say=lambda line: None)
    assert {one.cell.row for one in done} == {"sasrec"}
    assert done[0].facts["parameters"] != results[1][2].facts["parameters"]
    kept = [path.name for path in done[0].cell.folder(tmp_path).glob("checkpoint*")]
    assert kept == [f"checkpoint-{done[0].facts['key']}"]


def test_a_kill_between_two_files_leaves_no_result_of_two_settings(
    results: tuple[Path, list[CellResult]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(results[0], tmp_path, dirs_exist_ok=True)
    wide = _changed("knn (narrow)", window=10)
    todo = list(cells(wide, rows=["knn (narrow)"]))

    def killed(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("llmrec.benchmark.suite.json.dumps", killed)  # the figures are written last
        patch.setattr("llmrec.benchmark.suite.cell_key", lambda *_args: "another")
        with pytest.raises(KeyboardInterrupt):
            run_cells(wide, todo, data="", out=tmp_path, say=lambda line: None)
    assert not np.array_equal(np.load(todo[0].folder(tmp_path) / "ranks.npy"), results[1][1].ranks)
    (again,) = run_cells(SUITE, list(cells(SUITE, rows=["knn (narrow)"])), data="", out=tmp_path, say=lambda line: None)
    assert float(ndcg_at(again.ranks, 10).mean()) == pytest.approx(again.facts["metrics"]["ndcg@10"]["value"])


def test_a_metric_that_is_not_measured_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValidationError, match="recall@20"):
        SuiteConfig.model_validate({**json.loads(SUITE.model_dump_json()), "main": ["recall@20"]})


def test_the_table_is_the_mean_over_seeds_of_the_users_own_values(results: tuple[Path, list[CellResult]]) -> None:
    table = {line.row: line for line in lines(results[1], ks=SUITE.ks)}
    by_seed = [ndcg_at(one.ranks, 10).mean() for one in results[1] if one.cell.row == "sasrec"]
    line = table["sasrec"]
    assert line.metrics["ndcg@10"].value == pytest.approx(np.mean(by_seed))
    assert line.spread["ndcg@10"] == pytest.approx(np.std(by_seed, ddof=1))
    assert line.metrics["ndcg@10"].low < line.metrics["ndcg@10"].value < line.metrics["ndcg@10"].high
    assert table["popular"].spread["ndcg@10"] is None
    assert line.parameters
    text = markdown(list(table.values()), main=SUITE.main)
    assert "| sasrec | ." in text
    assert "± ." in text
    assert "validation NDCG@10" in text  # how each training ended stands below the table


def test_the_shuffled_order_is_a_control_with_seeds_of_its_own() -> None:
    plain = json.loads(SUITE.model_dump_json())
    plain["datasets"]["films"]["orders"] = ["file", "shuffled"]
    suite = SuiteConfig.model_validate(plain)
    seeds = [cell.seed for cell in cells(suite, rows=["sasrec"], orders=["shuffled"])]
    assert (seeds, suite.seeds) == ([0], (0, 1))


def test_a_long_training_says_where_it_stands() -> None:
    said: list[str] = []
    report = told(said.append, every=0.0)
    report(Progress(epoch=2, step=25, steps_per_epoch=10, loss=7.25, best_ndcg=0.05, minutes=1.5))
    assert said == ["epoch 3, step 5/10, loss 7.250, best validation NDCG@10 0.0500, 1.5 min"]
    seldom = told(said.append, every=60.0)
    seldom(Progress(epoch=0, step=1, steps_per_epoch=10, loss=8.0, best_ndcg=None, minutes=0.0))
    assert len(said) == 1


def test_a_line_may_start_from_what_another_line_learned(tmp_path: Path) -> None:
    """The ids of a generator from the item vectors of the trained ranker of the same seed."""
    rows = {
        "sasrec": {"model": "sasrec", "config": {"width": 16, "fit": {"epochs": 1}}},
        "generative": {
            "model": "generative",
            "uses": ["sasrec"],
            "config": {
                "vectors": "file:{sasrec}",
                "width": 16,
                "heads": 2,
                "layers": 1,
                "levels": [16, 16],
                "fit": {"epochs": 1, "validation_users": 20},
            },
        },
    }
    suite = SuiteConfig.model_validate({"seeds": [1], "datasets": {"films": {"spec": "films", "rows": rows}}})
    done = run_cells(suite, list(cells(suite, rows=["generative"])), data="", out=tmp_path, say=lambda line: None)
    assert [one.cell.row for one in done] == ["sasrec", "generative"]
    assert "from the recommender in model" in done[1].facts["note"]
    assert done[1].facts["parameters"] > 0
    (done[1].cell.folder(tmp_path) / "cell.json").unlink()  # killed after its training, before its figures were kept
    trained = registry.load(done[1].cell.folder(tmp_path) / "model", load("films", seed=0)).fit_state.minutes  # type: ignore[attr-defined]
    again = run_cells(suite, list(cells(suite, rows=["generative"])), data="", out=tmp_path, say=lambda line: None)
    assert again[1].facts["fit_minutes"] >= trained > 0
    np.testing.assert_array_equal(again[1].ranks, done[1].ranks)
    other = suite.model_copy(deep=True)
    other.datasets["films"].rows["sasrec"].config["width"] = 32
    keys = {cell_key(one.cell, suite, load("films", seed=0)) for one in done[1:]}
    changed = [cell for cell in cells(other) if cell.row == "generative"]
    assert cell_key(changed[0], other, load("films", seed=0)) not in keys


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    todo = list(cells(SUITE, rows=["popular"]))
    run_cells(SUITE, todo, data="", out=tmp_path, say=lambda line: None)
    (todo[0].folder(tmp_path) / "cell.json").write_text("{")
    with pytest.raises(CacheError, match="is damaged"):
        run_cells(SUITE, todo, data="", out=tmp_path, say=lambda line: None)


def test_unknown_names_and_blends_of_what_comes_later_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data set 'toys'; it has films"):
        list(cells(SUITE, ["toys"]))
    with pytest.raises(ConfigError, match="no line 'ease'; it has popular"):
        list(cells(SUITE, rows=["ease"]))
    path = tmp_path / "suite.yaml"
    path.write_text("datasets: {films: {spec: films, rows: {both: {model: blend, parts: [knn]}, knn: {model: knn}}}}")
    with pytest.raises(ConfigError, match="'both' needs 'knn', which does not stand above it"):
        load_suite(path)
    path.write_text('datasets: {films: {spec: films, rows: {"knn, wide": {model: knn}}}}')
    with pytest.raises(ConfigError, match="holds no comma, which separates names, got 'knn, wide'"):
        load_suite(path)


def test_the_shipped_suite_is_valid_and_its_command_runs(tmp_path: Path) -> None:
    for dataset in load_suite(asset("eval/suites/sequential.yaml")).datasets.values():
        for row in dataset.rows.values():
            registry.settings(row.model, row.config, seed=0)
    suite = tmp_path / "suite.yaml"
    suite.write_text("datasets: {films: {spec: films, rows: {popular: {model: popular, seeded: false}}}}")
    script = str(asset("eval/sequential.py"))
    command = [sys.executable, script, "--suite", str(suite), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "### films" in done.stdout
    assert "commit " in done.stdout
    wrong = subprocess.run([*command, "--datasets", "toys"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "no data set 'toys'" in wrong.stderr
