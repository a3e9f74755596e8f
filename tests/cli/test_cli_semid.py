"""``llmrec semid`` over a small table: build, report, encode, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from llmrec.cli.semid import app

WORDS = {"Horror": "ghost creature fear dark house", "Romance": "love wedding kiss summer letter"}


def write_table(folder: Path, *, n: int = 40) -> Path:
    folder.mkdir()
    genres = [list(WORDS)[row % 2] for row in range(n)]
    plots = [" ".join(WORDS[genre].split()[row % 4 : row % 4 + 2]) for row, genre in enumerate(genres)]
    rows = [f"i{row},Film {row} {plots[row]},{genres[row]}" for row in range(n)]
    (folder / "items.csv").write_text("\n".join(["item_id,title,genres", *rows]) + "\n")
    events = [f"u{user},i{(user * 7 + step * 2) % n},{step}" for user in range(20) for step in range(5)]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]) + "\n")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"table:{write_table(tmp_path_factory.mktemp('semid') / 'data')}"


@pytest.fixture(scope="module")
def ids(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ids") / "ids"
    arguments = ["build", "--dataset", data, "--levels", "4,4", "--dimensions", "6", "--collision-size", "64"]
    assert run(*arguments, "--out", folder).exit_code == 0
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


@pytest.mark.parametrize("quantiser", ["kmeans", "balanced", "rqvae"])
def test_build_writes_and_reports(quantiser: str, data: str, tmp_path: Path) -> None:
    settings = ["--set", "steps=60", "--set", "hidden=[16]", "--set", "latent=4"] if quantiser == "rqvae" else []
    built = answer("build", "--dataset", data, "--quantiser", quantiser, "--levels", "4,4", "--dimensions", 6,
                   "--out", tmp_path / "ids", *settings)  # fmt: skip
    assert (tmp_path / "ids" / "semantic_ids.json").exists()
    assert built["report"]["n_items"] == 40
    assert [level["codes"] for level in built["report"]["levels"]] == [4, 4]
    assert built["report"]["category"] == "genres"
    assert built["facts"]["vectors"] == "TF-IDF + SVD 6"
    assert built["seed"] == 0
    reported = answer("report", tmp_path / "ids", "--dataset", data)
    assert reported["report"] == built["report"]


def test_cold_items_land_among_their_like(ids: Path, data: str) -> None:
    cold = answer("encode", ids, "--dataset", data, "--text", "A ghost and a creature\nHorror", "-n", 3)
    assert len(cold["codes"]) == 3
    assert cold["nearest"]
    assert all("creature" in item["title"] or "ghost" in item["title"] for item in cold["nearest"])
    shown = run("encode", ids, "--text", "A ghost and a creature\nHorror", "-n", 1)
    assert "shared: row " in shown.stdout


def test_people_read_the_report(ids: Path, data: str) -> None:
    shown = run("report", ids, "--dataset", data)
    assert shown.exit_code == 0
    assert "of 4 codes in use" in shown.stdout
    assert "purity of genres" in shown.stdout


def test_another_catalogue_is_refused(ids: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "other", n=42)
    refused = run("report", ids, "--dataset", f"table:{other}")
    assert refused.exit_code == 2
    assert "were made for the catalogue" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--levels", "4,x"], "--levels must be numbers"),
        (["--levels", "256"], "needs at least as many items, got 40"),
        (["--quantiser", "vq"], "no quantiser is called 'vq'"),
        (["--set", "rounds"], "--set must be NAME=VALUE"),
        (["--set", "rounds=3"], "wrong setting 'rounds'"),
        (["--vectors", "glove"], "unknown item vectors 'glove'"),
        (["--vectors", "lm"], "--backbone goes with the vectors lm"),
        (["--category", "colour", "--levels", "4,4"], "no attribute 'colour'"),
    ],
)
def test_wrong_options_are_one_line(arguments: list[str], message: str, data: str, tmp_path: Path) -> None:
    refused = run("build", "--dataset", data, "--out", tmp_path / "ids", *arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert not (tmp_path / "ids").exists()


def test_an_existing_folder_is_refused(ids: Path, data: str) -> None:
    refused = run("build", "--dataset", data, "--out", ids)
    assert refused.exit_code == 2
    assert "must be a new folder" in refused.stderr
    assert run("report", ids.parent, "--dataset", data).exit_code == 2
    assert "must hold words" in run("encode", ids, "--text", "  ").stderr
