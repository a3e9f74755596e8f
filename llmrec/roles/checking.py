"""Checks that an answer names nothing but items: the slate, and what was part of the dialogue.

The same check guards every answer before it is shown and counts faults for the reports.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmrec.data.catalogue import Catalogue
from llmrec.retrieval.grounding import Grounder
from llmrec.roles.matching import fold
from llmrec.roles.observation import Reply


@dataclass(frozen=True)
class Faults:
    """What an answer names and must not."""

    invalid_items: tuple[int, ...] = ()
    """Slate entries that are no catalogue row, or repeated."""
    unknown_titles: tuple[str, ...] = ()
    """Titles in the prose that are no item of the catalogue."""
    off_slate: tuple[int, ...] = ()
    """Catalogue rows named in the prose that are neither in the slate nor part of the dialogue."""

    @property
    def out_of_catalogue(self) -> int:
        """Items and titles that do not exist."""
        return len(self.invalid_items) + len(self.unknown_titles)

    def __bool__(self) -> bool:
        return bool(self.invalid_items or self.unknown_titles or self.off_slate)


def faults(
    slate: Iterable[int],
    prose: str,
    grounder: Grounder,
    *,
    dialogue: Iterable[int] = (),
    said: Iterable[str] = (),
) -> Faults:
    """Check one answer.

    Args:
        dialogue: rows that were named, shown or taken before; prose may name them too.
        said: words that may stand in the prose although they look like a title: attribute values (the country Brazil is
            also a film) and the user's own words.
    """
    rows = tuple(slate)
    n_items = len(grounder.catalogue)
    invalid = [row for place, row in enumerate(rows) if not 0 <= row < n_items or row in rows[:place]]
    words = [fold(text) for text in said]
    known = {*rows, *dialogue}
    off_slate = [
        mention.row
        for mention in grounder.find_mentions(prose)
        if mention.row not in known and not _inside(prose[mention.start : mention.end], words)
    ]
    unknown = [title for title in grounder.unknown_titles(prose) if not _inside(title, words)]
    # Items that share a title cannot be told apart in prose: naming one of them is naming the other.
    titles = {grounder.catalogue.display(row) for row in known if 0 <= row < n_items}
    off_slate = [row for row in off_slate if grounder.catalogue.display(row) not in titles]
    return Faults(tuple(invalid), tuple(unknown), tuple(dict.fromkeys(off_slate)))


def count_out_of_catalogue(reply: Reply, catalogue: Catalogue, dialogue: Iterable[int] = ()) -> int:
    """Items in the slate and titles in prose and reasons that are not in the catalogue.

    Args:
        reply: the answer as the user got it.
        dialogue: rows that were part of the dialogue before it.
    """
    from llmrec.roles.matching import reader_for

    text = " ".join([reply.prose, *reply.reasons])
    query = [reply.request.query] if reply.request is not None and reply.request.query else []
    return faults(reply.slate, text, reader_for(catalogue).grounder, dialogue=dialogue, said=query).out_of_catalogue


def _inside(text: str, words: list[str]) -> bool:
    folded = fold(text)
    return any(f" {folded} " in f" {word} " for word in words)
