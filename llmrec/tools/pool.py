"""The candidate pool: what every tool takes and returns, and what a slate is cut from.

Items are catalogue rows; text never travels here except the short reason a tool gives for an item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Candidate:
    """One item under consideration."""

    item: int
    """Catalogue row."""
    score: float
    """Higher is better, in [0, number of sources]: each source adds at most 1."""
    source: str
    """Tools that brought it, joined by ``+``."""
    reason: str
    """Why, in a few words; reasons of several tools are joined by ``; ``."""


@dataclass(frozen=True)
class CandidatePool:
    """Candidates, best first, each item once."""

    candidates: tuple[Candidate, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.rows)) != len(self.candidates):
            raise ValueError("an item occurs twice in a candidate pool; use merged()")

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def rows(self) -> tuple[int, ...]:
        """Catalogue rows, best first."""
        return tuple(candidate.item for candidate in self.candidates)

    def items(self) -> frozenset[int]:
        """Catalogue rows as a set."""
        return frozenset(self.rows)

    def top(self, n: int) -> CandidatePool:
        """The first n candidates."""
        return CandidatePool(self.candidates[:n])

    def restricted(self, keep: Callable[[int], bool]) -> CandidatePool:
        """Candidates whose item passes the predicate, in the same order."""
        return CandidatePool(tuple(candidate for candidate in self.candidates if keep(candidate.item)))

    def without(self, items: Iterable[int]) -> CandidatePool:
        """Candidates that are not among the items."""
        banned = frozenset(items)
        return self.restricted(lambda item: item not in banned)

    def ordered(self, key: Callable[[Candidate], float]) -> CandidatePool:
        """Sorted by key, highest first; ties keep their order."""
        return CandidatePool(tuple(sorted(self.candidates, key=key, reverse=True)))

    def merged(self, other: CandidatePool) -> CandidatePool:
        """Union; the scores of an item in both are added, its sources and reasons joined. Ties keep this pool first."""
        union = {candidate.item: candidate for candidate in self.candidates}
        for candidate in other.candidates:
            mine = union.get(candidate.item)
            union[candidate.item] = candidate if mine is None else _joined(mine, candidate)
        return CandidatePool(tuple(union.values())).ordered(lambda candidate: candidate.score)


def ranked_pool(rows: Sequence[int] | npt.NDArray[np.int64], *, source: str, reason: str) -> CandidatePool:
    """A pool of rows given best first; scores fall evenly from 1 so that pools of different tools can be added."""
    n = len(rows)
    return CandidatePool(
        tuple(Candidate(int(row), 1.0 - place / n, source, reason) for place, row in enumerate(rows)),
    )


def _joined(mine: Candidate, other: Candidate) -> Candidate:
    sources, reasons = mine.source.split("+"), mine.reason.split("; ")
    return replace(
        mine,
        score=mine.score + other.score,
        source=mine.source if other.source in sources else f"{mine.source}+{other.source}",
        reason=mine.reason if other.reason in reasons else f"{mine.reason}; {other.reason}",
    )
