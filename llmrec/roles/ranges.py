"""Number ranges in a message: "the 80s", "before 1990", "newer than 2000", "under two hours", "less than $20".

A small table says which attribute a way of speaking is about; it counts only where the catalogue has such a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from llmrec.tools.attributes import AttributeIndex
from llmrec.tools.wishes import Wish

_YEAR_NAMES = ("year", "release_year")
_MINUTE_NAMES = ("runtime_min", "runtime", "duration_min", "duration")
_PRICE_NAMES = ("price", "price_usd")
_NUMBERS = {"an": 1, "a": 1, "one": 1, "two": 2, "three": 3, "four": 4}
_DECADES = ("twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties", "nineties")
_VERBOSE = re.IGNORECASE | re.VERBOSE

_BELOW = (
    r"(?P<below>under|below|less\ than|shorter\ than|at\ most|no\ longer\ than|not\ longer\ than|no\ more\ than"
    r"|not\ more\ than|max(?:imum)?|within|up\ to|cheaper\ than)"
)
_ABOVE = r"(?P<above>over|above|more\ than|longer\ than|at\ least|no\ shorter\ than|minimum)"
_LENGTH = re.compile(
    rf"""\b(?:{_BELOW}|{_ABOVE}|(?P<about>around|about|roughly))\ (?:
        (?P<hours>\d(?:\.5)?|an?|one|two|three|four)(?P<half1>\ and\ a\ half)?\ ?(?:hours?|hrs?|h)\b
        (?P<half2>\ and\ a\ half)?(?:\ (?:and\ )?(?P<rest>\d{{1,2}})\ ?(?:minutes?|mins?|m)\b)?
        |(?P<minutes>\d{{2,3}})\ ?(?:minutes?|mins?)\b)""",
    _VERBOSE,
)
_PRICE = re.compile(
    rf"""\b(?:{_BELOW}|{_ABOVE})\ (?:[$€£]\ ?(?P<first>\d+(?:\.\d+)?)
        |(?P<second>\d+(?:\.\d+)?)\ ?(?:dollars?|bucks|usd|euros?))""",
    _VERBOSE,
)
# A year, "the 80s", "early 1990s" or "the seventies"; the braces take a prefix, since a range has two of them.
_PERIOD = (
    r"(?:the\ )?(?:(?P<{0}part>early|late|mid)[ -])?(?:(?P<{0}decade>(?:1[89]|20)?\d0)['’]?s"
    rf"|(?P<{{0}}spelled>{'|'.join(_DECADES)})"
    r"|(?P<{0}year>(?:18[89]|19\d|20[0-4])\d))\b"
)
_ONE, _TWO = (re.sub(r"\{0\}", prefix, _PERIOD) for prefix in "ab")
_INCLUSIVE = ("until", "up to", "no newer than", "not newer than", "nothing after", "nothing newer than")
_SINCE = ("since", "from", "no older than", "not older than", "nothing before", "nothing older than")
_BEFORE_WORDS = ("before", "older than", "earlier than", "prior to", "pre", *_INCLUSIVE)
_AFTER_WORDS = ("after", "newer than", "later than", "more recent than", "post", *(w for w in _SINCE if w != "from"))


def _any(words: tuple[str, ...]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_NOT_NEGATED = r"(?<!nothing\ )(?<!no\ )(?<!not\ )"  # "no older than" is a way of its own
_BETWEEN = re.compile(
    rf"""\b(?:between|from)\ {_ONE}\ (?:and|to|until|till)\ {_TWO}
        |(?<!\d)(?P<low>(?:19|20)\d\d)\ ?[-–]\ ?(?P<high>(?:19|20)\d\d)\b""",
    _VERBOSE,
)
_BEFORE = re.compile(rf"{_NOT_NEGATED}\b(?P<word>{_any(_BEFORE_WORDS)})[ -]{_ONE}", _VERBOSE)
_AFTER = re.compile(rf"{_NOT_NEGATED}\b(?P<word>{_any(_AFTER_WORDS)})[ -]{_ONE}", _VERBOSE)
_ONWARDS = re.compile(
    rf"\b(?P<word>from)\ {_ONE}(?:\ onwards?|\ or\ later|\ on(?=\s*(?:[,.!?]|$)))",
    _VERBOSE,
)
_ALONE = re.compile(rf"(?<![\w'’]){_ONE}", _VERBOSE)
_RELATIVE = re.compile(r"\b(?P<word>newer|more recent|older|shorter|longer|cheaper)\b(?! than (?:the )?[\d'])", re.I)
_VAGUE = re.compile(r"\b(?P<word>recent|modern|old|classics?|short|long|cheap)\b", re.I)


@dataclass(frozen=True)
class RangeFound:
    """A range and the words that say it."""

    start: int
    end: int
    wish: Wish


class RangeReader:
    """Finds ranges over the numeric attributes of one catalogue."""

    def __init__(self, attributes: AttributeIndex) -> None:
        self._attributes = attributes
        catalogue = attributes.catalogue
        numeric = [name for name in catalogue.attribute_names if catalogue.kind(name) == "number"]
        self.year = _first(_YEAR_NAMES, numeric)
        self.minutes = _first(_MINUTE_NAMES, numeric)
        self.price = _first(_PRICE_NAMES, numeric)

    def find(self, message: str, reference: tuple[int, ...] = ()) -> list[RangeFound]:
        """Ranges in the message, in order, none overlapping another.

        Args:
            reference: catalogue rows that "shorter" or "newer" compares with; without any, such words mean the upper or
                lower quarter of the catalogue.
        """
        found: list[RangeFound] = []
        for candidate in self._all(message, reference):
            if all(candidate.end <= other.start or candidate.start >= other.end for other in found):
                found.append(candidate)
        return sorted(found, key=lambda candidate: candidate.start)

    def _all(self, message: str, reference: tuple[int, ...]) -> Iterator[RangeFound]:
        if self.minutes:
            yield from _each(_LENGTH, message, lambda match: _length(match, self.minutes))
        if self.price:
            yield from _each(_PRICE, message, lambda match: _price(match, self.price))
        if self.year:
            for pattern, read in ((_BETWEEN, _between), (_BEFORE, _before), (_AFTER, _after), (_ONWARDS, _after)):
                yield from _each(pattern, message, lambda match, read=read: read(match, self.year))  # type: ignore[misc]
            yield from _each(_ALONE, message, lambda match: _wish(self.year, *_period(match, "a")))
        yield from _each(_RELATIVE, message, lambda match: self._relative(match["word"].lower(), reference))
        yield from _each(_VAGUE, message, lambda match: self._vague(match["word"].lower()))

    def _relative(self, word: str, reference: tuple[int, ...]) -> Wish | None:
        attribute, upwards = self._direction(word)
        if attribute is None:
            return None
        numbers = self._attributes.numbers(attribute)
        known = numbers[list(reference)] if reference else np.array([])
        known = known[~np.isnan(known)]
        if len(known) == 0:
            return self._quarter(attribute, upwards)
        middle = float(np.median(known))
        return _wish(attribute, np.floor(middle) + 1, None) if upwards else _wish(attribute, None, np.ceil(middle) - 1)

    def _vague(self, word: str) -> Wish | None:
        attribute, upwards = self._direction(word)
        return None if attribute is None else self._quarter(attribute, upwards)

    def _direction(self, word: str) -> tuple[str | None, bool]:
        match word:
            case "newer" | "more recent" | "recent" | "modern":
                return self.year, True
            case "older" | "old" | "classic" | "classics":
                return self.year, False
            case "longer" | "long":
                return self.minutes, True
            case "shorter" | "short":
                return self.minutes, False
            case _:
                return self.price, False

    def _quarter(self, attribute: str, upwards: bool) -> Wish | None:
        numbers = self._attributes.numbers(attribute)
        if np.isnan(numbers).all():
            return None
        edge = float(np.nanquantile(numbers, 0.75 if upwards else 0.25))
        return _wish(attribute, np.floor(edge), None) if upwards else _wish(attribute, None, np.ceil(edge))


def _each(pattern: re.Pattern[str], message: str, read: Callable[[re.Match[str]], Wish | None]) -> Iterator[RangeFound]:
    for match in pattern.finditer(message):
        wish = read(match)
        if wish is not None:
            yield RangeFound(match.start(), match.end(), wish)


def _wish(attribute: str | None, low: float | None, high: float | None) -> Wish | None:
    if attribute is None or (low is not None and high is not None and low > high):
        return None
    return Wish(
        attribute=attribute, low=None if low is None else float(low), high=None if high is None else float(high)
    )


def _length(match: re.Match[str], attribute: str | None) -> Wish | None:
    if match["minutes"]:
        minutes = float(match["minutes"])
    else:
        hours = float(_NUMBERS.get(match["hours"].lower(), 0) or match["hours"])
        minutes = 60 * hours + (30 if match["half1"] or match["half2"] else 0) + float(match["rest"] or 0)
    if match["about"]:
        return _wish(attribute, minutes - 10, minutes + 10)
    return _wish(attribute, None, minutes) if match["below"] else _wish(attribute, minutes, None)


def _price(match: re.Match[str], attribute: str | None) -> Wish | None:
    amount = float(match["first"] or match["second"])
    return _wish(attribute, None, amount) if match["below"] else _wish(attribute, amount, None)


def _period(match: re.Match[str], prefix: str) -> tuple[int, int]:
    """First and last year of a year or decade, "early 90s" included."""
    groups = match.groupdict()
    if groups[f"{prefix}year"]:
        return int(groups[f"{prefix}year"]), int(groups[f"{prefix}year"])
    spelled = groups[f"{prefix}spelled"]
    decade = 20 + 10 * _DECADES.index(spelled.lower()) if spelled else int(groups[f"{prefix}decade"])
    if decade < 100:
        decade += 1900 if decade >= 20 else 2000
    match (groups[f"{prefix}part"] or "").lower():
        case "early":
            return decade, decade + 4
        case "mid":
            return decade + 3, decade + 7
        case "late":
            return decade + 5, decade + 9
        case _:
            return decade, decade + 9


def _between(match: re.Match[str], attribute: str | None) -> Wish | None:
    if match["low"]:
        return _wish(attribute, int(match["low"]), int(match["high"]))
    return _wish(attribute, _period(match, "a")[0], _period(match, "b")[1])


def _before(match: re.Match[str], attribute: str | None) -> Wish | None:
    first, last = _period(match, "a")
    return _wish(attribute, None, last if match["word"].lower() in _INCLUSIVE else first - 1)


def _after(match: re.Match[str], attribute: str | None) -> Wish | None:
    first, last = _period(match, "a")
    return _wish(attribute, first if match["word"].lower() in _SINCE else last + 1, None)


def _first(names: tuple[str, ...], known: list[str]) -> str | None:
    return next((name for name in names if name in known), None)
