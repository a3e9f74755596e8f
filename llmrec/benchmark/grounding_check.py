"""Counts what sessions showed or named that is not in the catalogue, and proves that the count can find something."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llmrec.data.catalogue import Catalogue
from llmrec.roles.checking import faults
from llmrec.roles.matching import reader_for
from llmrec.simulate.session import Round, Session

PLANTED = "The Lighthouse Keeper's Invented Sequel"
"""A title that no catalogue has."""


def check_sessions(sessions: Iterable[Session], catalogue: Catalogue) -> dict[str, Any]:
    """Check every slate, reason and answer.

    Prose is searched for quoted or emphasised titles and for what stands before a year in parentheses; the user's own
    words may be repeated.

    Returns:
        count: items and titles that are not in the catalogue; checked: items and answers looked at; planted_caught:
        whether every planted fault (a row beyond the catalogue, an invented title in quotes, one before a year) was
        found by the same check; examples: the first few findings.
    """
    rounds = [(session, one, said) for session in sessions for one, said in _with_words(session)]
    found = [(session, one, _count(one, said, catalogue)) for session, one, said in rounds]
    return {
        "count": sum(n for _, _, n in found),
        "checked": sum(len(one.slate) + len(one.out_of_catalogue) + bool(one.prose) for _, one, _ in rounds),
        "planted_caught": _finds_planted([(one, said) for _, one, said in rounds], catalogue),
        "examples": [
            {"user": session.user_id, "policy": session.policy, "turn": one.turn, "prose": one.prose}
            for session, one, n in found
            if n
        ][:5],
    }


def _with_words(session: Session) -> Iterator[tuple[Round, tuple[str, ...]]]:
    """Rounds, each with what the user had said before it."""
    said: tuple[str, ...] = ()
    for one in session.rounds:
        yield one, said
        if one.instruction is not None:
            said = (*said, one.instruction.say)


def _count(one: Round, said: Sequence[str], catalogue: Catalogue) -> int:
    text = " ".join([one.prose, *one.reasons])
    found = faults(one.slate, text, reader_for(catalogue).grounder, said=said)
    return len(one.out_of_catalogue) + found.out_of_catalogue


def _finds_planted(rounds: Sequence[tuple[Round, tuple[str, ...]]], catalogue: Catalogue) -> bool:
    """Plant one fault of each kind into a real round (an empty one when there is none)."""
    empty: tuple[Round, tuple[str, ...]] = (Round(turn=0, slate=()), ())
    clean, said = next(((one, words) for one, words in rounds if not _count(one, words, catalogue)), empty)
    row = clean.model_copy(update={"slate": (*clean.slate, len(catalogue))})
    quoted = clean.model_copy(update={"prose": f'{clean.prose} You may also like "{PLANTED}".'})
    dated = clean.model_copy(update={"prose": f"{clean.prose} You may also like {PLANTED} (1987)."})
    return all(_count(one, said, catalogue) > 0 for one in (row, quoted, dated))
