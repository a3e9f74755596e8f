"""A session as the report shows it: what was shown, what was done, what was said, and what the user kept to itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from llmrec.simulate.session import Round, Session


class SlateRow(NamedTuple):
    """One item of a slate."""

    title: str
    reason: str
    action: str
    """Empty where the user left before getting there."""
    rating: int | None
    click: float | None
    """Private: the probability that the user takes the item."""


class RoundView(NamedTuple):
    """One round."""

    number: int
    round: Round
    rows: list[SlateRow]
    calls: list[tuple[str, Mapping[str, Any]]]
    """Tool calls: the call as text, and the event."""


class Transcript(NamedTuple):
    """One session."""

    session: Session
    rounds: list[RoundView]
    has_titles: bool


def transcript(session: Session) -> Transcript:
    """Prepare a session for the page; an item without a title is shown by its row."""
    rounds = [
        RoundView(one.turn + 1, one, _rows(one), [(_call(event), event) for event in one.events])
        for one in session.rounds
    ]
    return Transcript(session, rounds, all(len(one.titles) == len(one.slate) for one in session.rounds))


def _rows(one: Round) -> list[SlateRow]:
    decided = [shown for shown in one.shown if shown["action"] != "leave"]
    clicks = dict(zip((shown["item"] for shown in decided), one.clicks, strict=False))
    shown = {entry["item"]: entry for entry in one.shown}
    rows = []
    for place, item in enumerate(one.slate):
        entry = shown.get(item, {})
        rows.append(
            SlateRow(
                title=one.titles[place] if place < len(one.titles) else f"item {item}",
                reason=one.reasons[place] if place < len(one.reasons) else "",
                action=str(entry.get("action", "")),
                rating=entry.get("rating"),
                click=clicks.get(item),
            )
        )
    return rows


def _call(event: Mapping[str, Any]) -> str:
    """``search(query="dark", year_min=1990)``; arguments that were not given are left out."""
    given = {name: value for name, value in dict(event.get("arguments", {})).items() if value not in (None, [], {}, "")}
    inside = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in given.items())
    return f"{event.get('name', '?')}({inside})"
