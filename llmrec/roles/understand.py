"""Reading a message: the form a small model fills in by choosing, and the training examples in that very form.

    ### Understand
    User: something funny, no horror please. I loved Alien
    funny -> genres=Comedy
    horror -> genres=Horror
    Alien -> title=Alien (1979)
    JSON:
    {"turn":"new","genres=Comedy":"want","genres=Horror":"avoid","title=Alien (1979)":"like","query":""}

The candidates come from the catalogue (`llmrec.roles.matching`), the query is a span of the message that says more than
the candidates do ("a dog in the snow"), and a grammar leaves only the choices open: the model never spells.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmrec.data.catalogue import Catalogue
from llmrec.errors import OutputError
from llmrec.lm.protocol import Constraint
from llmrec.prompting import as_data, render
from llmrec.roles.choices import grammar, json_text, literal, one_of
from llmrec.roles.matching import Found, Reader, reader_for, spans
from llmrec.roles.request import Request, Turn

_WISH_CHOICES = ("want", "avoid", "ignore")
_TITLE_CHOICES = ("like", "dislike", "seen", "ignore")
_MAX_MESSAGE = 400  # characters


@dataclass(frozen=True)
class Form:
    """Everything that a model is asked about one message."""

    message: str
    before: Request | None
    """The request so far; None in the first turn."""
    found: tuple[Found, ...]
    spans: tuple[str, ...]
    shown: tuple[int, ...] = ()
    """Rows of the last slate."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What kind of message it may be. Naming something the catalogue knows is never small talk."""
        turns: list[Turn] = ["new", "open"]
        if self.before is not None or self.shown:
            turns.append("refine")
        if not self.found:
            turns.append("chat")
        return tuple(turns)


def form(message: str, reader: Reader, *, before: Request | None = None, shown: Sequence[int] = ()) -> Form:
    """The form for a message.

    Args:
        before: how the dialogue was understood so far.
        shown: rows of the last slate.
    """
    message = as_data(message, max_characters=_MAX_MESSAGE)
    found = reader.find(message, shown)
    return Form(message, before, found, spans(message, found), tuple(shown))


def prompt(blank: Form) -> str:
    """The prompt text; the model's answer starts on the next line."""
    values = [{"words": found.words, "label": found.label} for found in blank.found]
    return render("agent/understand", message=blank.message, before=_summary(blank), found=values).rstrip() + "\n"


def constraint(blank: Form) -> Constraint:
    """The grammar of the answer."""
    parts = [literal('{"turn":"'), one_of(blank.turns)]
    for found in blank.found:
        choices = _WISH_CHOICES if found.kind == "wish" else _TITLE_CHOICES
        parts += [literal(f'",{json_text(found.label)}:"'), one_of(choices)]
    queries = [json_text(span)[1:-1] for span in ("", *blank.spans)]
    parts += [literal('","query":"'), one_of(queries), literal('"}')]
    return grammar(" ".join(parts))


def schema(blank: Form) -> dict[str, Any]:
    """The answer as a JSON schema, for engines that take no grammars."""
    fields: dict[str, Any] = {"turn": {"enum": list(blank.turns)}}
    for found in blank.found:
        fields[found.label] = {"enum": list(_WISH_CHOICES if found.kind == "wish" else _TITLE_CHOICES)}
    fields["query"] = {"enum": ["", *blank.spans]}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def parse(blank: Form, text: str) -> Request:
    """The request that the model's answer means.

    Raises:
        OutputError: the answer is not a filled-in form.
    """
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise OutputError(f"not JSON, got {text[:200]!r}") from error
    expected = ["turn", *(found.label for found in blank.found), "query"]
    if not isinstance(answer, dict) or list(answer) != expected:
        raise OutputError(f"expected an object with {expected}, got {text[:200]!r}")
    chosen = {
        choice: [f for f in blank.found if answer[f.label] == choice] for choice in {*_WISH_CHOICES, *_TITLE_CHOICES}
    }
    if answer["turn"] not in blank.turns:
        raise OutputError(f"turn must be one of {blank.turns}, got {answer['turn']!r}")
    return Request(
        turn=answer["turn"],
        want=tuple(found.wish for found in chosen["want"] if found.wish),
        avoid=tuple(found.wish for found in chosen["avoid"] if found.wish),
        like_titles=_rows(chosen["like"], blank.shown),
        dislike_titles=_rows(chosen["dislike"], blank.shown),
        seen_titles=_rows(chosen["seen"], blank.shown),
        query="" if answer["turn"] in ("chat", "open") else str(answer["query"]),
    )


def completion(blank: Form, gold: Request) -> str:
    """The answer that stands for a known request.

    Candidates that the request does not mention are ignored; a query that is not one of the spans becomes the longest
    span it contains, or the whole message.
    """
    answer: dict[str, str] = {"turn": gold.turn if gold.turn in blank.turns else "new"}
    for found in blank.found:
        answer[found.label] = _gold_choice(found, gold, blank.shown)
    answer["query"] = _gold_span(gold.query, blank.spans)
    return json_text(answer)


def training_example(
    message: str,
    catalogue: Catalogue,
    gold: Request,
    *,
    before: Request | None = None,
    shown: Sequence[int] = (),
) -> tuple[str, str]:
    """Prompt and completion that teach a model to read this message; no end token is added."""
    blank = form(message, reader_for(catalogue), before=before, shown=shown)
    return prompt(blank), completion(blank, gold)


def unread(message: str) -> Request:
    """The request for a message that could not be read: search for all of it."""
    return Request(query=as_data(message, max_characters=_MAX_MESSAGE), unread=True)


def _summary(blank: Form) -> str:
    if blank.before is None:
        return "a list" if blank.shown else ""
    known = [condition.text() for condition in blank.before.conditions()][-5:]
    return "; ".join([*known, *(["liked titles"] if blank.before.like_titles else [])]) or "anything"


def _rows(found: Sequence[Found], shown: tuple[int, ...]) -> tuple[int, ...]:
    rows = [row for one in found for row in (shown if one.title is None else (one.title,))]
    return tuple(dict.fromkeys(rows))


def _gold_choice(found: Found, gold: Request, shown: tuple[int, ...]) -> str:
    if found.wish is not None:
        return "want" if found.wish in gold.want else "avoid" if found.wish in gold.avoid else "ignore"
    rows = set(shown if found.title is None else (found.title,))
    judged = (("like", gold.like_titles), ("dislike", gold.dislike_titles), ("seen", gold.seen_titles))
    return next((choice for choice, titles in judged if rows and rows <= set(titles)), "ignore")


def _gold_span(query: str, offered: tuple[str, ...]) -> str:
    if not query or query in offered:
        return query
    inside = [span for span in offered if span in query]
    return max(inside, key=len) if inside else (offered[-1] if offered else "")
