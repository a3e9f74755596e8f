"""ReDial and OpenDialKG: catalogues, interactions and turns, from files written by hand."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmrec.data import opendialkg, redial
from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.rejections import Rejections
from llmrec.data.spec import load
from llmrec.data.turns import TitleIndex
from llmrec.errors import DataError

MOVIES = [
    {"movie_id": "7", "name": "Heat (1995)", "genre": ["crime"], "director": ["Michael Mann"], "star": ["Al Pacino"]},
    {"movie_id": "8", "name": "The Fly  (1986)", "genre": ["horror", "sci-fi"], "plot": "A man turns into an insect."},
    {"movie_id": "9", "name": "The Fly (1958)", "genre": ["horror"], "writer": ["James Clavell"]},
    {"movie_id": "10", "name": "Clue", "genre": None},
]
DIALOGUE = {
    "dialogue_id": "1",
    "initiator": 5,
    "movie_mentions": {"7": "Heat (1995)", "8": "The Fly (1986)", "10": "Clue"},
    "initiator_answers": {"7": {"liked": 1}, "8": {"liked": 1}, "10": {"liked": 0}},
    "messages": [{"text": "I loved @8"}, {"text": "then try @10 or @7"}],
}
TURN = {
    "dialog_id": "1",
    "turn_id": 2,
    "context": ["", "Hi, what do you like?", "something like Heat (1995)"],
    "entity": ["crime", "Heat (1995)"],
    "rec": ["The Fly (1986)", "heat  (1995)", "Nobody Made This (2001)"],
    "resp": "Try The Fly (1986)",
}


def _lines(path: Path, rows: Sequence[Any]) -> None:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")


def _redial(folder: Path, **files: Sequence[Any]) -> Path:
    given: dict[str, Sequence[Any]] = {"movies": MOVIES, "dialogues_valid": [DIALOGUE], "turns_valid": [TURN], **files}
    for name, rows in given.items():
        _lines(folder / f"{name}.jsonl.gz", rows)
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    (tmp_path / "data").mkdir()
    return load(f"redial:{_redial(tmp_path / 'data')}", cache=tmp_path / "cache")


def test_the_catalogue_of_redial(dataset: Dataset) -> None:
    catalogue = dataset.catalogue
    assert catalogue.titles() == ["Heat", "The Fly", "The Fly", "Clue"]
    assert catalogue.values(1, "year") == (1986,)
    assert catalogue.values(1, "genres") == ("Horror", "Sci-Fi")  # as everyday words know them
    assert catalogue.values(0, "actors") == ("Al Pacino",)
    assert catalogue.kind("genres") == "categories"
    assert dataset.item_noun == "film"
    assert not dataset.rejected


def test_interactions_are_what_the_seeker_likes_in_order_of_mention(dataset: Dataset) -> None:
    interactions = dataset.interactions
    assert list(interactions.user_ids) == ["5"]
    assert [dataset.catalogue.item_ids[int(row)] for row in interactions.history(0)] == ["8", "7"]
    assert interactions.time_is_order_only


def test_a_turn_of_redial(dataset: Dataset, tmp_path: Path) -> None:
    (turn,) = redial.turns(tmp_path / "data", dataset.catalogue)
    assert turn.request == "something like Heat (1995)"
    assert turn.requests == ("something like Heat (1995)",)
    assert turn.targets == (1, 0)  # the unknown title has no row
    assert turn.mentioned == {0}
    assert turn.new_targets == {1}  # Heat was mentioned before: recommending it again counts for nothing


def test_every_second_message_is_the_users(tmp_path: Path, dataset: Dataset) -> None:
    longer = TURN | {"context": ["first", "reply", "second", "reply", "third"]}
    folder = tmp_path / "more"
    folder.mkdir()
    (turn,) = redial.turns(_redial(folder, turns_valid=[longer]), dataset.catalogue)
    assert turn.requests == ("first", "second", "third")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({key: value for key, value in TURN.items() if key != "rec"}, "no field 'rec'"),
        (TURN | {"context": "hello"}, "context is not a list of texts"),
        (TURN | {"rec": [3]}, "rec is not a list of texts"),
        (TURN | {"resp": None}, "resp is not a text"),
        (TURN | {"turn_id": "second"}, "turn_id is not a number"),
        ("{not json", "not JSON"),
    ],
)
def test_malformed_turns_are_named_or_collected(wrong: Any, reason: str, tmp_path: Path, dataset: Dataset) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    _redial(folder, turns_valid=[TURN, wrong])
    with pytest.raises(DataError, match=r"turns_valid.jsonl.gz line 2") as caught:
        redial.turns(folder, dataset.catalogue)
    assert reason in str(caught.value)
    rejections = Rejections()
    assert len(redial.turns(folder, dataset.catalogue, rejections=rejections)) == 1
    assert len(rejections) == 1


def test_malformed_films_and_dialogues_are_rejected_with_their_line(tmp_path: Path) -> None:
    movies = [*MOVIES, {"movie_id": "11"}, {"movie_id": "7", "name": "Heat again"}]
    dialogues = [DIALOGUE, {"dialogue_id": "2"}, DIALOGUE | {"initiator": 6, "initiator_answers": []}]
    found = load(f"redial:{_redial(tmp_path, movies=movies, dialogues_valid=dialogues)}", cache=tmp_path / "cache")
    assert {(one.source, one.line) for one in found.rejected} == {
        ("movies.jsonl.gz", 5),
        ("movies.jsonl.gz", 6),
        ("dialogues_valid.jsonl.gz", 2),
    }
    assert len(found.catalogue) == 4


def test_missing_files_say_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing", encoding="utf-8")
    with pytest.raises(DataError, match=r"movies\.jsonl and dialogues"):
        load(f"redial:{tmp_path}")
    with pytest.raises(DataError, match=r"items\.json and turns_train"):
        load(f"opendialkg:{tmp_path}")
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"no turns_test\.jsonl"):
        redial.turns(
            _redial(tmp_path / "data"), Catalogue.from_columns({"item_id": ["1"], "title": ["x"]}), part="test"
        )


def test_titles_are_found_by_year_case_and_spacing() -> None:
    catalogue = Catalogue.from_columns(
        {"item_id": list("abcd"), "title": ["The Fly", "The Fly", "Clue", "1984"], "year": [1958, 1986, None, 1984]}
    )
    index = TitleIndex(catalogue)
    assert index.row("THE  FLY (1986)") == 1
    assert index.row("the fly") == 0
    assert index.row("The Fly (1990)") is None  # another film of that name
    assert index.row("Clue (1985)") == 2  # its year is not known
    assert index.row('"1984"') == 3
    assert index.row("Cube") is None


def test_opendialkg(tmp_path: Path) -> None:
    folder = tmp_path / "kg"
    folder.mkdir()
    items = {
        "0": {"name": "Heat", "year": "1995", "genre": ["Crime", "Crime"], "actor": ["Al Pacino"]},
        "1": {"name": "Clue", "year": "1985-12", "director": ["Jonathan Lynn"]},
        "2": "not an item",
    }
    (folder / "items.json.gz").write_bytes(gzip.compress(json.dumps(items).encode()))
    turn = {"dialog_id": 4, "turn_id": 1, "context": ["a funny one?"], "entity": [], "rec": ["Clue"], "resp": "Clue!"}
    _lines(folder / "turns_train.jsonl", [turn, turn | {"dialog_id": 5, "rec": ["Heat", "Clue"]}])
    _lines(folder / "turns_valid.jsonl", [turn])
    dataset = load(f"opendialkg:{folder}", cache=tmp_path / "cache")
    assert dataset.catalogue.display(1) == "Clue (1985)"
    assert dataset.catalogue.values(0, "genres") == ("Crime",)
    assert [list(dataset.interactions.history(user)) for user in range(2)] == [[1], [0, 1]]
    assert [one.reason for one in dataset.rejected] == ["an item must be an object with a name"]
    (valid,) = opendialkg.turns(folder, dataset.catalogue)
    assert valid.new_targets == {1}
    (folder / "items.json.gz").write_bytes(gzip.compress(b"[1, 2]"))
    with pytest.raises(DataError, match="must map ids to items"):
        load(f"opendialkg:{folder}", cache=tmp_path / "cache")


def test_real_redial(real_data: Path, tmp_path: Path) -> None:
    dataset = load(f"redial:{real_data / 'redial'}", cache=tmp_path)
    turns = redial.turns(real_data / "redial", dataset.catalogue)
    assert len(dataset.catalogue) == 6583
    assert len(turns) == 2716
    assert sum(len(turn.targets) for turn in turns) > 0.99 * sum(len(turn.titles) for turn in turns)
    assert len(dataset.rejected) < 10


def test_real_opendialkg(real_data: Path, tmp_path: Path) -> None:
    dataset = load(f"opendialkg:{real_data / 'opendialkg'}", cache=tmp_path)
    assert len(dataset.catalogue) == 3672
    assert len(opendialkg.turns(real_data / "opendialkg", dataset.catalogue)) == 1188
