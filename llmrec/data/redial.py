"""ReDial: human dialogues in which films are recommended (Li et al., 2018, arXiv 1812.07617).

The catalogue is ``movies.jsonl``; its interactions are the films that the seekers of ``dialogues_*.jsonl`` said they
like, in the order in which they came up. ``turns_*.jsonl`` holds the turns with a recommendation (`turns`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from llmrec.data.build import EventBatch, Raw, distinct_rows
from llmrec.data.columns import from_python, kinds_of, split_year
from llmrec.data.files import FileSet, SourceFile
from llmrec.data.jsonl import objects
from llmrec.data.rejections import Rejections
from llmrec.data.turns import RecommendationTurn, read_turns
from llmrec.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from llmrec.data.catalogue import Catalogue

LICENCE = "ReDial: CC BY 4.0; cite Li et al. 2018 (arXiv 1812.07617)"
_MOVIES = "movies.jsonl"
_ATTRIBUTES = {"genre": "genres", "director": "directors", "star": "actors", "writer": "writers", "plot": "plot"}
_MENTION = re.compile(r"@(\d+)")
_LIKED = 1


def source_files(files: FileSet) -> list[SourceFile]:
    """The films and every file of dialogues.

    Raises:
        DataError: one of them is missing.
    """
    movies = files.find(_MOVIES)
    dialogues = _dialogues(files)
    if movies is None or not dialogues:
        raise DataError(
            f"no ReDial data in {files.path}: expected {_MOVIES} and dialogues_*.jsonl, got {files.names()!r}"
        )
    return [movies, *dialogues]


def read(files: FileSet, rejections: Rejections) -> Raw:
    """Films, and what seekers like."""
    movies, *dialogues = source_files(files)
    items = _items(movies, rejections)
    return Raw(
        name="redial",
        items=items,
        events=_events(dialogues, rejections),
        flat_fields=("genres",),
        kinds=kinds_of(items),
        notes=("interactions are the films that seekers said they like, in order of mention",),
        licence=LICENCE,
        item_noun="film",
        domain="movies",
    )


def turns(
    path: Path, catalogue: Catalogue, *, part: str = "valid", rejections: Rejections | None = None
) -> list[RecommendationTurn]:
    """Turns with a recommendation.

    Args:
        path: folder or archive of the data.
        catalogue: of the dataset ``redial:PATH``; titles are resolved in it.
        part: of ``turns_PART.jsonl``.
        rejections: collects malformed lines; None raises at the first.

    Raises:
        DataError: there is no such file, or a line is malformed and `rejections` is None.
    """
    return checked_turns(FileSet(path), f"turns_{part}.jsonl", catalogue, rejections)


def checked_turns(
    files: FileSet, name: str, catalogue: Catalogue, rejections: Rejections | None
) -> list[RecommendationTurn]:
    """`llmrec.data.turns.read_turns`, strict where nobody collects what is malformed.

    Raises:
        DataError: there is no such file, or a line is malformed and `rejections` is None.
    """
    found = Rejections() if rejections is None else rejections
    read_ones = list(read_turns(files, name, catalogue, found))
    if rejections is None and len(found):
        first = found.table().slice(0, 1).to_pylist()[0]
        raise DataError(
            f"{first['source']} line {first['line']}: {first['reason']}, got {first['text']!r}; mend the line, or pass "
            "rejections to leave such lines out"
        )
    return read_ones


def _dialogues(files: FileSet) -> list[SourceFile]:
    return [
        file
        for file in files.files
        if file.name.startswith("dialogues_") and file.name.removesuffix(".gz").endswith(".jsonl")
    ]


def _items(movies: SourceFile, rejections: Rejections) -> pa.Table:
    rows, numbers = [], []
    for number, row in objects(movies, rejections):
        if not str(row.get("name") or "").strip():
            rejections.add(movies.name, number, "name is missing", str(row))
            continue
        rows.append(row)
        numbers.append(number)
    titles, years = split_year(pa.array([" ".join(str(row["name"]).split()) for row in rows], pa.string()))
    ids = [None if row.get("movie_id") is None else str(row["movie_id"]) for row in rows]
    columns: dict[str, Any] = {"item_id": pa.array(ids, pa.string()), "title": titles, "year": years}
    for source, name in _ATTRIBUTES.items():
        values = [_capital(row.get(source)) if name == "genres" else row.get(source) for row in rows]
        column = from_python(values)
        if column is not None:
            columns[name] = column
    return distinct_rows(pa.table(columns), "item_id", movies.name, np.array(numbers, dtype=np.int64), rejections)


def _capital(genres: Any) -> Any:
    """Genres as other catalogues write them, so that the same everyday words find them: "sci-fi" is "Sci-Fi"."""
    return [str(genre).title() for genre in genres] if isinstance(genres, list) else genres


def _events(files: list[SourceFile], rejections: Rejections) -> Iterator[EventBatch]:
    for file in files:
        users: list[str] = []
        items: list[str] = []
        numbers: list[int] = []
        for number, row in objects(file, rejections):
            try:
                liked = _liked(row)
                user = str(row["initiator"])
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                rejections.add(
                    file.name, number, f"not a dialogue of ReDial ({type(error).__name__}: {error})", str(row)
                )
                continue
            users += [user] * len(liked)
            items += liked
            numbers += [number] * len(liked)
        yield EventBatch(
            source=file.name,
            users=pa.array(users, pa.string()),
            items=pa.array(items, pa.string()),
            timestamps=None,
            ratings=None,
            numbers=np.array(numbers, dtype=np.int64),
            lines=pa.array([f"{user} {item}" for user, item in zip(users, items, strict=True)], pa.string()),
        )


def _liked(row: dict[str, Any]) -> list[str]:
    """Films that the seeker says to like, by first mention."""
    answers = row["initiator_answers"] or {}  # an empty list where nothing was answered
    spoken = [item for message in row["messages"] for item in _MENTION.findall(message["text"])]
    liked = {str(item) for item, answer in dict(answers).items() if answer.get("liked") == _LIKED}
    return [item for item in dict.fromkeys([*spoken, *row["movie_mentions"]]) if item in liked]
