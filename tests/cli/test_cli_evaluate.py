"""``llmrec evaluate``: floors in every table, plain JSON, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmrec.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", *arguments])
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


def test_json_is_one_object_with_floors_added(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--dataset", "films", "--models", "random", "--users", "60", "--seed", "3", "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["dataset"], result["n"], result["seed"]) == ("films", 60, 3)
    assert list(result["models"]) == ["popular", "knn", "random"]
    assert "added to the table as floors: popular, knn" in err
    assert result["models"]["knn"]["recall@10"]["low"] <= result["models"]["knn"]["recall@10"]["value"]


def test_table_shows_every_model_and_the_paired_difference(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--models", "popular,knn", "--users", "40", "--ks", "5")
    assert code == 0
    assert "ndcg@5" in out
    assert "knn minus popular" in out
    assert "leave-one-out" in err
    assert "floors" not in err


def test_the_differences_are_against_the_model_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--models", "popular,knn", "--users", "40", "--ks", "5", "--against", "knn", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["paired"]["against"] == "knn"
    means = {name: row["ndcg@5"]["value"] for name, row in result["models"].items()}
    difference = result["paired"]["models"]["popular"]["ndcg@5"]["value"]
    assert difference == pytest.approx(means["popular"] - means["knn"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "sasrec"], "--against takes a model of the table (popular, knn, bm25-lastitem), got 'sasrec'"),
        (["--models", "nonsense"], "no recommender is called 'nonsense'"),
        (["--models", ","], "names no recommender"),
        (["--models", "mine=nowhere"], "'nowhere' holds no saved recommender"),
        (["--models", "popular,blend"], "name two or more"),
        (["--ks", "0"], "at least 1"),
        (["--ks", "ten"], "whole numbers"),
        (["--stage", "train"], "validation or test"),
        (["--models", "calrec"], "--backbone"),
        (["--adapter", "somewhere"], "belongs to calrec"),
        (["--dataset", "nowhere:x"], "dataset"),
        (["--users", "0"], "--users"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err


def test_k_core_and_temporal_split_are_named_in_the_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, "--models", "popular", "--split", "temporal", "--k-core", "20", "--users", "50", "--json"
    )
    result = json.loads(out)
    assert code == 0
    assert result["protocol"].startswith("20-core, global temporal")
    assert result["n_items"] <= 705


@pytest.fixture(scope="module")
def saved_ease(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a folder with a very long name") / "ease"
    with pytest.raises(SystemExit):
        main(["rankers", "fit", "ease", "--out", str(folder)])
    return folder


def test_a_saved_recommender_takes_the_name_it_is_given(capsys: pytest.CaptureFixture[str], saved_ease: Path) -> None:
    code, out, _ = run(capsys, "--models", f"knn,mine={saved_ease}", "--users", "40", "--json")
    assert code == 0
    assert list(json.loads(out)["models"]) == ["popular", "knn", "mine"]


def test_a_long_folder_hides_no_figure(capsys: pytest.CaptureFixture[str], saved_ease: Path) -> None:
    code, out, _ = run(capsys, "--models", f"{saved_ease}", "--users", "40")
    assert code == 0
    assert "…" not in out
    assert all(name in out for name in ("recall@1", "recall@10", "ndcg@10", "mrr", "cov@10"))


def test_a_blend_is_made_of_saved_recommenders_too(capsys: pytest.CaptureFixture[str], saved_ease: Path) -> None:
    code, out, err = run(capsys, "--models", f"knn,mine={saved_ease},blend", "--users", "40", "--json")
    assert code == 0
    assert "blend: of knn, ease, weighted" in err
    assert "ease 0." in json.loads(out)["notes"]["blend"]


@pytest.mark.parametrize(
    ("models", "message"),
    [("sasrec,sasrec={0}", "two recommenders 'sasrec'"), ("popular={0}", "'popular' is a floor")],
)
def test_two_of_one_name_are_refused(
    capsys: pytest.CaptureFixture[str], saved_ease: Path, models: str, message: str
) -> None:
    code, _, err = run(capsys, "--models", models.format(saved_ease))
    assert code == 2
    assert message in err
