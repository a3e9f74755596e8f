"""MovieLens in every form it is handed around in.

Official 1M and 10M (``ratings.dat``, ``::`` between fields), 100K (``u.data``), ``ml-latest*``, 20M, 25M and 32M
(``ratings.csv``), RecBole atomic files (``*.inter``), and sequences (``sequences.txt`` with ``items.jsonl``); as a
folder or a zip, plain or gzip. Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.data import recbole
from llmrec.data.arrow import IntArray
from llmrec.data.build import EventBatch, Raw, distinct_rows
from llmrec.data.columns import from_python, kinds_of, split_list, split_year, typed
from llmrec.data.files import FileSet, SourceFile
from llmrec.data.jsonl import objects
from llmrec.data.lines import Columns, blocks, delimited, split
from llmrec.data.rejections import Rejections
from llmrec.data.sequences import sequence_events
from llmrec.data.tables import column_of
from llmrec.errors import DataError

LICENCE = "GroupLens: research use, no redistribution; cite Harper and Konstan 2015 (doi 10.1145/2827872)"
STARS = (0.5, 5.0)
_FLAGS = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
_NO_GENRE = "(no genres listed)"
AGE_GROUPS = {1: "under 18", 18: "18-24", 25: "25-34", 35: "35-44", 45: "45-49", 50: "50-55", 56: "56 or older"}
OCCUPATIONS = [
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
]


def source_files(files: FileSet) -> list[SourceFile]:
    """The files that this source reads; their content is the key of the cache.

    Raises:
        DataError: the folder holds none of the known forms.
    """
    for names in (
        ("ratings.dat", "movies.dat", "users.dat"),
        ("u.data", "u.item", "u.user"),
        ("ratings.csv", "movies.csv"),
        ("sequences.txt", "items.jsonl", "ratings.txt", "users.jsonl"),
    ):
        if files.find(names[0]):
            if files.find(names[1]) is None:
                raise DataError(f"{files.path} has {names[0]} but no {names[1]}; got {files.names()!r}")
            return [found for name in names if (found := files.find(name))]
    if atomic := recbole.source_files(files):
        return atomic
    raise DataError(
        f"no MovieLens data in {files.path}: expected ratings.dat, u.data, ratings.csv, *.inter or sequences.txt, "
        f"got {files.names()!r}"
    )


def read(files: FileSet, rejections: Rejections) -> Raw:
    """Read whichever form is there."""
    if ratings := files.find("ratings.dat"):
        return _official(files, ratings, rejections)
    if ratings := files.find("u.data"):
        return _hundred_k(files, ratings, rejections)
    if ratings := files.find("ratings.csv"):
        return _latest(files, ratings, rejections)
    if sequences := files.find("sequences.txt"):
        return _sequences(files, sequences, rejections)
    raw = recbole.read(files, rejections)
    return _raw(raw.items, raw.events, raw.users, notes=raw.notes)


def _raw(items: pa.Table, events: Iterable[EventBatch], users: pa.Table | None, notes: tuple[str, ...] = ()) -> Raw:
    return Raw(
        name="movielens",
        items=items,
        events=events,
        users=users,
        rating_range=STARS,
        flat_fields=("genres",) if "genres" in items.column_names else (),
        kinds=kinds_of(items),
        notes=notes,
        licence=LICENCE,
        item_noun="film",
        domain="movies",
    )


def _required(files: FileSet, name: str) -> SourceFile:
    found = files.find(name)
    if found is None:
        raise DataError(f"{files.path} has no {name}; got {files.names()!r}")
    return found


def _encoding(file: SourceFile) -> str:
    """The official files of 1M and 100K are Latin-1, later ones and many copies are UTF-8."""
    with file.open() as stream:
        data = stream.read()
    try:
        data.decode()
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _official(files: FileSet, ratings: SourceFile, rejections: Rejections) -> Raw:
    movies = _required(files, "movies.dat")
    parts = [
        split(block, "::", 3, movies.name, rejections)
        for block in blocks(movies, rejections, encoding=_encoding(movies))
    ]
    items = _films(_concatenated(parts, 0), _concatenated(parts, 1), _concatenated(parts, 2), movies, parts, rejections)
    users = _demographics(files.find("users.dat"), rejections)
    return _raw(items, _events(ratings, "::", rejections), users)


def _events(ratings: SourceFile, delimiter: str, rejections: Rejections) -> Iterator[EventBatch]:
    for block in blocks(ratings, rejections):
        columns = split(block, delimiter, 4, ratings.name, rejections)
        user, item, stars, time = columns.fields
        yield EventBatch(ratings.name, user, item, time, stars, columns.numbers, columns.lines)


def _demographics(file: SourceFile | None, rejections: Rejections) -> pa.Table | None:
    """``user::gender::age::occupation::zip`` with codes written out."""
    if file is None:
        return None
    parts = [split(block, "::", 5, file.name, rejections) for block in blocks(file, rejections)]
    ids, gender, age, occupation = (_concatenated(parts, i) for i in range(4))
    table = pa.table(
        {
            "user_id": ids,
            "gender": gender,
            "age_group": pa.array([_age(value) for value in age.to_pylist()], pa.string()),
            "occupation": pa.array([_occupation(value) for value in occupation.to_pylist()], pa.string()),
        }
    )
    return distinct_rows(table, "user_id", file.name, _numbers(parts), rejections)


def _age(code: object) -> str | None:
    text = str(code)
    return AGE_GROUPS.get(int(text), text) if text.isdigit() else None


def _occupation(code: object) -> str | None:
    text = str(code)
    return OCCUPATIONS[int(text)] if text.isdigit() and int(text) < len(OCCUPATIONS) else None


def _hundred_k(files: FileSet, ratings: SourceFile, rejections: Rejections) -> Raw:
    movies = _required(files, "u.item")
    width = 5 + len(_FLAGS)
    parts = [
        split(block, "|", width, movies.name, rejections)
        for block in blocks(movies, rejections, encoding=_encoding(movies))
    ]
    flags = [_concatenated(parts, 5 + i).to_pylist() for i in range(len(_FLAGS))]
    chosen = [
        "|".join(name for name, flag in zip(_FLAGS, row, strict=True) if flag == "1" and name != "unknown")
        for row in zip(*flags, strict=True)
    ]
    genres = pa.array(chosen, pa.string())
    items = _films(_concatenated(parts, 0), _concatenated(parts, 1), genres, movies, parts, rejections)
    return _raw(items, _events(ratings, "\t", rejections), _hundred_k_users(files.find("u.user"), rejections))


def _hundred_k_users(file: SourceFile | None, rejections: Rejections) -> pa.Table | None:
    if file is None:
        return None
    parts = [split(block, "|", 5, file.name, rejections) for block in blocks(file, rejections)]
    ids, age, gender, occupation = (_concatenated(parts, i) for i in range(4))
    table = pa.table({"user_id": ids, "age": typed(age, "age", []), "gender": gender, "occupation": occupation})
    return distinct_rows(table, "user_id", file.name, _numbers(parts), rejections)


def _latest(files: FileSet, ratings: SourceFile, rejections: Rejections) -> Raw:
    movies = _required(files, "movies.csv")
    names, rows = delimited(movies, ",", rejections)
    parts = list(rows)
    ids, titles, genres = (
        _concatenated(parts, column_of(names, n, movies.name)) for n in ("movieId", "title", "genres")
    )
    items = _films(ids, titles, genres, movies, parts, rejections)
    return _raw(items, _latest_events(ratings, rejections), None)


def _latest_events(ratings: SourceFile, rejections: Rejections) -> Iterator[EventBatch]:
    names, rows = delimited(ratings, ",", rejections)
    order = [column_of(names, name, ratings.name) for name in ("userId", "movieId", "rating", "timestamp")]
    for columns in rows:
        user, item, stars, time = (columns.fields[i] for i in order)
        yield EventBatch(ratings.name, user, item, time, stars, columns.numbers, columns.lines)


def _sequences(files: FileSet, sequences: SourceFile, rejections: Rejections) -> Raw:
    movies = _required(files, "items.jsonl")
    rows = list(objects(movies, rejections))
    table = pa.table(
        {
            "item_id": pa.array([_text(row.get("item_id")) for _, row in rows], pa.string()),
            "title": pa.array([_text(row.get("title")) for _, row in rows], pa.string()),
            "genres": from_python([row.get("genres") or [] for _, row in rows]),
        }
    )
    lines = np.array([number for number, _ in rows], dtype=np.int64)
    items = _with_year(distinct_rows(table, "item_id", movies.name, lines, rejections))
    users = _sequence_users(files.find("users.jsonl"), rejections)
    events = sequence_events(sequences, files.find("ratings.txt"), rejections)
    return _raw(items, events, users, notes=("column movie_id left out: another identifier",))


def _sequence_users(file: SourceFile | None, rejections: Rejections) -> pa.Table | None:
    if file is None:
        return None
    rows = list(objects(file, rejections))
    table = pa.table(
        {
            "user_id": pa.array([_text(row.get("user_id")) for _, row in rows], pa.string()),
            "gender": pa.array([_text(row.get("gender")) for _, row in rows], pa.string()),
            "age_group": pa.array([_age(row.get("age_group")) for _, row in rows], pa.string()),
            "occupation": pa.array([_occupation(row.get("occupation")) for _, row in rows], pa.string()),
        }
    )
    lines = np.array([number for number, _ in rows], dtype=np.int64)
    return distinct_rows(table, "user_id", file.name, lines, rejections)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _films(
    ids: pa.Array, titles: pa.Array, genres: pa.Array, file: SourceFile, parts: list[Columns], rejections: Rejections
) -> pa.Table:
    known = pc.replace_substring(genres.cast(pa.string()), _NO_GENRE, "")
    table = pa.table({"item_id": ids, "title": titles.cast(pa.string()), "genres": split_list(known, "|")})
    return _with_year(distinct_rows(table, "item_id", file.name, _numbers(parts), rejections))


def _with_year(table: pa.Table) -> pa.Table:
    titles, years = split_year(table.column("title"))
    split_titles = table.set_column(table.column_names.index("title"), "title", titles)
    return split_titles.add_column(2, "year", years)


def _concatenated(parts: list[Columns], field: int) -> pa.Array:
    return pa.chunked_array([part.fields[field] for part in parts], pa.large_string()).combine_chunks()


def _numbers(parts: list[Columns]) -> IntArray:
    return np.concatenate([part.numbers for part in parts]) if parts else np.empty(0, np.int64)
