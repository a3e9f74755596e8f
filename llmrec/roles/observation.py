"""What passes between a recommender and whoever it serves.

`Observation` is all that a recommender may see. It holds public facts only: there is no field for a satisfaction,
a mood or a threshold of a simulated user, and nothing here can carry one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llmrec.roles.request import Request
from llmrec.tools.base import ToolEvent

Action = Literal["view", "skip", "click", "like", "dislike", "rate", "buy", "leave"]
POSITIVE_ACTIONS: frozenset[str] = frozenset({"click", "like", "buy"})
POSITIVE_RATING = 4
"""A rating from here on counts as liking the item."""


@dataclass(frozen=True)
class Shown:
    """An item that was shown and what the user visibly did with it."""

    item: int
    """Catalogue row."""
    action: str
    """One of `Action`."""
    rating: int | None = None
    """1 to 5, only with the action ``rate``."""

    @property
    def liked(self) -> bool:
        """Whether the action says that the user wants more of this."""
        return self.action in POSITIVE_ACTIONS or (self.rating is not None and self.rating >= POSITIVE_RATING)


@dataclass(frozen=True)
class Observation:
    """A recommender's view of a session before it answers."""

    history: tuple[int, ...] = ()
    """Catalogue rows from before the session, oldest first."""
    profile: Mapping[str, str | int] = field(default_factory=dict)
    """Public facts about the user, such as an age group."""
    feedback: tuple[tuple[Shown, ...], ...] = ()
    """What was shown in each past round, in order, with the visible reaction."""
    messages: tuple[str, ...] = ()
    """The user's own words, oldest first; the last one is answered unless `answered` says that it was already."""
    turn: int = 0
    """0 in the first round."""
    request: Request | None = None
    """How the messages before the last were understood (`Reply.request` of the turn before); None reads them again."""
    slate_required: bool = True
    """A feed always needs a slate; in a chat a greeting may be answered without one."""
    answered: int = 0
    """How many of `messages` belong to turns that were answered already."""

    @property
    def message(self) -> str | None:
        """The message of this turn, if there is one."""
        return self.messages[-1] if len(self.messages) > self.answered else None

    @property
    def full_history(self) -> tuple[int, ...]:
        """History extended by what was liked in this session, each item once, at its first place."""
        liked = [shown.item for shown_round in self.feedback for shown in shown_round if shown.liked]
        return tuple(dict.fromkeys((*self.history, *liked)))

    @property
    def shown_items(self) -> frozenset[int]:
        """Everything shown in this session; it is not shown again."""
        return frozenset(shown.item for shown_round in self.feedback for shown in shown_round)

    @property
    def last_slate(self) -> tuple[int, ...]:
        """Items of the round before this one."""
        return tuple(shown.item for shown in self.feedback[-1]) if self.feedback else ()


@dataclass(frozen=True)
class Reply:
    """A recommender's answer."""

    slate: tuple[int, ...]
    """Catalogue rows, best first."""
    reasons: tuple[str, ...]
    """One per item of the slate, from facts."""
    prose: str
    """What the user reads above the slate."""
    events: tuple[ToolEvent, ...] = ()
    """Tool calls in order, failed ones included."""
    notes: tuple[str, ...] = ()
    """What the user should know: a message that could not be read, wishes that nothing meets, repaired prose."""
    failed: str | None = None
    """Why there is no answer; None when there is one."""
    request: Request | None = None
    """How the dialogue was understood up to here."""
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What the turn took, as plain data (`llmrec.roles.turn_log.TurnLog`)."""
