"""A user's own tables, in three formats."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.data.spec import load
from llmrec.errors import ConfigError, DataError

ITEMS = (
    "item_id,title,year,genres,blurb\n"
    "a,Alien,1979,Horror|Sci-Fi,In space\n"
    "b,Brazil,1985,Comedy| Sci-Fi |,\n"
    "c,,,,A mystery\n"
)
EVENTS = (
    "user_id,item_id,timestamp,rating,device\n"
    "u,b,2020-01-02,4,tv\n"
    "u,a,2020-01-01T10:00:00+01:00,5,tv\n"
    "v,c,1577836800,,tv\n"
)


def _csv(folder: Path) -> None:
    (folder / "items.csv").write_text(ITEMS)
    (folder / "interactions.csv").write_text(EVENTS.replace("v,c,1577836800,,", "v,c,1577836800,3,"))


def _csv_gzip(folder: Path) -> None:
    (folder / "items.csv.gz").write_bytes(gzip.compress(("\ufeff" + ITEMS.replace("\n", "\r\n")).encode()))
    events = EVENTS.replace("v,c,1577836800,,", 'v,"c",1577836800,3,')
    (folder / "interactions.csv").write_text(events)


def _parquet(folder: Path) -> None:
    lists = [["Horror", "Sci-Fi"], ["Comedy", "Sci-Fi"], None]
    columns = {
        "item_id": ["a", "b", "c"],
        "title": ["Alien", "Brazil", None],
        "year": [1979, 1985, None],
        "genres": lists,
    }
    pq.write_table(pa.table({**columns, "blurb": ["In space", None, "A mystery"]}), folder / "items.parquet")
    times = pa.array([1577923200, 1577869200, 1577836800]).cast(pa.timestamp("s"))
    events = {"user_id": ["u", "u", "v"], "item_id": ["b", "a", "c"], "timestamp": times, "rating": [4, 5, 3]}
    pq.write_table(pa.table(events), folder / "interactions.parquet")


def _jsonl(folder: Path) -> None:
    (folder / "items.jsonl").write_text(
        '{"item_id": "a", "title": "Alien", "year": 1979, "genres": ["Horror", "Sci-Fi"], "blurb": "In space"}\n'
        '{"item_id": "b", "title": "Brazil", "year": 1985, "genres": ["Comedy", "Sci-Fi"]}\n'
        '\n{"item_id": "c", "title": null, "blurb": "A mystery", "nested": {"x": 1}}\n'
    )
    (folder / "interactions.jsonl").write_text(
        '{"user_id": "u", "item_id": "b", "timestamp": 1577923200, "rating": 4}\n'
        '{"user_id": "u", "item_id": "a", "timestamp": 1577869200, "rating": 5}\n'
        '{"user_id": "v", "item_id": "c", "timestamp": 1577836800, "rating": 3}\n'
    )


@pytest.mark.parametrize("write", [_csv, _csv_gzip, _parquet, _jsonl])
def test_golden_formats_agree(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    dataset = load(f"table:{tmp_path}", strict=True)
    catalogue, x = dataset.catalogue, dataset.interactions
    assert catalogue.attribute_names[:2] == ("year", "genres")
    assert catalogue.values(1, "genres") == ("Comedy", "Sci-Fi")
    assert catalogue.flat(0) == "Title: Alien (1979). Category: Horror, Sci-Fi"
    assert catalogue.values(2, "year") == ()
    assert [x.history(user).tolist() for user in range(2)] == [[0, 1], [2]]
    times, ratings = x.timestamps(0), x.ratings(0)
    assert times is not None
    assert ratings is not None
    assert times.tolist() == [1577869200, 1577923200]
    assert ratings.tolist() == [5.0, 4.0]


def test_dropped_columns_are_noted(tmp_path: Path) -> None:
    _csv(tmp_path)
    assert "interactions.csv: columns left out: device" in load(f"table:{tmp_path}").notes


def test_users_are_aligned_by_id(tmp_path: Path) -> None:
    _csv(tmp_path)
    (tmp_path / "users.csv").write_text("user_id,age,hobbies\nx,50,\nv,31,chess|go\n")
    dataset = load(f"table:{tmp_path}")
    assert dataset.interactions.user_attributes(0) == {}
    assert dataset.interactions.user_attributes(1) == {"age": 31, "hobbies": ["chess", "go"]}
    notes = " ".join(dataset.notes)
    assert "1 described users have no interactions" in notes
    assert "1 users with interactions are not described" in notes


def test_settings_file(tmp_path: Path) -> None:
    _csv(tmp_path)
    (tmp_path / "dataset.yaml").write_text("name: classics\nitem_noun: film\nflat_fields: [blurb]\nseparator: ', '\n")
    dataset = load(f"table:{tmp_path}")
    assert (dataset.name, dataset.item_noun) == ("classics", "film")
    assert dataset.catalogue.flat(0) == "Title: Alien (1979), Blurb: In space"


def test_settings_typos_are_refused(tmp_path: Path) -> None:
    _csv(tmp_path)
    (tmp_path / "dataset.yaml").write_text("item_nuon: film\n")
    with pytest.raises(
        ConfigError, match=r"dataset.yaml: item_nuon: Extra inputs are not permitted; keys are name, item_noun"
    ):
        load(f"table:{tmp_path}")


def test_quoted_fields_span_lines_and_line_numbers_stay_right(tmp_path: Path) -> None:
    _csv(tmp_path)
    (tmp_path / "items.csv").write_text('item_id,title\na,"Alien, the ""first""\nfilm"\nb,Brazil,extra\nc,Cube\n')
    dataset = load(f"table:{tmp_path}")
    assert dataset.catalogue.title(0) == 'Alien, the "first"\nfilm'
    assert [(row.source, row.line, row.reason) for row in dataset.rejected][1] == (
        "items.csv",
        4,
        "expected 2 fields, got 3",
    )


def test_an_unclosed_quote_costs_one_line(tmp_path: Path) -> None:
    _csv(tmp_path)
    (tmp_path / "items.csv").write_text('item_id,title\na,"Alien\nb,Brazil\nc,Cube\n')
    dataset = load(f"table:{tmp_path}")
    assert dataset.catalogue.titles() == ["Brazil", "Cube"]
    first = dataset.rejected[1]
    assert (first.source, first.line, first.reason) == (
        "items.csv",
        2,
        "broken CSV: a quote is opened and never closed",
    )


def test_numbers_that_are_not_are_noted(tmp_path: Path) -> None:
    _csv(tmp_path)
    rows = "".join(f"i{i},t{i},{1900 + i}\n" for i in range(40))
    (tmp_path / "items.csv").write_text("item_id,title,year\na,A,19x9\nb,B,1\nc,C,2\n" + rows)
    dataset = load(f"table:{tmp_path}")
    assert dataset.catalogue.kind("year") == "number"
    assert "column year: 1 values are not numbers and were left empty, first '19x9'" in dataset.notes


def test_blocks_of_any_size_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _csv(tmp_path)
    whole = load(f"table:{tmp_path}", cache=tmp_path / "one")
    monkeypatch.setattr("llmrec.data.lines.blocks.__kwdefaults__", {"encoding": "utf-8", "size": 7})
    parts = load(f"table:{tmp_path}", cache=tmp_path / "two")
    assert parts.content_hash == whole.content_hash


def test_strict_names_the_first_and_the_count(tmp_path: Path) -> None:
    _csv(tmp_path)
    (tmp_path / "interactions.csv").write_text(EVENTS + "v,zz,5,1,tv\n")
    with pytest.raises(
        DataError, match=r"2 rows were rejected \(strict\), the first in interactions.csv line 4: rating"
    ):
        load(f"table:{tmp_path}", strict=True)


def test_exact_duplicates_are_rejected_and_repeats_counted(tmp_path: Path) -> None:
    _csv(tmp_path)
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1\nu,b,1\nu,a,1\nu,a,2\nu,a,3\nv,a,1\n")
    dataset = load(f"table:{tmp_path}")
    assert [(row.line, row.reason) for row in dataset.rejected] == [(4, "exact duplicate of an earlier row")]
    assert dataset.interactions.history(0).tolist() == [0, 1, 0]
    assert "consecutive repeats of the same item: 1 removed" in dataset.notes
