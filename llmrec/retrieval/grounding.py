"""From text to catalogue items, with a score: everything that turns model text into items goes through here.

`ground` tries, in this order, the exact normalised title (score 1; 0.95 when several items share it and no year
decides; 0.7 when the title fits and the stated year does not), the nearest title by edit distance (up to 0.9,
at most 0.6 when the numbers differ, as in sequels), and BM25 over all item text (up to 0.5). A score of at least
`CONFIDENT` means the item itself was named.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from rapidfuzz import fuzz, process

from llmrec.retrieval import titles
from llmrec.retrieval.bm25 import Bm25Index

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue

EXACT, AMBIGUOUS, OTHER_YEAR = 1.0, 0.95, 0.7
CONFIDENT = 0.8
"""From this score on a text names the item; below, the item is merely the best guess."""
_FUZZY_WEIGHT, _FUZZY_CUTOFF, _OTHER_NUMBER = 0.9, 80.0, 0.6
_BM25_WEIGHT = 0.5
_SUBTITLE = re.compile(r":\s+|\s[-–—]\s")


class Grounded(NamedTuple):
    """An item that a text may mean."""

    row: int
    score: float
    """In [0, 1]; see the module's text."""


class Mention(NamedTuple):
    """An item named in prose."""

    row: int
    start: int
    end: int
    """The item's name is ``text[start:end]``, a year in parentheses included."""
    score: float


class Grounder:
    """Finds the items of one catalogue in text.

    Args:
        catalogue: titles without text ("Unknown") are never matched by title.
        bm25: an index over `Catalogue.document` in row order, to share one that exists; default builds its own on need.
    """

    def __init__(self, catalogue: Catalogue, *, bm25: Bm25Index | None = None) -> None:
        self.catalogue = catalogue
        self._given_bm25 = bm25
        self.rows: dict[tuple[str, ...], list[int]] = defaultdict(list)
        """Normalised title (`titles.key`) to item rows."""
        self.years: list[int | None] = []
        has_year = "year" in catalogue.attribute_names
        for row, title in enumerate(catalogue.titles()):
            year = titles.split_year(title)[1]
            if year is None and has_year:
                year = next((int(v) for v in catalogue.values(row, "year") if str(v).isdigit()), None)
            self.years.append(year)
            if title == "Unknown" and year is None:
                continue  # the catalogue's word for a missing title
            for variant in titles.variants(title):
                parts = titles.key(variant)
                if parts and row not in self.rows[parts]:
                    self.rows[parts].append(row)
        self._add_main_titles()
        self._keys = list(self.rows)
        self._texts = [" ".join(parts) for parts in self._keys]

    def _add_main_titles(self) -> None:
        """Let "Star Wars" find "Star Wars: Episode IV", unless an item has exactly that title."""
        added: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for row, title in enumerate(self.catalogue.titles()):
            main = _SUBTITLE.split(titles.split_year(title)[0], maxsplit=1)[0]
            parts = titles.key(main)
            if main != title and len(parts) > 1 and parts not in self.rows:
                added[parts].append(row)
        self.rows.update(added)

    @cached_property
    def bm25(self) -> Bm25Index:
        """The index over all item text."""
        if self._given_bm25 is not None:
            return self._given_bm25
        return Bm25Index([self.catalogue.document(row) for row in range(len(self.catalogue))])

    def ground(self, text: str, n: int = 1) -> list[Grounded]:
        """The items a text most likely means, best first, ties by row; at most `n`, none for a text without a match.

        Args:
            text: a title in any form, flattened item text, or a description.
            n: number of items.
        """
        named = titles.title_part(text)
        best: dict[int, float] = {}
        for row, score in (*self.exact(named), *self._fuzzy(named, n), *self._lexical(text, n)):
            best[row] = max(score, best.get(row, 0.0))
        ranked = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))
        return [Grounded(row, score) for row, score in ranked[:n]]

    def exact(self, title: str) -> list[Grounded]:
        """Items whose normalised title is exactly this one, those of the stated year alone if there are any."""
        year = titles.split_year(title.strip())[1]
        rows = list(self.rows.get(titles.key(title), ()))
        same = [row for row in rows if year is not None and self.years[row] == year]
        if same:
            return [Grounded(row, EXACT if len(same) == 1 else AMBIGUOUS) for row in same]
        if year is not None:
            # A year that the catalogue does not know for the item cannot contradict it.
            return [Grounded(row, OTHER_YEAR if self.years[row] is not None else AMBIGUOUS) for row in rows]
        return [Grounded(row, EXACT if len(rows) == 1 else AMBIGUOUS) for row in rows]

    def names_item(self, title: str) -> bool:
        """Whether a title, perhaps misspelt, is the catalogue's; another year or number makes it another title."""
        if any(found.score >= AMBIGUOUS for found in self.exact(title)):
            return True
        year = titles.split_year(title.strip())[1]
        close = [f for f in self._fuzzy(title, 3) if f.score >= 0.92 * _FUZZY_WEIGHT]
        exact_of_other_year = bool(self.exact(title))
        return not exact_of_other_year and any(year is None or self.years[f.row] in (None, year) for f in close)

    def find_mentions(self, text: str, *, min_score: float = 0.5) -> list[Mention]:
        """Items named in prose, in order of appearance, without overlaps.

        Args:
            text: prose, capitalised or not.
            min_score: 1.0 stands in quotes or with its year; 0.9 several capitalised words; 0.8 several words in lower
                case; 0.7 one capitalised word inside a sentence; 0.55 one that opens a sentence; 0.45 "the godfather"
                in lower case; 0.3 one word in lower case, most of which are no titles ("heat", "big").
        """
        from llmrec.retrieval.mentions import find_mentions

        return find_mentions(self, text, min_score)

    def unknown_titles(self, prose: str) -> list[str]:
        """Title-like spans that are no item of the catalogue: quoted or emphasised text, and text before a year."""
        from llmrec.retrieval.mentions import unknown_titles

        return unknown_titles(self, prose)

    def _fuzzy(self, title: str, n: int) -> list[Grounded]:
        parts, year = titles.key(title), titles.split_year(title.strip())[1]
        if not parts:
            return []
        close = process.extract(
            " ".join(parts), self._texts, scorer=fuzz.ratio, score_cutoff=_FUZZY_CUTOFF, limit=max(n, 3)
        )
        found: list[Grounded] = []
        for _, ratio, index in close:
            score = _FUZZY_WEIGHT * ratio / 100
            if titles.numerals(parts) != titles.numerals(self._keys[index]):
                score = min(score, _OTHER_NUMBER)
            for row in self.rows[self._keys[index]]:
                other_year = year is not None and self.years[row] not in (None, year)
                found.append(Grounded(row, score * OTHER_YEAR if other_year else score))
        return found

    def _lexical(self, text: str, n: int) -> list[Grounded]:
        shares = self.bm25.share_of_ideal(text)
        return [
            Grounded(row, _BM25_WEIGHT * float(shares[row])) for row, _ in self.bm25.top(text, n) if shares[row] > 0
        ]
