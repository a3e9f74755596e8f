"""`llmrec rankers`: trained once, kept, described, and taken by its folder where a recommender is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmrec.cli.main import app

SMALL = ["--set", "width=8", "--set", "heads=1", "--set", "layers=1", "--set", "fit.epochs=1"]


def _run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def _table(folder: Path) -> Path:
    """30 items, 20 users of six events."""
    folder.mkdir()
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},Item {n}\n" for n in range(30)))
    rows = "".join(f"u{u},i{(u + 3 * k) % 30},{k}\n" for u in range(20) for k in range(6))
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp\n" + rows)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rankers") / "sasrec"
    code, out, err = _run("rankers", "fit", "sasrec", "--out", str(folder), *SMALL, "--seed", "3", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["kind"] == "sasrec"
    assert answer["config"]["width"] == 8
    assert answer["config"]["fit"]["seed"] == 3
    assert "validation NDCG@10" in answer["note"]
    return folder


def test_a_folder_stands_where_a_name_does(saved: Path) -> None:
    code, out, err = _run("evaluate", "--models", str(saved), "--users", "50", "--seed", "3", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert set(answer["models"]) == {"popular", "knn", str(saved)}
    assert answer["seconds"][str(saved)]["fit"] < 0.1  # loaded, not trained again
    assert "best of 1 epochs" in answer["notes"][str(saved)]


def test_one_fitted_on_other_viewers_is_refused_with_the_remedy(saved: Path) -> None:
    """films draws its viewers with the seed: the ranker of seed 3 has never met those of seed 0."""
    code, _, err = _run("evaluate", "--models", str(saved), "--users", "50")
    assert code == 2
    assert "other training events" in err
    assert "--seed" in err


def test_describe_tells_what_is_inside(saved: Path) -> None:
    code, out, _ = _run("rankers", "describe", str(saved), "--json")
    assert code == 0
    assert json.loads(out)["training"]["epoch"] == 1
    code, out, _ = _run("rankers", "describe", str(saved))
    assert code == 0
    assert "sasrec" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "knn", "--out", "x"], "'knn' keeps nothing on disk"),
        (["fit", "oracle", "--out", "x"], "no recommender is called 'oracle'"),
        (["fit", "sasrec", "--out", "x", "--set", "width"], "--set needs key=value, got 'width'"),
        (["fit", "sasrec", "--out", "x", "--set", "width=wide"], "width: Input should be a valid integer"),
        (["describe", "."], "recommender.json is missing"),
    ],
)
def test_wrong_commands_end_with_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = _run("rankers", *arguments)
    assert code == 2
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_written_over_and_another_catalogue_is_refused(saved: Path) -> None:
    code, _, err = _run("rankers", "fit", "sasrec", "--out", str(saved), *SMALL)
    assert code == 2
    assert "holds a saved recommender already" in err
    table = _table(saved.parent / "own")
    code, _, err = _run("evaluate", "--dataset", f"table:{table}", "--models", str(saved), "--users", "5")
    assert code == 2
    assert "was fitted on another catalogue" in err


def test_a_language_model_teaches_and_its_lists_are_kept(tmp_path: Path) -> None:
    """DLLM2Rec from the command line: lists and item vectors of one backbone; a second student asks nobody again."""
    from llmrec.testing.models import save_tiny_model

    table, backbone = _table(tmp_path / "own"), save_tiny_model(tmp_path / "tiny")
    data = ["--dataset", f"table:{table}", *SMALL]
    lessons = ["--teacher", "lm-likelihood", "--backbone", str(backbone), "--vectors", "lm"]
    code, out, err = _run("rankers", "fit", "sasrec", "--out", str(tmp_path / "a"), *data, *lessons, "--json")
    assert code == 0, err
    assert "taught by lm-likelihood: 20 lists, 0 of them empty" in json.loads(out)["note"]
    lists = sorted((tmp_path / "a" / "teacher").rglob("*.npz"))
    assert len(lists) == 1
    code, out, err = _run("rankers", "fit", "sasrec", "--out", str(tmp_path / "plain"), *data, "--json")
    assert code == 0, err
    assert "taught" not in json.loads(out)["note"]
    weights = [(tmp_path / name / "item_vectors.safetensors").read_bytes() for name in ("a", "plain")]
    assert weights[0] != weights[1]


def test_settings_of_a_teacher_reach_it(tmp_path: Path) -> None:
    table = _table(tmp_path / "own")
    answers = []
    for number, strength in enumerate(("0", "0.9")):
        code, out, err = _run(
            *("rankers", "fit", "sasrec", "--out", str(tmp_path / str(number)), "--dataset", f"table:{table}", *SMALL),
            *("--teacher", "knn", "--set", "teacher.prefixes_per_user=2", "--set", f"distil.strength={strength}"),
            "--json",
        )
        assert code == 0, err
        assert "taught by knn: 40 lists" in json.loads(out)["note"]
        answers.append((tmp_path / str(number) / "item_vectors.safetensors").read_bytes())
    assert answers[0] != answers[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ease", "--teacher", "knn"], "--teacher teaches sasrec, got 'ease'"),
        (["sasrec", "--teacher", "oracle"], "no recommender is called 'oracle'"),
        (["sasrec", "--teacher", "calrec"], "--teacher calrec: a language model is asked; name a backbone folder"),
        (["sasrec", "--vectors", "lm"], "--vectors lm: a language model is asked; name a backbone folder"),
        (["sasrec", "--backbone", "x"], "go with a --teacher that asks a language model"),
        (["sasrec", "--set", "distil.strength=1"], "belongs to a teacher"),
        (["sasrec", "--teacher", "knn", "--set", "teacher.k=0"], "k: Input should be greater than 0"),
        (["sasrec", "--teacher", "knn", "--set", "teacher=calrec"], "Input should be a valid dictionary"),
    ],
)
def test_wrong_teachers_end_with_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    code, _, err = _run("rankers", "fit", *arguments, "--out", str(tmp_path / "x"))
    assert code == 2
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "x").exists()
