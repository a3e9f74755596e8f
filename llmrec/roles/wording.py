"""Catalogue values in everyday words: the surface that a phrase bank puts into its templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from llmrec.data.catalogue import Catalogue
from llmrec.roles.synonyms import SYNONYMS
from llmrec.roles.words import ADJECTIVES, MOODS
from llmrec.tools.wishes import Wish

Place = Literal["genre", "maker", "performer", "origin", "topic", "series", "other"]
_PLACES: dict[str, Place] = {
    "genres": "genre", "genre": "genre", "categories": "genre", "category": "genre",
    "directors": "maker", "director": "maker", "author": "maker", "authors": "maker", "brand": "maker",
    "actors": "performer", "cast": "performer", "countries": "origin", "country": "origin",
    "keywords": "topic", "tags": "topic", "themes": "topic", "series": "series",
}  # fmt: skip
_NEVER_SAID = frozenset({"english", "hollywood", "kid", "happy", "dark", "xma"})
_PLURALS = {"film": "films", "movie": "movies", "product": "products", "item": "items"}


@dataclass
class Phrase:
    """Parts of a description, in the order in which they are spoken."""

    adjectives: list[str] = field(default_factory=list)
    tails: list[str] = field(default_factory=list)


def place(attribute: str) -> Place:
    """How values of the attribute enter a sentence."""
    return _PLACES.get(attribute, "other")


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def describe(wishes: Sequence[Wish], rng: np.random.Generator, catalogue: Catalogue, noun: str) -> str:
    """A noun phrase for the wishes: "a funny Japanese film about ghosts from the 80s"."""
    phrase = Phrase()
    for wish in wishes:
        _add(phrase, wish, rng, catalogue)
    tails = "".join(f" {tail}" for tail in phrase.tails)
    adjectives = " ".join(phrase.adjectives)
    nouns = [noun, "movie"] if noun == "film" else [noun]
    match int(rng.integers(3)):
        case 0 if adjectives or tails:
            return f"something{' ' if adjectives else ''}{adjectives}{tails}"
        case 1:
            return f"{adjectives} {plural(pick(rng, nouns))}{tails}".strip()
        case _:
            thing = f"{adjectives} {pick(rng, nouns)}".strip()
            return f"{'an' if thing[0].lower() in 'aeiou' else 'a'} {thing}{tails}"


def plural(noun: str) -> str:
    """Plural of what an item is called."""
    return _PLURALS.get(noun, f"{noun}s")


def refused(wishes: Sequence[Wish], rng: np.random.Generator, catalogue: Catalogue, noun: str) -> str:
    """Refused values as nouns: "horror or gore"."""
    words = []
    for wish in wishes:
        value = spoken(wish, rng, catalogue, adjective=False)
        if wish.value in MOODS or (place(wish.attribute) == "genre" and rng.random() < 0.3):
            value = value if value.endswith("s") else f"{value} {plural(noun)}"
        words.append(value)
    return " or ".join(words)


def adjective(wish: Wish, rng: np.random.Generator, catalogue: Catalogue) -> str:
    """The wish as an adjective, where it has one: "funny"."""
    return spoken(wish, rng, catalogue, adjective=True)


def spoken(wish: Wish, rng: np.random.Generator, catalogue: Catalogue, *, adjective: bool) -> str:
    """One value in words."""
    if wish.value is None:
        return period(wish, rng)
    where = place(wish.attribute)
    said = [word for word in _said(catalogue, wish) if (word in ADJECTIVES) == adjective]
    if said and rng.random() < (0.7 if where == "origin" else 0.4):
        return _capital(pick(rng, said)) if where == "origin" else pick(rng, said)
    if where in ("maker", "performer", "origin", "series"):
        return wish.value
    plain = wish.value.lower() if where in ("genre", "topic") else wish.value
    return plain.replace("-", " ") if where == "topic" and rng.random() < 0.6 else plain


def period(wish: Wish, rng: np.random.Generator) -> str:
    """A range in words, as a tail: "from the 80s", "under two hours"."""
    low, high = wish.low, wish.high
    if wish.attribute in ("price", "price_usd"):
        return (
            f"{pick(rng, ['under', 'less than', 'cheaper than'])} ${high:g}" if high is not None else f"over ${low:g}"
        )
    if wish.attribute.startswith(("runtime", "duration")):
        return _length(low, high, rng)
    if low is not None and high is not None:
        if high == low:
            return f"{pick(rng, ['from', 'of'])} {low:g}"
        if high - low == 9 and low % 10 == 0:
            short = f"{low % 100:g}s" if 1930 <= low < 2000 else f"{low:g}s"
            return pick(
                rng, [f"from the {short}", f"from the {low:g}s", f"of the {low:g}s", f"from the {_spelled(low)}"]
            )
        return pick(rng, [f"between {low:g} and {high:g}", f"from {low:g} to {high:g}"])
    if low is not None:
        return pick(rng, [f"newer than {low - 1:g}", f"after {low - 1:g}", f"since {low:g}", f"made after {low - 1:g}"])
    assert high is not None, "a range has at least one end"
    return pick(rng, [f"before {high + 1:g}", f"older than {high + 1:g}", f"made before {high + 1:g}"])


def _length(low: float | None, high: float | None, rng: np.random.Generator) -> str:
    bound = high if high is not None else low
    assert bound is not None, "a range has at least one end"
    words = {60: "an hour", 90: "an hour and a half", 120: "two hours", 150: "two and a half hours", 180: "three hours"}
    ways = [f"{bound:g} minutes"]
    if bound in words:
        ways.append(words[int(bound)])
    if bound % 60 == 0 and bound > 60:
        ways.append(f"{bound / 60:g} hours")
    openers = (
        ["under", "shorter than", "less than", "at most"] if high is not None else ["over", "longer than", "at least"]
    )
    return f"{pick(rng, openers)} {pick(rng, ways)}"


def _spelled(year: float) -> str:
    words = {1930: "thirties", 1940: "forties", 1950: "fifties", 1960: "sixties", 1970: "seventies", 1980: "eighties"}
    return words.get(int(year), f"{year:g}s")


def _add(phrase: Phrase, wish: Wish, rng: np.random.Generator, catalogue: Catalogue) -> None:
    if wish.value is None:
        phrase.tails.append(period(wish, rng))
        return
    match place(wish.attribute):
        case "maker":
            ways = ["by", "from", "directed by"] if "direct" in wish.attribute else ["by", "from"]
            phrase.tails.append(f"{pick(rng, ways)} {wish.value}")
        case "performer":
            phrase.tails.append(f"{pick(rng, ['with', 'starring', 'featuring'])} {wish.value}")
        case "series":
            phrase.tails.append(f"from the {wish.value.removeprefix('The ')} series")
        case "genre":
            word = spoken(wish, rng, catalogue, adjective=True)
            phrase.adjectives.append(word)
        case "origin":
            word = spoken(wish, rng, catalogue, adjective=True)
            if word == wish.value:
                phrase.tails.append(f"from {word}")
            else:
                phrase.adjectives.append(word)
        case "topic" if wish.value in MOODS:
            phrase.adjectives.insert(0, spoken(wish, rng, catalogue, adjective=True))
        case "topic":
            phrase.tails.append(
                f"{pick(rng, ['about', 'about', 'with'])} {spoken(wish, rng, catalogue, adjective=False)}"
            )
        case _:
            phrase.tails.append(f"with {wish.attribute.replace('_', ' ')} {wish.value}")


_SAID: dict[str, dict[tuple[str, str], list[str]]] = {}


def _said(catalogue: Catalogue, wish: Wish) -> list[str]:
    """Synonyms that mean this value first of all."""
    if catalogue.content_hash not in _SAID:
        _SAID.clear()  # one catalogue at a time
        _SAID[catalogue.content_hash] = _read_said(catalogue)
    return _SAID[catalogue.content_hash].get((wish.attribute, str(wish.value)), [])


def _read_said(catalogue: Catalogue) -> dict[tuple[str, str], list[str]]:
    owners: dict[str, str] = {}
    for attribute in catalogue.attribute_names:
        if catalogue.kind(attribute) in ("category", "categories") and place(attribute) in ("genre", "topic", "origin"):
            for value in catalogue.vocabulary(attribute):
                owners.setdefault(value, attribute)
    said: dict[tuple[str, str], list[str]] = {}
    for words, values in SYNONYMS.items():
        first = next((value for value in values if value in owners), None)
        if first is not None and words not in _NEVER_SAID and not words.endswith("iou"):
            said.setdefault((owners[first], first), []).append(words)
    return said


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]
