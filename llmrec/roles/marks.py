"""Reading a message mention by mention: each is judged right after the words around it.

    {"marks":["something *genres*, no (genres) please => want","something (genres), no *genres* please. i => avoid",
    "no (genres) please. i loved *title* => like"],"first":"new"}

`llmrec.roles.understand` asks for a label after the name of a condition, so the model must find the words that
suggested the condition, then their place in the message, then what stands before them. A model of a million parameters
does not learn these three hops. Here the words around a mention stand right before the label, and the mention itself
gives way to its attribute, so that what is learnt about "no horror" holds for every genre. Everything but the labels is
copied from the message by code (a grammar forces it); mentions that share one span are one question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmrec.errors import OutputError
from llmrec.lm.protocol import Constraint
from llmrec.roles.choices import grammar, json_text, literal, one_of
from llmrec.roles.matching import Found
from llmrec.roles.request import Request, Turn
from llmrec.roles.understand import Form

_WISH, _TITLE, _WORDS = ("want", "avoid", "ignore"), ("like", "dislike", "seen", "ignore"), ("search", "ignore")
_BEFORE, _AFTER = 7, 6  # words around a mention that are quoted
_ARROW = " => "
_CHOICE = re.compile(r'(?<= =>)( [a-z]+)(?="[,\]])|(?<=":")([a-z]+)(?="\}$)')


@dataclass(frozen=True)
class Mention:
    """One question about a message."""

    start: int
    end: int
    found: tuple[Found, ...]
    """What the catalogue found at this place, most frequent first; empty for words to search for."""
    words: str

    @property
    def labels(self) -> tuple[str, ...]:
        """What it may be taken for."""
        if not self.found:
            return _WORDS
        return _WISH if self.found[0].kind == "wish" else _TITLE


def mentions(blank: Form) -> tuple[Mention, ...]:
    """All questions about a message, in order of appearance."""
    places: dict[tuple[int, int], list[Found]] = {}
    for found in blank.found:
        places.setdefault((found.start, found.end), []).append(found)
    asked = [Mention(*place, tuple(found), found[0].words) for place, found in places.items()]
    for span in blank.spans:
        start = max(blank.message.find(span), 0)
        asked.append(Mention(start, start + len(span), (), span))
    return tuple(sorted(asked, key=lambda one: (one.start, one.end, not one.found)))


def quote(blank: Form, mention: Mention) -> str:
    """The words around a mention, the mention between stars; what the catalogue knows gives way to its kind."""
    before = _masked(blank, 0, mention.start)
    after = _masked(blank, mention.end, len(blank.message))
    left = " ".join(before.split()[-_BEFORE:]) + (" " if before[-1:].isspace() else "")
    right = (" " if after[:1].isspace() else "") + " ".join(after.split()[:_AFTER])
    inside = _kind(mention.found[0]) if mention.found else _masked(blank, mention.start, mention.end)
    return f"{left}*{inside}*{right}".lower().replace("’", "'")


def constraint(blank: Form) -> Constraint:
    """The grammar of the arguments: all but the labels is settled."""
    parts = [literal('{"marks":[')]
    for place, mention in enumerate(mentions(blank)):
        opening = json_text(quote(blank, mention) + _ARROW)[:-1]
        parts += [literal(("," if place else "") + opening), one_of(mention.labels), literal('"')]
    parts += [literal(f'],"{_place(blank)}":"'), one_of(_turns(blank)), literal('"}')]
    return grammar(" ".join(parts))


def completion(blank: Form, gold: Request) -> str:
    """The arguments that stand for a known request."""
    marks = [quote(blank, mention) + _ARROW + _gold(mention, gold, blank.shown) for mention in mentions(blank)]
    turn = gold.turn if gold.turn in _turns(blank) else "new"
    return json_text({"marks": marks, _place(blank): turn})


def choices(written: str) -> tuple[tuple[int, int], ...]:
    """Start and end of every label in `completion`, the blank before it included, and of the turn.

    All else is copied from the message; a grammar writes it for the model.
    """
    return tuple(match.span(match.lastindex or 0) for match in _CHOICE.finditer(written))


def parse(blank: Form, text: str) -> Request:
    """The request that the arguments mean. Only labels and turn are read: the quotes served their purpose.

    Raises:
        OutputError: they do not answer every question with one of its labels.
    """
    asked = mentions(blank)
    try:
        answer = json.loads(text)
        marks, turn = list(answer["marks"]), answer[_place(blank)]
        labels = [str(mark).rpartition(_ARROW)[2] for mark in marks]
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"not the arguments of read, got {text[:200]!r}") from error
    if len(labels) != len(asked) or any(said not in one.labels for said, one in zip(labels, asked, strict=True)):
        raise OutputError(f"expected one label for each of {len(asked)} mentions, got {labels!r}")
    if turn not in _turns(blank):
        raise OutputError(f"turn must be one of {_turns(blank)}, got {turn!r}")
    return _request(blank, turn, list(zip(asked, labels, strict=True)))


def canonical(blank: Form, request: Request) -> Request:
    """The request with one meaning for each word of several: the most frequent, as `parse` reads it.

    What a message about "war" meant, the genre or the topic, cannot be told from the message.
    """
    first = {found.wish: one.found[0].wish for one in mentions(blank) for found in one.found if found.wish}
    changed: dict[str, Any] = {
        name: tuple(dict.fromkeys(first.get(wish) or wish for wish in getattr(request, name)))
        for name in ("want", "avoid")
    }
    return request.model_copy(update=changed)


def _request(blank: Form, turn: Turn, answers: Sequence[tuple[Mention, str]]) -> Request:
    def wishes(label: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(one.found[0].wish for one, said in answers if said == label and one.found))

    def rows(label: str) -> tuple[int, ...]:
        chosen = [one.found[0] for one, said in answers if said == label and one.found]
        named = [row for one in chosen for row in (blank.shown if one.title is None else (one.title,))]
        return tuple(dict.fromkeys(named))

    searched = [one.words for one, said in answers if said == "search"]
    return Request(
        turn=turn,
        want=wishes("want"),
        avoid=wishes("avoid"),
        like_titles=rows("like"),
        dislike_titles=rows("dislike"),
        seen_titles=rows("seen"),
        query=max(searched, key=len) if searched and turn != "open" else "",
    )


def _gold(mention: Mention, gold: Request, shown: tuple[int, ...]) -> str:
    if not mention.found:
        return "search" if mention.words == gold.query else "ignore"
    if mention.found[0].kind == "wish":
        wishes = {found.wish for found in mention.found}
        return "want" if wishes & {*gold.want} else "avoid" if wishes & {*gold.avoid} else "ignore"
    title = mention.found[0].title
    rows = set(shown if title is None else (title,))
    judged = (("like", gold.like_titles), ("dislike", gold.dislike_titles), ("seen", gold.seen_titles))
    return next((label for label, titles in judged if rows and rows <= {*titles}), "ignore")


def _masked(blank: Form, start: int, end: int) -> str:
    """A piece of the message in which every mention inside gives way to its kind."""
    text, place = [], start
    for found in sorted(blank.found, key=lambda one: one.start):
        if start <= found.start >= place and found.end <= end:
            text += [blank.message[place : found.start], f"({_kind(found)})"]
            place = found.end
    return "".join([*text, blank.message[place:end]])


def _kind(found: Found) -> str:
    if found.wish is not None:
        return found.wish.attribute
    return "title" if found.title is not None else "list"


def _place(blank: Form) -> str:
    return "first" if blank.before is None and not blank.shown else "later"


def _turns(blank: Form) -> tuple[Turn, ...]:
    return ("new", "open") if _place(blank) == "first" else ("refine", "new", "open")
