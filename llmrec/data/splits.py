"""Which events are for training and which for evaluation; filters on histories.

Every split is by time inside the limits of the tie rule; no event after a cut is ever in a history before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmrec.data.arrow import IntArray
from llmrec.data.interactions import Interactions
from llmrec.errors import ConfigError, DataError

Stage = Literal["validation", "test"]
NO_TARGET = -1


@dataclass(frozen=True)
class Split:
    """Training events and one target per evaluated user and stage."""

    train: Interactions
    """Users and items keep their numbers."""
    users: IntArray
    """Evaluated users, shape (n,)."""
    validation: IntArray
    """Item row per evaluated user, shape (n,); -1 where the user has none (global temporal split only)."""
    test: IntArray
    """Item row per evaluated user, shape (n,); -1 where the user has none (global temporal split only)."""
    protocol: str
    """One line for reports."""
    source: Interactions
    """All events."""
    validation_cut: IntArray
    """Number of events in each user's history before the validation target, shape (n_users,)."""
    test_cut: IntArray
    """Number of events in each user's history before the test target, shape (n_users,)."""

    def history(self, user: int, stage: Stage) -> IntArray:
        """Item rows that may be seen before the target of `stage`; "test" includes the validation item. A view."""
        if stage not in ("validation", "test"):
            raise ConfigError(f"stage must be 'validation' or 'test', got {stage!r}")
        cut = self.validation_cut if stage == "validation" else self.test_cut
        events = self.source.history(user)
        return events[: int(cut[user])]

    def targets(self, stage: Stage) -> tuple[IntArray, IntArray]:
        """Users that have a target at this stage, and the target of each: two arrays of shape (m,)."""
        target = self.validation if stage == "validation" else self.test
        present = target != NO_TARGET
        return self.users[present], target[present]


def leave_one_out(interactions: Interactions, *, min_length: int = 3) -> Split:
    """Last event of each user is the test target, the one before it the validation target.

    Users with fewer than `min_length` events are not evaluated; all their events are training events.

    Raises:
        ConfigError: min_length below 3 would leave no history before the validation target.
        DataError: no user has enough events.
    """
    if min_length < 3:
        raise ConfigError(f"min_length must be at least 3 (history, validation, test), got {min_length!r}")
    lengths = interactions.lengths()
    users = np.flatnonzero(lengths >= min_length).astype(np.int64)
    if len(users) == 0:
        raise DataError(f"no user has {min_length} events or more; the longest history has {lengths.max(initial=0)}")
    test_cut, validation_cut = lengths.copy(), lengths.copy()
    test_cut[users] -= 1
    validation_cut[users] -= 2
    ends = interactions.offsets[users + 1]
    return Split(
        train=_before(interactions, validation_cut),
        users=users,
        validation=interactions.items[ends - 2],
        test=interactions.items[ends - 1],
        protocol=f"leave-one-out by time, users with at least {min_length} events, ties by {interactions.tie_rule}",
        source=interactions,
        validation_cut=validation_cut,
        test_cut=test_cut,
    )


def global_temporal(interactions: Interactions, *, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> Split:
    """Cut all users at the same two moments; targets are each user's first event after a cut.

    A user is evaluated who has a training event and an event after the first cut. The validation target is the first
    event in the middle window, the test target the first event in the last; a user without one has -1 there
    (`Split.targets`).

    Args:
        interactions: events with real timestamps.
        fractions: share of events before the first cut, between the cuts, after the second.

    Raises:
        ConfigError: fractions are not three positive numbers with sum 1.
        DataError: only the order inside each user is known, or no user can be evaluated.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ConfigError(f"fractions must be three positive numbers with sum 1, got {fractions!r}")
    if interactions.time_is_order_only:
        raise DataError("a global temporal split needs timestamps; this dataset knows only the order inside each user")
    if len(interactions) == 0:
        raise DataError("a global temporal split needs events, got none")
    moments = np.quantile(interactions.event_times, [fractions[0], fractions[0] + fractions[1]], method="higher")
    cuts = [_events_before(interactions, int(moment)) for moment in moments]
    lengths = interactions.lengths()
    users = np.flatnonzero((cuts[0] > 0) & (lengths > cuts[0])).astype(np.int64)
    if len(users) == 0:
        raise DataError("no user has events on both sides of the first cut; use leave_one_out or other fractions")
    return Split(
        train=_before(interactions, cuts[0]),
        users=users,
        validation=_target(interactions, users, cuts[0], cuts[1]),
        test=_target(interactions, users, cuts[1], lengths),
        protocol=f"global temporal, cuts at {int(moments[0])} and {int(moments[1])} s, fractions {fractions}",
        source=interactions,
        validation_cut=cuts[0],
        test_cut=cuts[1],
    )


def k_core(interactions: Interactions, k: int) -> Interactions:
    """Remove users and items with fewer than `k` events until none is left. Numbers stay; `compact` renumbers."""
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k!r}")
    users = interactions.user_index()
    keep = np.ones(len(interactions), dtype=np.bool_)
    while True:
        per_user = np.bincount(users[keep], minlength=interactions.n_users)
        per_item = np.bincount(interactions.items[keep], minlength=interactions.n_items)
        smaller = keep & (per_user[users] >= k) & (per_item[interactions.items] >= k)
        if int(smaller.sum()) == int(keep.sum()):
            return interactions.select(keep)
        keep = smaller


def repeats(interactions: Interactions) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """True where an event has the same item as the event before it of the same user, shape (n,)."""
    same = np.zeros(len(interactions), dtype=np.bool_)
    same[1:] = interactions.items[1:] == interactions.items[:-1]
    starts = interactions.offsets[:-1]
    same[starts[starts < len(same)]] = False
    return same


def drop_consecutive_duplicates(interactions: Interactions) -> Interactions:
    """Keep only the first of several equal items in a row (CALRec's preprocessing)."""
    return interactions.select(~repeats(interactions))


def _before(interactions: Interactions, cut: IntArray) -> Interactions:
    """The first ``cut[u]`` events of every user."""
    position = np.arange(len(interactions)) - np.repeat(interactions.offsets[:-1], interactions.lengths())
    return interactions.select(position < np.repeat(cut, interactions.lengths()))


def _events_before(interactions: Interactions, moment: int) -> IntArray:
    """Number of events of each user before a moment, shape (n_users,)."""
    earlier = np.concatenate([[0], np.cumsum(interactions.event_times < moment, dtype=np.int64)])
    return np.asarray(np.diff(earlier[interactions.offsets]), dtype=np.int64)


def _target(interactions: Interactions, users: IntArray, start: IntArray, end: IntArray) -> IntArray:
    """Item of event ``start[u]`` where that is before ``end[u]``, else -1."""
    present = start[users] < end[users]
    rows = interactions.offsets[users] + start[users]
    target = np.full(len(users), NO_TARGET, dtype=np.int64)
    target[present] = interactions.items[rows[present]]
    return target
