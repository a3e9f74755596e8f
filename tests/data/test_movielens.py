"""Every form of MovieLens gives the same dataset."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrec.data.dataset import Dataset
from llmrec.data.spec import load
from llmrec.errors import DataError

# (movie id, title, genres) and (user, movie, stars, second); user 2 has a tie in time at 20
FILMS = [("1", "Café Noir, The (1995)", "Comedy|Drama"), ("7", "Alien (1979)", "Horror|Sci-Fi"), ("9", "Untitled", "")]
EVENTS = [
    ("1", "7", "5", "30"),
    ("1", "1", "3", "10"),
    ("2", "9", "4", "20"),
    ("2", "1", "2", "20"),
    ("2", "7", "1", "5"),
]


def _official(folder: Path) -> None:
    films = "".join(f"{film}::{title}::{genres}\n" for film, title, genres in FILMS)
    (folder / "movies.dat").write_text(films, encoding="latin-1")
    (folder / "ratings.dat").write_text("".join("::".join(event) + "\n" for event in EVENTS))
    (folder / "users.dat").write_text("1::F::25::20::12345\n2::M::1::99::54321\n")


def _official_gzip(folder: Path) -> None:
    _official(folder)
    for name in ("movies.dat", "ratings.dat", "users.dat"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()


def _latest(folder: Path) -> None:
    films = "".join(f'{film},"{title}",{genres or "(no genres listed)"}\n' for film, title, genres in FILMS)
    (folder / "movies.csv").write_text("movieId,title,genres\n" + films, encoding="utf-8")
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n" + "".join(",".join(e) + "\n" for e in EVENTS)
    )


def _hundred_k(folder: Path) -> None:
    flags = {"1": (5, 8), "7": (11, 15), "9": (0,)}
    lines = []
    for film, title, _ in FILMS:
        marks = "|".join("1" if i in flags[film] else "0" for i in range(19))
        lines.append(f"{film}|{title}|01-Jan-1995||http://example.org|{marks}\n")
    (folder / "u.item").write_text("".join(lines), encoding="latin-1")
    (folder / "u.data").write_text("".join("\t".join(event) + "\n" for event in EVENTS))
    (folder / "u.user").write_text("1|25|F|writer|12345\n2|17|M|student|54321\n")


def _recbole(folder: Path) -> None:
    years = {"1": "1995", "7": "1979", "9": ""}
    films = "".join(f"{f}\t{t.split(' (')[0]}\t{years[f]}\t{g.replace('|', ' ')}\n" for f, t, g in FILMS)
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    (folder / "ml.item").write_text(header + films, encoding="utf-8")
    events = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "ml.inter").write_text(events + "".join("\t".join(event) + "\n" for event in EVENTS))


def _load(folder: Path) -> Dataset:
    return load(f"movielens:{folder}", strict=True)


@pytest.mark.parametrize("write", [_official, _official_gzip, _latest, _hundred_k, _recbole])
def test_golden_forms_agree(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    dataset = _load(tmp_path)
    catalogue, x = dataset.catalogue, dataset.interactions
    assert list(catalogue.item_ids) == ["1", "7", "9"]
    assert catalogue.flat(0) == "Title: Café Noir, The (1995). Category: Comedy, Drama"
    assert catalogue.flat(2) == "Title: Untitled. Category: Unknown"
    assert catalogue.values(1, "year") == (1979,)
    assert list(x.user_ids) == ["1", "2"]
    assert [x.history(user).tolist() for user in range(2)] == [[0, 1], [1, 2, 0]]  # the tie keeps the order of the file
    ratings, times = x.ratings(1), x.timestamps(0)
    assert ratings is not None
    assert times is not None
    assert ratings.tolist() == [1.0, 4.0, 2.0]
    assert times.tolist() == [10, 30]
    assert "ties in time: order of the source file; 1 events" in " ".join(dataset.notes)


def test_golden_official_users_are_written_out(tmp_path: Path) -> None:
    _official(tmp_path)
    x = _load(tmp_path).interactions
    assert x.user_attributes(0) == {"gender": "F", "age_group": "25-34", "occupation": "writer"}
    assert x.user_attributes(1) == {"gender": "M", "age_group": "under 18"}


def test_zip_as_it_is_downloaded(tmp_path: Path) -> None:
    inner = tmp_path / "ml-1m"
    inner.mkdir()
    _official(inner)
    archive = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in inner.iterdir():
            packed.write(file, f"ml-1m/{file.name}")
    assert _load(archive).content_hash == _load(inner).content_hash


def test_golden_sequences_with_stars(tmp_path: Path) -> None:
    rows = [{"item_id": int(f), "title": t, "genres": g.split("|") if g else []} for f, t, g in FILMS]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sequences.txt").write_text("1 1 7\n2 7 9  1\n")
    (tmp_path / "ratings.txt.gz").write_bytes(gzip.compress(b"2 1 4 2\n1 3 5\n"))  # another order of users
    dataset = _load(tmp_path)
    x = dataset.interactions
    assert x.time_is_order_only
    assert [x.history(user).tolist() for user in range(2)] == [[0, 1], [1, 2, 0]]
    ratings = x.ratings(1)
    assert ratings is not None
    assert ratings.tolist() == [1.0, 4.0, 2.0]


def test_a_sequence_whose_stars_do_not_fit_is_rejected_alone(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"item_id": 1, "title": "A"}\n{"item_id": 2, "title": "B"}\n')
    (tmp_path / "sequences.txt").write_text("1 1 2\n2 2 1\n3\n1 2 1\n4 1\n")
    (tmp_path / "ratings.txt").write_text("1 3\n2 4 4\n3\n")
    dataset = load(f"movielens:{tmp_path}")
    assert [(row.line, row.reason) for row in dataset.rejected] == [
        (1, "ratings.txt has another number of stars for this user"),
        (3, "history without items"),
        (4, "a second history of the same user; the first is kept"),
        (5, "ratings.txt has another number of stars for this user"),
    ]
    assert list(dataset.interactions.user_ids) == ["2"]


def test_a_folder_of_something_else_says_what_it_expected(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("hello")
    with pytest.raises(DataError, match=r"expected ratings.dat, u.data, .*got \['README.txt'\]"):
        _load(tmp_path)


def test_real_1m_counts(real_data: Path) -> None:
    dataset = load(f"movielens:{real_data / 'movielens-1m'}", strict=True)
    x = dataset.interactions
    assert (x.n_users, x.n_items, len(x)) == (6_040, 3_416, 999_611)
    assert x.has_ratings
    assert (
        dataset.catalogue.flat(3) == "Title: Princess Bride, The (1987). Category: Action, Adventure, Comedy, Romance"
    )
    assert dataset.catalogue.kind("genres") == "categories"
    assert len(dataset.catalogue.vocabulary("genres")) == 18


def test_real_100k_counts(real_data: Path) -> None:
    x = load(f"movielens:{real_data / 'movielens-100k'}", strict=True).interactions
    assert (x.n_users, x.n_items, len(x)) == (943, 1_682, 100_000)
    assert x.user_attributes(0)["occupation"]
