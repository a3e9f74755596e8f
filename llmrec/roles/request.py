"""What a user asked for, in catalogue terms."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from llmrec.data.catalogue import Catalogue
from llmrec.tools.wishes import Condition, Wish

Turn = Literal["new", "refine", "open", "chat"]


class Request(BaseModel):
    """A message (or a whole dialogue so far) as the recommender understood it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turn: Turn = "new"
    """A request of its own, a change to the one before, the wish for anything good, or small talk."""
    want: tuple[Wish, ...] = ()
    """Attribute values and ranges the user asks for."""
    avoid: tuple[Wish, ...] = ()
    """Attribute values and ranges the user refuses. Enforced in code on every slate."""
    like_titles: tuple[int, ...] = ()
    """Catalogue rows the user names as liked, or asks for something like."""
    dislike_titles: tuple[int, ...] = ()
    """Catalogue rows the user names as disliked."""
    seen_titles: tuple[int, ...] = ()
    """Catalogue rows the user names as known, without a judgement."""
    query: str = ""
    """Free text to search for: a span of the user's own words."""
    unread: bool = False
    """The message could not be read; `query` is the whole of it."""

    @property
    def smalltalk(self) -> bool:
        """Nothing is asked for."""
        return self.turn == "chat"

    @property
    def empty(self) -> bool:
        """Nothing in it can steer a recommendation."""
        return not (self.want or self.like_titles or self.query)

    @property
    def year_min(self) -> int | None:
        """First year asked for."""
        lows = [wish.low for wish in self.want if wish.attribute == "year" and wish.low is not None]
        return int(max(lows)) if lows else None

    @property
    def year_max(self) -> int | None:
        """Last year asked for."""
        highs = [wish.high for wish in self.want if wish.attribute == "year" and wish.high is not None]
        return int(min(highs)) if highs else None

    @property
    def banned_items(self) -> frozenset[int]:
        """Rows that must not be recommended because the user named them."""
        return frozenset((*self.like_titles, *self.dislike_titles, *self.seen_titles))

    def conditions(self) -> list[Condition]:
        """Everything asked for and refused."""
        return [Condition(wish) for wish in self.want] + [Condition(wish, exclude=True) for wish in self.avoid]

    def allows(self, catalogue: Catalogue, row: int) -> bool:
        """Whether the item has nothing that was refused."""
        return row not in self.banned_items and not any(wish.holds(catalogue, row) for wish in self.avoid)

    def met(self, catalogue: Catalogue, row: int) -> tuple[Wish, ...]:
        """The wishes that the item fulfils."""
        return tuple(wish for wish in self.want if wish.holds(catalogue, row))


def merged(before: Request | None, now: Request) -> Request:
    """The request that holds after this message.

    Small talk leaves the earlier request standing. A new or open request keeps only what was refused or judged by
    title: nobody who said "no horror" wants it a message later. A refinement adds to everything, and what is said now
    wins over what was said before: a value moves between wanted and refused, and a new range replaces the old one of
    the same attribute.
    """
    if before is None:
        return now
    if now.turn == "chat":
        return before.model_copy(update={"turn": "chat", "unread": False})
    said = {*now.want, *now.avoid}
    avoid = (*(wish for wish in before.avoid if wish not in said), *now.avoid)
    titles = {
        "dislike_titles": _union(before.dislike_titles, now.dislike_titles, without=now.like_titles),
        "seen_titles": _union(before.seen_titles, now.seen_titles),
    }
    if now.turn != "refine":
        return now.model_copy(update={"avoid": avoid, **titles})
    ranges = {wish.attribute for wish in now.want if wish.value is None}
    kept = tuple(w for w in before.want if w not in said and not (w.value is None and w.attribute in ranges))
    return now.model_copy(
        update={
            "want": (*kept, *now.want),
            "avoid": avoid,
            "like_titles": _union(before.like_titles, now.like_titles, without=now.dislike_titles),
            "query": now.query or before.query,
            **titles,
        }
    )


def _union(first: tuple[int, ...], second: tuple[int, ...], *, without: tuple[int, ...] = ()) -> tuple[int, ...]:
    return tuple(row for row in dict.fromkeys((*first, *second)) if row not in without)
