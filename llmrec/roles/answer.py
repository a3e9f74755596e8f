"""Reasons and prose from facts: what an item matches, what it resembles, which tool brought it."""

from __future__ import annotations

from collections.abc import Sequence

from llmrec.data.catalogue import Catalogue
from llmrec.prompting import render
from llmrec.roles.request import Request
from llmrec.roles.wording import place, plural
from llmrec.roles.words import MOODS
from llmrec.seeding import derive
from llmrec.tools.pool import Candidate
from llmrec.tools.wishes import Wish

_KEPT = ("similar to", "fits ", "matches the words")
"""Beginnings of tool reasons that tell more than the conditions, which are told from the item's facts."""


def reason(candidate: Candidate, request: Request, catalogue: Catalogue) -> str:
    """Why this item, in one line made of facts."""
    met = [fact(wish, catalogue, candidate.item) for wish in request.met(catalogue, candidate.item)]
    parts = [", ".join(met)] if met else []
    parts += [part for part in candidate.reason.split("; ") if part.startswith(_KEPT)]
    if not parts:
        parts = ["popular"] if "popular" in candidate.source else [f"found by {candidate.source.replace('+', ' and ')}"]
    return "; ".join(parts)


def fact(wish: Wish, catalogue: Catalogue, row: int) -> str:
    """One fulfilled wish as the item fulfils it: "by Ridley Scott", "from 1979", "117 minutes"."""
    if wish.value is None:
        values = catalogue.values(row, wish.attribute)
        return _number(wish.attribute, f"{values[0]}" if values else "")
    return said(wish)


def described(wishes: Sequence[Wish], nouns: str) -> str:
    """Wishes as one phrase: "Horror films from Japan about ghosts, year 1990 to 1999"."""
    before = [
        str(w.value) for w in wishes if w.value is not None and (place(w.attribute) == "genre" or w.value in MOODS)
    ]
    topics = [
        str(w.value) for w in wishes if place(w.attribute) == "topic" and w.value not in MOODS and w.value is not None
    ]
    people = [said(w) for w in wishes if w.value is not None and place(w.attribute) not in ("genre", "topic")]
    ranges = [said(w) for w in wishes if w.value is None]
    parts = [*before, nouns, *people, *([f"about {_and(topics)}"] if topics else [])]
    return ", ".join([" ".join(parts), *ranges])


def said(wish: Wish) -> str:
    """A wish in words: "Comedy", "by Ridley Scott", "year 1980 to 1989"."""
    if wish.value is None:
        return _range(wish)
    match place(wish.attribute):
        case "maker":
            return f"by {wish.value}"
        case "performer":
            return f"starring {wish.value}"
        case "origin":
            return f"from {wish.value}"
        case "series":
            return f"of the series {wish.value}"
        case "genre" | "topic":
            return wish.value
        case _:
            return f"with {wish.attribute.replace('_', ' ')} {wish.value}"


def prose(
    request: Request,
    catalogue: Catalogue,
    *,
    slate: Sequence[int],
    reasons: Sequence[str],
    noun: str,
    feed: bool,
    matched: bool = True,
    seed: int,
) -> str:
    """The text above the slate.

    Args:
        feed: nobody said anything; the slate follows from the history.
        matched: whether the words of the query were found in any item of the slate.
        seed: chooses the phrasing.
    """
    kind = "slate" if slate else "chat" if request.smalltalk else "empty"
    text = render(
        "agent/answer",
        variant=derive(seed, "phrasing") % 997,
        kind=kind,
        noun=noun,
        nouns=plural(noun),
        n=len(slate),
        want=described(request.want, plural(noun)) if request.want else "",
        avoid=_or([wish.value or said(wish) for wish in request.avoid]),
        liked=_and([catalogue.display(row) for row in request.like_titles]),
        query=request.query,
        feed=feed,
        unread=request.unread,
        matched=matched,
        first=catalogue.display(slate[0]) if slate else "",
        first_reason=reasons[0] if reasons else "",
    )
    return " ".join(text.split())


def _range(wish: Wish) -> str:
    name = wish.attribute.removesuffix("_min").replace("_", " ")
    unit = " minutes" if wish.attribute.endswith("_min") else ""
    low, high = (None if end is None else f"{end:g}" for end in (wish.low, wish.high))
    if low == high:
        return f"{name} {low}{unit}"
    if low is None:
        return f"{name} up to {high}{unit}"
    return f"{name} from {low}{unit}" if high is None else f"{name} {low} to {high}{unit}"


def _number(attribute: str, value: str) -> str:
    if attribute == "year":
        return f"from {value}"
    if attribute.endswith("_min"):
        return f"{value} minutes"
    return f"{attribute.replace('_', ' ')} {value}"


def _and(words: list[str]) -> str:
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1] if words else ""


def _or(words: list[str]) -> str:
    return ", ".join(words[:-1]) + (" or " if len(words) > 1 else "") + words[-1] if words else ""
