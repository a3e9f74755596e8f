"""Counts what sessions showed or named that is not in the catalogue, and proves that the count can find something."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llmrec.data.catalogue import Catalogue
from llmrec.roles.checking import faults
from llmrec.roles.matching import reader_for
from llmrec.simulate.session import Round, Session

PLANTED = "The Lighthouse Keeper's Invented Sequel (1987)"
"""A title that no catalogue has."""


def check_sessions(sessions: Iterable[Session], catalogue: Catalogue) -> dict[str, Any]:
    """Check every slate, reason and answer.

    Returns:
        count: items and titles that are not in the catalogue; checked: items and answers looked at; planted_caught:
        whether both planted faults (a row beyond the catalogue, an invented title in the prose) were found by the same
        check; examples: the first few findings.
    """
    rounds = [(session, one) for session in sessions for one in session.rounds]
    found = [(session, one, _count(one, catalogue)) for session, one in rounds]
    bad = [(session, one, n) for session, one, n in found if n]
    return {
        "count": sum(n for _, _, n in found),
        "checked": sum(len(one.slate) + len(one.out_of_catalogue) + bool(one.prose) for _, one in rounds),
        "planted_caught": _finds_planted([one for _, one in rounds], catalogue),
        "examples": [
            {"user": session.user, "policy": session.policy, "turn": one.turn, "prose": one.prose}
            for session, one, _ in bad[:5]
        ],
    }


def _count(one: Round, catalogue: Catalogue) -> int:
    text = " ".join([one.prose, *one.reasons])
    return len(one.out_of_catalogue) + faults(one.slate, text, reader_for(catalogue).grounder).out_of_catalogue


def _finds_planted(rounds: Sequence[Round], catalogue: Catalogue) -> bool:
    """Plant one fault of each kind into a real round (an empty one when there is none)."""
    clean = next((one for one in rounds if not _count(one, catalogue)), Round(turn=0, slate=()))
    row = clean.model_copy(update={"slate": (*clean.slate, len(catalogue))})
    title = clean.model_copy(update={"prose": f'{clean.prose} You may also like "{PLANTED}".'})
    return _count(row, catalogue) > 0 and _count(title, catalogue) > 0
