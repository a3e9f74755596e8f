"""Titles as people write them, brought to one form: case, accents, punctuation, articles, years, second titles."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

ARTICLES = frozenset("the a an le la les l el los las un une il lo gli i der die das det den".split())  # noqa: SIM905
_ENGLISH_ARTICLES = frozenset(("the", "a", "an"))
_YEAR = re.compile(r"\s*[(\[]\s*((?:18|19|20)\d\d)\s*[)\]]\s*$")
_TRAILING_ARTICLE = re.compile(r"^(.*),\s*(l'|[^\W\d_]{1,3})$", re.IGNORECASE)
_PARENTHESES = re.compile(r"\(([^()]*)\)")
_ALIAS = re.compile(r"^\s*(?:a\.?k\.?a\.?)\s+", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
_FLAT = re.compile(r"^\s*title:\s*(.*?)(?:[.,;]\s+[A-Z][\w ]{0,30}:\s.*|\.?\s*)$", re.IGNORECASE | re.DOTALL)
_ROMAN = {"ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8", "ix": "9"}
_NUMBERS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}


class Word(NamedTuple):
    """A normalised word and where it stands in the original text."""

    text: str
    start: int
    end: int


def fold(text: str) -> str:
    """Lower case without accents; "ß" becomes "ss"."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def words(text: str) -> list[Word]:
    """Normalised words with their place in the text; apostrophes inside words vanish, "&" reads "and"."""
    found: list[Word] = []
    for match in re.finditer(r"&|[^\W_]+(?:['’ʼ][^\W_]+)*", text):
        piece = match.group()
        normal = "and" if piece == "&" else "".join(_WORD.findall(fold(piece)))
        if normal:
            found.append(Word(normal, match.start(), match.end()))
    return found


def split_year(text: str) -> tuple[str, int | None]:
    """A title and the year in parentheses at its end: ``("Alien", 1979)``."""
    match = _YEAR.search(text)
    return (text[: match.start()], int(match.group(1))) if match else (text, None)


def key(title: str) -> tuple[str, ...]:
    """The words that identify a title, without year and without a leading English article.

    "Princess Bride, The (1987)" and "the princess bride" both give ``("princess", "bride")``.
    """
    base = _move_article(split_year(title)[0].strip())
    parts = tuple(word.text for word in words(base))
    return parts[1:] if len(parts) > 1 and parts[0] in _ENGLISH_ARTICLES else parts


def variants(title: str) -> list[str]:
    """The title and its other names, as in "City of Lost Children, The (Cité des enfants perdus, La)"."""
    base, _ = split_year(title.strip())
    aliases = [_ALIAS.sub("", alias).strip() for alias in _PARENTHESES.findall(base)]
    main = re.sub(r"\s+", " ", _PARENTHESES.sub(" ", base)).strip()
    return list(dict.fromkeys(text for text in (base, main, *aliases) if _WORD.search(text)))


def title_part(text: str) -> str:
    """The title inside flattened item text ("Title: Alien (1979). Category: Horror"), else the text itself."""
    match = _FLAT.match(text)
    return match.group(1).strip() if match else text.strip()


def numerals(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Numbers in a key, Roman ones and number words included; sequels differ in nothing else."""
    numbers = [_ROMAN.get(part, _NUMBERS.get(part, part)) for part in parts]
    return tuple(sorted(number for number in numbers if number.isdigit()))


def _move_article(title: str) -> str:
    match = _TRAILING_ARTICLE.match(title)
    if match and fold(match.group(2)).strip("'") in ARTICLES:
        return f"{match.group(2)} {match.group(1)}"
    return title
