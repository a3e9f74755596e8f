"""Malformed data: what is written, and what must be said about it.

A case writes files into a folder and returns the spec to load. It expects either one error (`error`: part of the
message) or rejected rows beside good ones (`rejected`: line number and part of the reason of each).
"""

from __future__ import annotations

import errno
import gzip
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ITEMS = "item_id,title,genres\na,Alien,Horror|Sci-Fi\nb,Brazil,Comedy\n"
EVENTS = "user_id,item_id,timestamp,rating\nu,a,100,5\nu,b,200,4\nv,a,300,3\n"
Write = Callable[[Path], str]
Sabotage = Callable[[pytest.MonkeyPatch, Path], None]


@dataclass(frozen=True)
class Case:
    """One malformed input."""

    name: str
    write: Write
    error: str | None = None
    rejected: tuple[tuple[int, str], ...] = ()
    sabotage: Sabotage | None = None
    """What happens to the machine after the files were written."""


def table(**files: str | bytes | None) -> Write:
    """A table folder with some files replaced (``items_csv="..."``) or left out (None)."""

    def write(folder: Path) -> str:
        content: dict[str, str | bytes | None] = {"items_csv": ITEMS, "interactions_csv": EVENTS, **files}
        for name, text in content.items():
            if text is not None:
                stem, _, suffix = name.rpartition("_")
                (folder / f"{stem}.{suffix}").write_bytes(text.encode() if isinstance(text, str) else text)
        return f"table:{folder}"

    return write


def events(rows: str | bytes) -> Write:
    """A table folder with these rows after three good ones."""
    return table(interactions_csv=EVENTS.encode() + (rows.encode() if isinstance(rows, str) else rows))


def folder(kind: str, **files: str | bytes) -> Write:
    """A folder of another source; ``__`` in a key is the dot of the name."""

    def write(path: Path) -> str:
        for name, text in files.items():
            (path / name.replace("__", ".")).write_bytes(text.encode() if isinstance(text, str) else text)
        return f"{kind}:{path}"

    return write


def plain(spec: str) -> Write:
    """A spec without files."""
    return lambda path: spec.replace("TMP", str(path))


def _zip(cut: int) -> Write:
    def write(path: Path) -> str:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("ml-1m/movies.dat", "1::A (1990)::Drama\n")
            archive.writestr("ml-1m/ratings.dat", "1::1::5::1\n")
        (path / "ml-1m.zip").write_bytes(packed.getvalue()[:-cut])
        return f"movielens:{path / 'ml-1m.zip'}"

    return write


def _parquet(**columns: list[Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _full_disk(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    def full(*_args: object, **_settings: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyarrow.ipc.new_stream", full)


def _full_disk_folder(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    def full(*_args: object, **_settings: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)


def _read_only(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    def refused(*_args: object, **_settings: object) -> str:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refused)


def _corrupt_cache(_: pytest.MonkeyPatch, path: Path) -> None:
    from llmrec.data.spec import load

    load(f"table:{path}", cache=path / "cache")
    for file in (path / "cache").rglob("events.arrow"):
        file.write_bytes(b"\0" * file.stat().st_size)


def _truncated_cache(_: pytest.MonkeyPatch, path: Path) -> None:
    from llmrec.data.spec import load

    load(f"table:{path}", cache=path / "cache")
    for file in (path / "cache").rglob("meta.json"):
        file.write_text(file.read_text(encoding="utf-8")[:40], encoding="utf-8")


_MOVIES = "1::Toy Story (1995)::Comedy\n2::Heat (1995)::Crime\n"
_GOOD = "1::1::5::978300760\n"
_META = '{"asin": "A", "title": "a"}\n'
_REVIEW = '{"reviewerID": "U", "asin": "A", "overall": 4.0, "unixReviewTime": 7}\n'

CASES = (
    # specs and folders
    Case("unknown spec", plain("netflix:TMP"), error="unknown dataset spec, got 'netflix:"),
    Case("spec without path", plain("table:"), error="the spec 'table:' lacks its path; write table:PATH"),
    Case("missing folder", plain("table:TMP/nowhere"), error="no such folder or archive"),
    Case("empty folder", plain("table:TMP"), error="has none of items.csv, items.parquet, items.jsonl"),
    Case("folder of another source", folder("amazon", movies__dat=_MOVIES), error="no Amazon data in"),
    Case("a file where a folder is meant", lambda p: table()(p) + "/items.csv", error="expected a folder or a .zip"),
    Case("interactions missing", table(interactions_csv=None), error="has none of interactions.csv"),
    Case("items twice", table(items_jsonl="{}\n"), error="has items twice"),
    # columns
    Case(
        "unknown columns", table(interactions_csv="user,item,when\nu,a,1\n"), error="no column 'user_id'; got ['user'"
    ),
    Case("misspelt column", table(items_csv="itemid,title\na,A\n"), error="rename 'itemid'?"),
    Case("title column missing", table(items_csv="item_id,name\na,A\n"), error="items.csv has no column 'title'"),
    Case("timestamp column missing", table(interactions_csv="user_id,item_id\nu,a\n"), error="no column 'timestamp'"),
    Case("repeated column", table(items_csv="item_id,title,title\na,A,B\n"), error="distinct, non-empty column names"),
    Case("semicolons", table(items_csv="item_id;title\na;A\n"), error="no column 'item_id'; got ['item_id;title']"),
    # empty
    Case("empty items", table(items_csv=""), error="items.csv is empty"),
    Case("empty interactions", table(interactions_csv=""), error="interactions.csv is empty"),
    Case("header only", table(interactions_csv="user_id,item_id,timestamp\n"), error="no usable interaction"),
    Case("items header only", table(items_csv="item_id,title\n"), error="items.csv has no usable row"),
    Case(
        "empty history",
        folder("movielens", items__jsonl='{"item_id": 1, "title": "A"}\n', sequences__txt="1 1\n2\n"),
        rejected=((2, "history without items"),),
    ),
    # bad rows beside good ones
    Case("too many fields", events("w,a,5,4,9\n"), rejected=((5, "expected 4 fields, got 5"),)),
    Case("too few fields", events("w,a\n"), rejected=((5, "expected 4 fields, got 2"),)),
    Case("broken quotes", events('w,"a,5,4\nx,a,9,4\n'), rejected=((5, "a quote is opened and never closed"),)),
    Case("text after a quote", events('w,"a"b,5,4\n'), rejected=((5, "broken CSV"),)),
    Case("not UTF-8", events(b"w\xff,a,5,4\n"), rejected=((5, "not UTF-8 (byte 0xff at position 1)"),)),
    Case("NUL byte", events(b"w\x00,a,5,4\n"), rejected=((5, "holds a NUL byte"),)),
    Case("huge line", events(b"w" * (1 << 20) + b",a,5,4\n"), rejected=((5, "bytes, more than 1048576 allowed"),)),
    Case(
        "huge quoted field", events('"' + "w" * 200_000 + '",a,5,4\n'), rejected=((5, "field larger than field limit"),)
    ),
    Case("unknown item", events("w,zz,5,4\n"), rejected=((5, "unknown item"),)),
    Case("missing user", events(",a,5,4\n"), rejected=((5, "user_id is missing"),)),
    Case("missing item", events("w, ,5,4\n"), rejected=((5, "item_id is missing"),)),
    Case("rating in words", events("w,a,5,good\n"), rejected=((5, "rating is not a number"),)),
    Case("rating not finite", events("w,a,5,nan\nw,b,6,inf\n"), rejected=((5, "rating is not"), (6, "rating is not"))),
    Case("timestamp in words", events("w,a,yesterday,4\n"), rejected=((5, "neither a number of seconds nor an ISO"),)),
    Case("impossible date", events("w,a,2020-02-30,4\n"), rejected=((5, "neither a number of seconds nor an ISO"),)),
    Case("negative timestamp", events("w,a,-5,4\n"), rejected=((5, "timestamp is negative"),)),
    Case("milliseconds", events("w,a,1600000000000,4\n"), rejected=((5, "milliseconds instead of seconds?"),)),
    Case("the same row twice", events("v,a,300,3\n"), rejected=((5, "exact duplicate of an earlier row"),)),
    Case("duplicate item", table(items_csv=ITEMS + "a,Again,Drama\n"), rejected=((4, "item_id occurs twice"),)),
    Case("item without id", table(items_csv=ITEMS + ",Nameless,Drama\n"), rejected=((4, "item_id is missing"),)),
    Case("user described twice", table(users_csv="user_id,age\nu,3\nu,4\n"), rejected=((3, "user_id occurs twice"),)),
    Case(
        "stars out of range",
        folder("movielens", movies__dat=_MOVIES, ratings__dat=_GOOD + "1::2::9::978300761\n"),
        rejected=((2, "rating is outside 0.5 to 5"),),
    ),
    Case(
        "wrong separator in ratings.dat",
        folder("movielens", movies__dat=_MOVIES, ratings__dat=_GOOD + "1:2:5:978300761\n"),
        rejected=((2, "expected 4 fields, got 1"),),
    ),
    # whole files that cannot be read
    Case("UTF-16", table(items_csv=ITEMS.encode("utf-16")), error="items.csv is UTF-16; save it as UTF-8"),
    Case("truncated zip", _zip(cut=40), error="is not a complete zip archive"),
    Case(
        "truncated gzip",
        table(interactions_csv=None, **{"interactions.csv_gz": gzip.compress(EVENTS.encode() * 9)[:-12]}),
        error="interactions.csv.gz is damaged or incomplete",
    ),
    Case("not gzip", table(items_csv=None, **{"items.csv_gz": ITEMS}), error="items.csv.gz is damaged or incomplete"),
    Case("broken Parquet", table(items_csv=None, items_parquet=b"PAR1 nonsense"), error="not a readable Parquet file"),
    Case(
        "truncated Parquet",
        table(interactions_csv=None, interactions_parquet=_parquet(user_id=["u"], item_id=["a"], timestamp=[1])[:-30]),
        error="interactions.parquet is not a readable Parquet file",
    ),
    Case(
        "Parquet without columns",
        table(interactions_csv=None, interactions_parquet=_parquet(user=["u"])),
        error="interactions.parquet has no column 'user_id'",
    ),
    # JSON lines
    Case(
        "broken JSON line",
        table(
            items_csv=None, items_jsonl='{"item_id": "a", "title": "A"}\n{"item_id": \n{"item_id": "b", "title": "B"}\n'
        ),
        rejected=((2, "not JSON"),),
    ),
    Case(
        "JSON but no object",
        folder("amazon", meta__json=_META, reviews__json=_REVIEW + "7\n"),
        rejected=((2, "got int"),),
    ),
    Case(
        "no JSON at all",
        table(items_csv=None, items_jsonl="hello\n"),
        error="items.jsonl is empty or has no JSON object",
    ),
    Case(
        "rating in words in JSON",
        folder("amazon", meta__json=_META, reviews__json=_REVIEW + _REVIEW.replace("4.0", '"fine"')),
        rejected=((2, "rating is not a number"),),
    ),
    Case(
        "reviews of an unknown release",
        folder("amazon", meta__json=_META, reviews__json='{"who": 1}\n'),
        error="is not a review file",
    ),
    # settings
    Case("settings with a wrong key", table(dataset_yaml="flatfields: [x]\n"), error="dataset.yaml: flatfields: Extra"),
    Case("settings that are not YAML", table(dataset_yaml="a: [1\n"), error="dataset.yaml is not YAML"),
    Case(
        "settings with an unknown attribute", table(dataset_yaml="flat_fields: [mood]\n"), error="no attribute 'mood'"
    ),
    # the machine
    Case("full disk", table(), error="the disk is full while writing", sabotage=_full_disk),
    Case("full disk at the first folder", table(), error="the disk is full while writing", sabotage=_full_disk_folder),
    Case("read-only cache", table(), error="set LLMREC_CACHE", sabotage=_read_only),
    Case("corrupt cache", table(), error="delete that folder and run the command again", sabotage=_corrupt_cache),
    Case("truncated cache", table(), error="delete that folder and run the command again", sabotage=_truncated_cache),
)
