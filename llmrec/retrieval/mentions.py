"""Titles inside prose: those of the catalogue, and title-like spans that are not.

Matching is by whole normalised words, longest title first, so it takes one pass over the text whatever the size of the
catalogue.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from llmrec.retrieval import titles
from llmrec.retrieval.titles import Word

if TYPE_CHECKING:
    from llmrec.retrieval.grounding import Grounder, Mention

_QUOTED = re.compile(
    r"\"([^\"\n]{1,120})\"|“([^”\n]{1,120})”|«\s?([^»\n]{1,120}?)\s?»|„([^“”\n]{1,120})[“”]"
    r"|(?<!\w)‘([^’\n]{1,120}(?:’\w[^’\n]{0,60})*)’(?!\w)|(?<!\w)'([^'\n]{1,120}(?:'\w[^'\n]{0,60})*)'(?!\w)"
    r"|(?<![\w*])\*{1,3}([^*\n]{1,120})\*{1,3}(?![\w*])|(?<!\w)_([^_\n]{1,120})_(?!\w)"
)
_YEAR_AFTER = re.compile(r"[\"”»“’'*_]{0,3}\s*\(\s*((?:18|19|20)\d\d)\s*\)")
_BREAK = re.compile(r"[.!?;\n)(\]\[\"“”«»*'‘’]|,\s|:\s|\s[-–—]\s")
_SENTENCE_END = re.compile(r"(?:^|[.!?:\n\"“”«»(*•-])\s*$")
_CONNECTORS = frozenset(
    # one string reads better than a hundred quoted words
    """
    a an the of and in on to for with from at by or as is no not de la le les du des el der die das und et y
    """.split()  # noqa: SIM905
)
_LEAD_INS = frozenset(
    # one string reads better than a hundred quoted words
    """
    a also and another as both but check consider enjoy enjoyed finally first for from how i if instead it like
    liked love loved maybe my next of or out perhaps please recommend recommended recommending second see seen start
    begin so suggest suggested than the then third this to try watch watched we what when why with would you your film
    films movie movies title titles titled called classic favourite favorite about after before because that
    have had here are is was were think too at by in on
    """.split()  # noqa: SIM905
)
_ABBREVIATIONS = frozenset(
    # one string reads better than a hundred quoted words
    """mr mrs ms dr st jr sr vs inc no vol pt u s l a e t""".split()  # noqa: SIM905
)
_LONGEST_TITLE = 14  # words of an unknown title that are looked at before a year


class _Index(NamedTuple):
    by_first: dict[str, list[tuple[str, ...]]]


_indices: WeakKeyDictionary[Grounder, _Index] = WeakKeyDictionary()


def find_mentions(grounder: Grounder, text: str, min_score: float) -> list[Mention]:
    """See `Grounder.find_mentions`."""
    from llmrec.retrieval.grounding import CONFIDENT, Mention

    known = _scan(grounder, text)
    strange = [(start, end) for start, end, _ in _unknown_spans(grounder, text, known)]
    # "Seven" inside the unknown title "Seven Doors (1998)" is no mention of the film Seven.
    found = [m for m in known if m.score == 1.0 or not _overlaps(strange, m.start, m.end)]
    taken = [(m.start, m.end) for m in found]
    for start, end in _quoted(text):
        if _overlaps(taken, start, end) or _overlaps(strange, start, end) or not _looks_like_title(text[start:end]):
            continue
        near = grounder.ground(text[start:end])
        if near and near[0].score >= CONFIDENT:
            found.append(Mention(near[0].row, start, end, near[0].score))
    return sorted((m for m in found if m.score >= min_score), key=lambda mention: mention.start)


def unknown_titles(grounder: Grounder, prose: str) -> list[str]:
    """See `Grounder.unknown_titles`."""
    spans = sorted(_unknown_spans(grounder, prose, _scan(grounder, prose)))
    return list(dict.fromkeys(title for _, _, title in spans))


def _unknown_spans(grounder: Grounder, prose: str, known: Sequence[Mention]) -> list[tuple[int, int, str]]:
    """Start, end and text of every title-like span that names no item."""
    unknown: list[tuple[int, int, str]] = []
    quoted = list(_quoted(prose))
    for start, end in quoted:
        span, after = prose[start:end].strip().rstrip(",.;!"), _YEAR_AFTER.match(prose, end)
        title = f"{span} ({after.group(1)})" if after and titles.split_year(span)[1] is None else span
        if _looks_like_title(span) and not grounder.names_item(title):
            unknown.append((start, end, title))
    for year in re.finditer(r"\(\s*((?:18|19|20)\d\d)\s*\)", prose):
        if any(start < year.end() and year.start() <= end + 3 for start, end in quoted):
            continue  # judged with its quotes
        opening = _unknown_before(prose, year.start(), known)
        if opening is not None and not grounder.names_item(prose[opening : year.end()]):
            unknown.append((opening, year.end(), prose[opening : year.end()].strip()))
    return unknown


def _overlaps(spans: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    return any(a < end and start < b for a, b in spans)


def _scan(grounder: Grounder, text: str) -> list[Mention]:
    """All mentions by exact words, longest first from the left, whatever their score."""
    index, parts = _index_of(grounder), titles.words(text)
    quoted = list(_quoted(text))
    found: list[Mention] = []
    position = 0
    while position < len(parts):
        mention, used = _longest(grounder, index, text, parts, position, quoted)
        if mention is not None:
            found.append(mention)
        position += used
    return found


def _longest(
    grounder: Grounder,
    index: _Index,
    text: str,
    parts: Sequence[Word],
    position: int,
    quoted: Sequence[tuple[int, int]],
) -> tuple[Mention | None, int]:
    """The longest title that starts at this word, and how many words to move on."""
    for name in index.by_first.get(parts[position].text, ()):
        span = parts[position : position + len(name)]
        if tuple(word.text for word in span) != name or _broken(text, span):
            continue
        mention = _judge(grounder, text, parts, position, name, quoted)
        if mention is not None:
            return mention, len(name)
    return None, 1


def _judge(
    grounder: Grounder,
    text: str,
    parts: Sequence[Word],
    position: int,
    name: tuple[str, ...],
    quoted: Sequence[tuple[int, int]],
) -> Mention | None:
    from llmrec.retrieval.grounding import Mention

    span = parts[position : position + len(name)]
    start, end = span[0].start, span[-1].end
    if position and parts[position - 1].text in ("the", "a", "an") and text[parts[position - 1].end : start].isspace():
        start = parts[position - 1].start if _is_capital(text, parts[position - 1]) else start
    in_quotes = any(a <= start and end <= b and _only_this(text, (a, b), start, end) for a, b in quoted)
    rows = grounder.rows[name]
    year = _YEAR_AFTER.match(text, end)
    if year:
        fitting = [row for row in rows if grounder.years[row] in (None, int(year.group(1)))]
        if not fitting:
            return None  # a remake that the catalogue does not have
        return Mention(fitting[0], start, year.end(), 1.0)
    if in_quotes:
        return Mention(rows[0], start, end, 1.0)
    score = _plain_score(text, span)
    if score == 0.3 and position and parts[position - 1].text == "the" and _has_article(grounder, rows):
        score = 0.45
    return Mention(rows[0], start, end, score)


def _has_article(grounder: Grounder, rows: Sequence[int]) -> bool:
    return any(re.search(r"^the |, the\b", grounder.catalogue.title(row), re.IGNORECASE) for row in rows)


def _plain_score(text: str, span: Sequence[Word]) -> float:
    """How surely words without quotes or a year are meant as a title."""
    content = [word for word in span if word.text not in _CONNECTORS]
    if len(span) > 1 and content:
        capital = all(_is_capital(text, word) for word in content)
        return 0.9 if capital else 0.8 if len(content) > 1 else 0.3
    if not _is_capital(text, span[0]) or span[0].text in _CONNECTORS or not span[0].text.isalpha():
        return 0.3 if len(content) == 1 and len(span[0].text) > 1 else 0.1
    return 0.55 if _SENTENCE_END.search(text[: span[0].start]) else 0.7


def _unknown_before(prose: str, year_start: int, known: Sequence[Mention]) -> int | None:
    """Where the unknown title that ends before a year starts; None when what stands there is known or no title."""
    covering = next((m for m in known if m.start < year_start < m.end), None)
    limit = covering.start if covering else year_start
    run: list[Word] = []
    for word in reversed(titles.words(prose[:limit])):
        following = run[-1].start if run else limit
        if _BREAK.search(prose[word.end : following]) or len(run) == _LONGEST_TITLE:
            break
        if not (_is_capital(prose, word) or word.text in _CONNECTORS or word.text.isdigit()):
            break
        run.append(word)
    whole = run[::-1]
    run = _without_opening(whole, known)
    article = whole[len(whole) - len(run) - 1] if 0 < len(run) < len(whole) else None
    if article and article.text in ("the", "a", "an") and _is_capital(prose, article):
        run = [article, *run]  # "The Glass Harbour (1998)"
    if covering:
        # "Fake Alien (1979)" is unknown although "Alien (1979)" is not; "Fans of Alien (1979)" is no title.
        return run[0].start if run and run[-1].text not in _LEAD_INS else None
    return run[0].start if run else None


def _without_opening(run: list[Word], known: Sequence[Mention]) -> list[Word]:
    """Drop words that open a sentence, and known titles with the "and" after them, from the front of a run."""
    position = 0
    while position < len(run):
        inside = next((m for m in known if m.score >= 0.7 and m.start <= run[position].start < m.end), None)
        if run[position].text in _LEAD_INS:
            position += 1
        elif inside is not None:
            after = next((i for i in range(position, len(run)) if run[i].start >= inside.end), len(run))
            if after == len(run) or run[after].text not in ("and", "or"):
                break
            position = after
        else:
            break
    return run[position:]


def _index_of(grounder: Grounder) -> _Index:
    if grounder not in _indices:
        by_first: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for name in grounder.rows:
            by_first[name[0]].append(name)
        for same_start in by_first.values():
            same_start.sort(key=lambda name: (-len(name), name))
        _indices[grounder] = _Index(dict(by_first))
    return _indices[grounder]


def _quoted(text: str) -> Iterator[tuple[int, int]]:
    """Spans inside quotation marks or Markdown emphasis, without the marks."""
    for match in _QUOTED.finditer(text):
        group = next(i for i in range(1, _QUOTED.groups + 1) if match.group(i) is not None)
        start, end = match.span(group)
        inner = text[start:end]
        while inner[:1] in "\"“‘'*_ " and inner:
            start, inner = start + 1, inner[1:]
        while inner[-1:] in "\"”’'*_ " and inner:
            end, inner = end - 1, inner[:-1]
        if inner:
            yield start, end


def _only_this(text: str, quoted: tuple[int, int], start: int, end: int) -> bool:
    """Whether a quoted span holds nothing but this title (an article or a year may stand around it)."""
    before = [word.text for word in titles.words(text[quoted[0] : start])]
    after = [word.text for word in titles.words(titles.split_year(text[quoted[0] : quoted[1]])[0])]
    return all(word in ("the", "a", "an") for word in before) and len(after) <= len(before) + len(
        titles.words(text[start:end])
    )


def _looks_like_title(span: str) -> bool:
    parts = titles.words(span)
    if not parts or len(parts) > _LONGEST_TITLE or not any(c.isalpha() or c.isdigit() for c in span):
        return False
    content = [word for word in parts if word.text not in _CONNECTORS] or parts
    capital = sum(_is_capital(span, word) or word.text.isdigit() for word in content)
    return (_is_capital(span, parts[0]) or parts[0].text.isdigit()) and 2 * capital >= len(content)


def _is_capital(text: str, word: Word) -> bool:
    first = text[word.start]
    return first.isupper() or first.istitle() or first.isdigit() or (first.isalpha() and first.lower() == first.upper())


def _broken(text: str, span: Sequence[Word]) -> bool:
    """Whether a sentence ends inside the words ("I like big. Fish is fine." does not name "Big Fish")."""
    for word, following in itertools.pairwise(span):
        gap = text[word.end : following.start]
        if re.search(r"[!?;\n\"“”()]", gap) or (re.search(r"\.\s", gap) and word.text not in _ABBREVIATIONS):
            return True
    return False
