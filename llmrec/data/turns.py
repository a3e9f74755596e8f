"""Turns of human dialogues in which titles were recommended: what was said before, and the titles as catalogue rows."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmrec.data.jsonl import objects
from llmrec.errors import DataError

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue
    from llmrec.data.files import FileSet
    from llmrec.data.rejections import Rejections

_SPACES = re.compile(r"\s+")
_YEAR = re.compile(r"\s*\((?P<year>\d{4})\)\s*$")
_FIELDS = ("dialog_id", "turn_id", "context", "rec", "resp")


@dataclass(frozen=True)
class RecommendationTurn:
    """A turn in which somebody recommended something."""

    dialogue: str
    turn: int
    context: tuple[str, ...]
    """Messages before it, oldest first, the request last. The two speak in turns, so every second one from the end is
    the user's."""
    response: str
    """What was said in reply."""
    titles: tuple[str, ...]
    """The recommended titles as written."""
    targets: tuple[int, ...]
    """Their catalogue rows; a title that no item has is left out."""
    mentioned: frozenset[int] = frozenset()
    """Rows of all titles in the context. Recommending one of them again is repetition, which a fair test leaves out."""

    @property
    def request(self) -> str:
        """The user's last words."""
        return self.context[-1] if self.context else ""

    @property
    def requests(self) -> tuple[str, ...]:
        """All of the user's messages, oldest first, without empty ones."""
        return tuple(text for text in self.context[::-1][::2][::-1] if text.strip())

    @property
    def new_targets(self) -> frozenset[int]:
        """Targets that nobody mentioned before."""
        return frozenset(self.targets) - self.mentioned


class TitleIndex:
    """Finds the row of a title as people of the data set wrote it: with or without year, in any case and spacing."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._rows: dict[str, list[int]] = defaultdict(list)
        self._years: list[int | None] = []
        for row, title in enumerate(catalogue.titles()):
            self._rows[folded(title)].append(row)
            years = catalogue.values(row, "year") if "year" in catalogue.attribute_names else ()
            self._years.append(int(years[0]) if years else None)

    def row(self, title: str) -> int | None:
        """The row; where several items share the title, that of the year, else the first; None where none has it."""
        match = _YEAR.search(title)
        bare = folded(title[: match.start()] if match else title)
        rows = self._rows.get(bare, []) or self._rows.get(folded(title), [])
        if match is None:
            return rows[0] if rows else None
        year = int(match["year"])
        exact = [row for row in rows if self._years[row] == year]
        undated = [row for row in rows if self._years[row] is None]
        return next(iter([*exact, *undated]), None)


def folded(title: str) -> str:
    """Lower case, single spaces, no quotation marks around."""
    return _SPACES.sub(" ", title).strip(" \"'").casefold()


def read_turns(files: FileSet, name: str, catalogue: Catalogue, rejections: Rejections) -> Iterator[RecommendationTurn]:
    """The turns of a file of JSON lines with dialog_id, turn_id, context, rec and resp; entity where there is one.

    Args:
        name: of the file, such as turns_valid.jsonl (``.gz`` is found too).
        catalogue: titles are resolved in.
        rejections: collects lines of another form.

    Raises:
        DataError: there is no such file.
    """
    file = files.find(name)
    if file is None:
        raise DataError(f"{files.path} has no {name}; got {files.names()!r}")
    index = TitleIndex(catalogue)
    for number, row in objects(file, rejections):
        fault = _fault(row)
        if fault:
            rejections.add(file.name, number, fault, str(row))
            continue
        yield _turn(row, index)


def _turn(row: dict[str, Any], index: TitleIndex) -> RecommendationTurn:
    def rows(titles: list[str]) -> tuple[int, ...]:
        found = [index.row(title) for title in titles]
        return tuple(dict.fromkeys(one for one in found if one is not None))

    return RecommendationTurn(
        dialogue=str(row["dialog_id"]),
        turn=int(row["turn_id"]),
        context=tuple(row["context"]),
        response=row["resp"],
        titles=tuple(row["rec"]),
        targets=rows(row["rec"]),
        mentioned=frozenset(rows(row.get("entity") or [])),
    )


def _fault(row: dict[str, Any]) -> str:
    absent = [name for name in _FIELDS if name not in row]
    if absent:
        return f"no field {absent[0]!r}"
    for name in ("context", "rec"):
        if not isinstance(row[name], list) or not all(isinstance(one, str) for one in row[name]):
            return f"{name} is not a list of texts"
    if not isinstance(row["resp"], str):
        return "resp is not a text"
    return "" if str(row["turn_id"]).lstrip("-").isdigit() else "turn_id is not a number"
