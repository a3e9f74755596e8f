"""Finds in a message what the catalogue knows: attribute values, ranges, titles, references to the last slate.

What is found are candidates only; whether the user wants, refuses or merely mentions them the language model decides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from llmrec.data.catalogue import Catalogue
from llmrec.retrieval.grounding import Grounder
from llmrec.roles.ranges import RangeReader
from llmrec.roles.synonyms import SYNONYMS
from llmrec.roles.words import COMMON, FILLER
from llmrec.tools.attributes import AttributeIndex
from llmrec.tools.wishes import Wish

MAX_FOUND = 8
"""Candidates shown to the model per message."""
_MAX_WORDS = 6  # of one attribute value in a message
_MAX_SPAN = 12  # words of a query
_MAX_SAME = 3  # values that share one way of being said
_PEOPLE = (
    "director",
    "directors",
    "actor",
    "actors",
    "cast",
    "author",
    "authors",
    "artist",
    "artists",
    "writer",
    "writers",
)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_QUERY_CUT = re.compile(r"[,.;:!?()\n]+|\b(?:but|except|without|and not|and no|nothing|not|no)\b", re.IGNORECASE)
_ORDINAL = re.compile(
    r"\b(?:the )?(?P<word>first|second|third|fourth|fifth|last)(?: one| film| movie| item| product)\b"
    r"|\b(?:number|no\.|#) ?(?P<digit>\d)\b",
    re.IGNORECASE,
)
_ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4, "last": -1}
_SHOWN = re.compile(
    r"\b(?:those|these|them|that again|that one|any of it|the same(?: ones?)?|that list|your suggestions)\b",
    re.IGNORECASE,
)
# One word in lower case is a title only after a word that judges or compares: "i loved alien", but not "the heat".
_ANY_MENTION, _SURE_MENTION = 0.3, 0.5
_JUDGED = re.compile(
    r"\b(?:loved?|likes?d?|similar to|hated?|seen|watched|enjoyed|finish(?:ed)?|know) (?:the |an? )?$", re.IGNORECASE
)


Kind = Literal["wish", "title", "shown"]


@dataclass(frozen=True)
class Found:
    """One candidate and the words that suggest it."""

    start: int
    end: int
    words: str
    label: str
    """What the model reads and writes: ``genres=Comedy``, ``title=Alien (1979)``, ``shown=last list``."""
    wish: Wish | None = None
    title: int | None = None
    """Catalogue row."""

    @property
    def kind(self) -> Kind:
        """What the decision is about."""
        if self.wish is not None:
            return "wish"
        return "title" if self.title is not None else "shown"


def fold(text: str) -> str:
    """Lower case, without accents, punctuation and plural s: "Slow-Burn" gives "slow burn", "Children's" "children"."""
    return " ".join(_fold_word(word.group()) for word in _WORD.finditer(text))


class Reader:
    """Reads messages against one catalogue. Build once and share; see `reader_for`."""

    def __init__(
        self, catalogue: Catalogue, *, grounder: Grounder | None = None, attributes: AttributeIndex | None = None
    ):
        self.catalogue = catalogue
        self.grounder = Grounder(catalogue) if grounder is None else grounder
        self.ranges = RangeReader(AttributeIndex(catalogue) if attributes is None else attributes)
        self._lexicon = _lexicon(catalogue)
        self._keys = sorted(key for key in self._lexicon if len(key) >= 5)
        self._spelled = frozenset(
            word for row in range(len(catalogue)) for word in fold(catalogue.document(row)).split()
        )

    def find(self, message: str, shown: Sequence[int] = ()) -> tuple[Found, ...]:
        """Candidates in order of appearance, at most `MAX_FOUND`.

        Args:
            shown: rows of the last slate, which "the first one" and "those" refer to.
        """
        named = [*_ordinals(message, self.catalogue, shown), *self._titles(message)]
        reference = tuple(found.title for found in named if found.title is not None) or tuple(shown)
        ranges = [
            Found(one.start, one.end, message[one.start : one.end], one.wish.text(), wish=one.wish)
            for one in self.ranges.find(message, reference)
        ]
        references = [
            Found(m.start(), m.end(), m.group(), "shown=last list") for m in _SHOWN.finditer(message) if shown
        ]
        return _settled([*named, *ranges, *self._values(message), *references])

    def _titles(self, message: str) -> list[Found]:
        found: list[Found] = []
        for mention in self.grounder.find_mentions(message, min_score=_ANY_MENTION):
            title, start = self.catalogue.title(mention.row), mention.start
            article = next((a for a in ("the ", "a ", "an ") if message[:start].lower().endswith(a)), "")
            if article and title.lower().startswith(article):
                start -= len(article)
            listed = bool(found) and message[found[-1].end : start].strip().lower() in ("and", ",", ", and", "or")
            if mention.score >= _SURE_MENTION or listed or _JUDGED.search(message[:start]):
                label = f"title={self.catalogue.display(mention.row)}"
                found.append(Found(start, mention.end, message[start : mention.end], label, title=mention.row))
        return found

    def _values(self, message: str) -> Iterator[Found]:
        words = list(_WORD.finditer(message))
        folded = [_fold_word(word.group()) for word in words]
        for n in range(_MAX_WORDS, 0, -1):
            for first in range(len(words) - n + 1):
                said = message[words[first].start() : words[first + n - 1].end()]
                for wish in self._named(" ".join(folded[first : first + n]), said, folded[first : first + n]):
                    yield Found(words[first].start(), words[first + n - 1].end(), said, wish.text(), wish=wish)

    def _named(self, key: str, said: str, words: list[str]) -> list[Wish]:
        if len(words) == 1 and words[0] in COMMON:
            return []
        if (exact := self._lexicon.get(key)) is not None:
            return [wish for wish in exact if len(key) > 2 or wish.value == said or key in SYNONYMS]
        if len(key) < 5 or len(words) > 3 or all(word in self._spelled or word in COMMON for word in words):
            return []
        return self._misspelled(key, words)

    def _misspelled(self, key: str, words: list[str]) -> list[Wish]:
        from rapidfuzz import process
        from rapidfuzz.distance import OSA

        bound = 1 if len(key) < 8 else 2
        hit = process.extractOne(key, self._keys, scorer=OSA.distance, score_cutoff=bound)
        if hit is None or hit[0][0] != key[0] or len(hit[0].split()) != len(words):
            return []
        return list(self._lexicon[hit[0]])


_READERS: dict[str, Reader] = {}


def reader_for(catalogue: Catalogue) -> Reader:
    """A reader of this catalogue, built once per content."""
    if catalogue.content_hash not in _READERS:
        _READERS.clear()  # one at a time: a reader of a large catalogue is large
        _READERS[catalogue.content_hash] = Reader(catalogue)
    return _READERS[catalogue.content_hash]


def spans(message: str, found: Sequence[Found] = (), limit: int = 3) -> tuple[str, ...]:
    """Pieces of the user's own words to search for: of each clause that says more than the candidates do, what remains
    when words that only ask ("I would like to watch a film about") are cut from its ends.

    Args:
        found: candidates; words inside them are explained already.
    """
    pieces: list[str] = []
    start = 0
    for cut in [*_QUERY_CUT.finditer(message), None]:
        end = len(message) if cut is None else cut.start()
        words = [word for word in _WORD.finditer(message, start, end) if _fold_word(word.group()) not in FILLER]
        if any(not any(one.start <= word.start() < one.end for one in found) for word in words):
            pieces.append(message[words[0].start() : words[-1].end()])
        start = end if cut is None else cut.end()
    longest = sorted(pieces, key=len, reverse=True)[:limit]
    return tuple(dict.fromkeys(" ".join(piece.split()[:_MAX_SPAN]) for piece in pieces if piece in longest))


def _lexicon(catalogue: Catalogue) -> dict[str, tuple[Wish, ...]]:
    """Every folded way of saying a value -> the values, most frequent first."""
    counts: dict[str, dict[Wish, int]] = {}
    by_value: dict[str, list[tuple[Wish, int]]] = {}
    for attribute in catalogue.attribute_names:
        if catalogue.kind(attribute) not in ("category", "categories"):
            continue
        for value, n in catalogue.vocabulary(attribute).items():
            wish = Wish(attribute=attribute, value=value)
            by_value.setdefault(value, []).append((wish, n))
            for key in _keys(attribute, value):
                counts.setdefault(key, {})[wish] = n
    for words, values in SYNONYMS.items():
        for wish, n in (pair for value in values for pair in by_value.get(value, ())):
            counts.setdefault(words, {}).setdefault(wish, n)
    return {key: _frequent(found) for key, found in counts.items() if key}


def _frequent(found: dict[Wish, int]) -> tuple[Wish, ...]:
    return tuple(sorted(found, key=lambda wish: (-found[wish], wish.text()))[:_MAX_SAME])


def _keys(attribute: str, value: str) -> Iterator[str]:
    whole = fold(value)
    yield whole
    if attribute in _PEOPLE and len(parts := whole.split()) > 1 and len(parts[-1]) >= 5:
        yield parts[-1]  # "more Tarkovsky"


def _ordinals(message: str, catalogue: Catalogue, shown: Sequence[int]) -> Iterator[Found]:
    for match in _ORDINAL.finditer(message):
        place = int(match["digit"]) - 1 if match["digit"] else _ORDINALS[match["word"].lower()]
        if -len(shown) <= place < len(shown):
            row = shown[place]
            yield Found(match.start(), match.end(), match.group(), f"title={catalogue.display(row)}", title=row)


def _settled(found: list[Found]) -> tuple[Found, ...]:
    """Of overlapping candidates the longest stay; of one span all stay, each label once."""
    kept: list[Found] = []
    labels: set[str] = set()
    for one in sorted(found, key=lambda one: one.start - one.end):
        inside = any(one.start < other.end and other.start < one.end and _span(one) != _span(other) for other in kept)
        if not inside and one.label not in labels:
            kept.append(one)
            labels.add(one.label)
    return tuple(sorted(kept[:MAX_FOUND], key=lambda one: (one.start, kept.index(one))))


def _span(found: Found) -> tuple[int, int]:
    return found.start, found.end


def _fold_word(word: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", word.casefold()) if c.isalnum())
    if plain.endswith("ies") and len(plain) > 4:
        return f"{plain[:-3]}y"
    return plain[:-1] if plain.endswith("s") and not plain.endswith("ss") and len(plain) > 3 else plain
