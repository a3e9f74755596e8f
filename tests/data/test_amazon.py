"""Amazon: the official releases and the sequence form."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from llmrec.data.spec import load
from llmrec.errors import DataError


def _jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def test_golden_2014_python_notation(tmp_path: Path) -> None:
    meta = "{'asin': 'B1', 'title': 'Kid\\'s Balm &amp; Oil', 'categories': [['Beauty', 'Skin Care'], ['Gifts']], "
    meta += "'price': 3.5}\n"
    (tmp_path / "meta_Beauty.json.gz").write_bytes(gzip.compress((meta + "{'asin': 'B2'}\n").encode()))
    rows: list[dict[str, object]] = [
        {"reviewerID": "U", "asin": "B2", "overall": 5.0, "unixReviewTime": 200, "reviewText": "x"},
        {"reviewerID": "U", "asin": "B1", "overall": 2.0, "unixReviewTime": 100},
    ]
    _jsonl(tmp_path / "reviews_Beauty_5.json.gz", rows)
    dataset = load(f"amazon:{tmp_path}", strict=True)
    assert dataset.interactions.history(0).tolist() == [0, 1]
    assert dataset.catalogue.flat(0) == "Title: Kid's Balm & Oil. Category: Beauty, Skin Care. Price: 3.5"
    assert dataset.catalogue.flat(1) == "Title: Unknown. Category: Unknown. Price: Unknown"
    assert dataset.item_noun == "product"


def test_golden_2018(tmp_path: Path) -> None:
    _jsonl(
        tmp_path / "meta_Toys.json",
        [
            {
                "asin": "T1",
                "title": "Blocks",
                "category": ["Toys", "Toys", "<b>Wood</b>"],
                "brand": "Acme",
                "price": "$1,012.99",
            }
        ],
    )
    review = {"reviewerID": "U", "asin": "T1", "overall": 4.0, "unixReviewTime": 7, "style": {"Size:": "L"}}
    _jsonl(tmp_path / "Toys_5.json", [review])
    dataset = load(f"amazon:{tmp_path}", strict=True)
    assert dataset.catalogue.flat(0) == "Title: Blocks. Category: Toys, Wood. Brand: Acme. Price: 1012.99"


def test_golden_2023_milliseconds_and_parent_asin(tmp_path: Path) -> None:
    _jsonl(
        tmp_path / "meta_Games.jsonl",
        [{"parent_asin": "P", "title": "Go", "categories": ["Games", "Board"], "store": "Kaya", "price": None}],
    )
    review = {"user_id": "U", "asin": "C", "parent_asin": "P", "rating": 5, "timestamp": 1_600_000_000_123}
    _jsonl(tmp_path / "Games.jsonl", [review])
    dataset = load(f"amazon:{tmp_path}", strict=True)
    times = dataset.interactions.timestamps(0)
    assert times is not None
    assert times.tolist() == [1_600_000_000]
    assert dataset.catalogue.flat(0) == "Title: Go. Category: Games, Board. Brand: Kaya"


def test_one_bad_line_costs_one_line(tmp_path: Path) -> None:
    _jsonl(tmp_path / "meta.json", [{"asin": "A", "title": "a"}, {"asin": "B", "title": "b"}])
    good = '{"reviewerID": "U", "asin": "%s", "overall": 4.0, "unixReviewTime": 7}\n'
    (tmp_path / "reviews.json").write_text(good % "A" + '{"reviewerID": \n' + good % "B" + good % "C" + "[1]\n")
    dataset = load(f"amazon:{tmp_path}")
    assert dataset.interactions.history(0).tolist() == [0, 1]
    assert [row.line for row in dataset.rejected] == [2, 4, 5]
    assert dataset.rejected[0].reason.startswith("not JSON")
    assert dataset.rejected[1].reason.startswith("unknown item")
    assert dataset.rejected[2].reason == "expected a JSON object, got list"


def test_missing_metadata_is_named(tmp_path: Path) -> None:
    _jsonl(tmp_path / "reviews.json", [{"reviewerID": "U", "asin": "A"}])
    with pytest.raises(DataError, match="a review file and a meta_"):
        load(f"amazon:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "counts", "untitled"),
    [("amazon-beauty", (22_363, 12_101, 198_502), 7), ("amazon-toys", (19_412, 11_924, 167_597), 59)],
)
def test_real_counts(real_data: Path, name: str, counts: tuple[int, int, int], untitled: int) -> None:
    dataset = load(f"amazon:{real_data / name}", strict=True)
    x = dataset.interactions
    assert (x.n_users, x.n_items, len(x)) == counts
    assert dataset.catalogue.titles().count("Unknown") == untitled
