"""Who consumed what and when: sorted Arrow columns with an offset per user.

One row is one event. Rows are sorted by user, then time, then the tie rule; ``offsets[u]:offsets[u + 1]`` are the rows
of user ``u`` (compressed sparse rows). All columns are memory-mapped when they come from a cache, so a hundred million
rows open in constant memory and a history is a view, not a copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.data.arrow import ArrowStrings, FloatArray, IntArray, as_table, numpy_column
from llmrec.errors import DataError

FILE_ORDER = "order of the source file"


class Interactions:
    """Histories of users over the rows of a catalogue.

    Args:
        offsets: rows of user u are ``offsets[u]`` to ``offsets[u + 1]``, shape (n_users + 1,).
        items: item row of each event, shape (n,).
        timestamps: seconds since 1970, or the position in the history when only the order is known, shape (n,).
        ratings: stars of each event, shape (n,), or None.
        user_ids: id of each user, shape (n_users,).
        n_items: size of the catalogue.
        time_is_order_only: timestamps are positions, not seconds.
        tie_rule: what orders events of one user with equal timestamps.
        users: `pyarrow.Table` or `datasets.Dataset` with one row per user and a column per attribute, or None.
        content_hash: hash when it is known already, else computed on demand.
    """

    def __init__(
        self,
        *,
        offsets: IntArray,
        items: IntArray,
        timestamps: IntArray,
        ratings: FloatArray | None,
        user_ids: Sequence[str],
        n_items: int,
        time_is_order_only: bool = False,
        tie_rule: str = FILE_ORDER,
        users: Any = None,
        content_hash: str | None = None,
        owner: Any = None,
    ) -> None:
        if len(offsets) != len(user_ids) + 1 or int(offsets[-1]) != len(items):
            raise DataError(f"offsets do not fit: {len(offsets)} offsets, {len(user_ids)} users, {len(items)} events")
        self.offsets = offsets
        self.items = items
        self.event_times = timestamps
        self.event_ratings = ratings
        self.user_ids: Sequence[str] = user_ids
        self.n_users = len(user_ids)
        self.n_items = int(n_items)
        self.time_is_order_only = time_is_order_only
        self.tie_rule = tie_rule
        self._users = users
        self._content_hash = content_hash
        self._owner = owner  # keeps memory maps open

    @classmethod
    def from_arrays(
        cls,
        users: npt.ArrayLike,
        items: npt.ArrayLike,
        timestamps: npt.ArrayLike | None,
        ratings: npt.ArrayLike | None = None,
        *,
        user_ids: Sequence[str],
        n_items: int,
        tie_rule: str = FILE_ORDER,
        users_table: Any = None,
    ) -> Interactions:
        """Sort events given in any order. Events of one user with equal timestamps keep their order in the arrays.

        Args:
            users: user index of each event, shape (n,).
            items: item row of each event, shape (n,).
            timestamps: seconds, shape (n,); None when only the order of the arrays is known.
            ratings: stars, shape (n,), or None.
            user_ids: id of each user index.
            n_items: size of the catalogue.
            tie_rule: what the order of the arrays means, for the report.
            users_table: attributes, one row per user.

        Raises:
            DataError: an index is out of range or lengths differ.
        """
        user_column, item_column = np.asarray(users, dtype=np.int64), np.asarray(items, dtype=np.int64)
        _check_range(user_column, len(user_ids), "user index")
        _check_range(item_column, n_items, "item row")
        order_only = timestamps is None
        times = np.zeros(len(user_column), np.int64) if timestamps is None else np.asarray(timestamps, dtype=np.int64)
        if not len(user_column) == len(item_column) == len(times):
            raise DataError(f"columns differ in length: {len(user_column)} / {len(item_column)} / {len(times)}")
        order = sort_order(user_column, times)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(user_column, minlength=len(user_ids)))]).astype(np.int64)
        sorted_times = _positions(offsets) if order_only else times[order]
        return cls(
            offsets=offsets,
            items=item_column[order],
            timestamps=sorted_times,
            ratings=None if ratings is None else np.asarray(ratings, dtype=np.float32)[order],
            user_ids=user_ids,
            n_items=n_items,
            time_is_order_only=order_only,
            tie_rule=tie_rule,
            users=users_table,
        )

    @classmethod
    def from_table(cls, events: Any, offsets: IntArray, *, user_ids: Any, **settings: Any) -> Interactions:
        """Over an already sorted Arrow table with columns item, timestamp and optionally rating; nothing is copied."""
        has_ratings = "rating" in as_table(events).column_names
        return cls(
            offsets=offsets,
            items=numpy_column(events, "item"),
            timestamps=numpy_column(events, "timestamp"),
            ratings=numpy_column(events, "rating") if has_ratings else None,
            user_ids=ArrowStrings(user_ids),
            owner=events,
            **settings,
        )

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"Interactions(n={len(self)}, n_users={self.n_users}, n_items={self.n_items})"

    @property
    def has_ratings(self) -> bool:
        """Whether events carry stars."""
        return self.event_ratings is not None

    @cached_property
    def content_hash(self) -> str:
        """Hash of all columns, user ids and attributes of users."""
        return self._content_hash or self._hash()

    def _hash(self) -> str:
        digest = hashlib.sha256(f"{self.n_items}|{self.time_is_order_only}|{self.tie_rule}".encode())
        for column in (self.offsets, self.items, self.event_times, self.event_ratings):
            if column is not None:
                digest.update(np.ascontiguousarray(column).data)
            digest.update(b"\x1e")
        for user_id in self.user_ids:
            digest.update(user_id.encode() + b"\x1f")
        if (users := self.users_table()) is not None:
            digest.update(repr(users.to_pydict()).encode())
        return digest.hexdigest()[:32]

    def history(self, user: int) -> IntArray:
        """Item rows of a user, oldest first; a view."""
        return self.items[self._slice(user)]

    def ratings(self, user: int) -> FloatArray | None:
        """Stars aligned with `history`, or None when the data has none."""
        return None if self.event_ratings is None else self.event_ratings[self._slice(user)]

    def timestamps(self, user: int) -> IntArray | None:
        """Seconds since 1970 aligned with `history`; positions 0, 1, ... when only the order is known."""
        return self.event_times[self._slice(user)]

    def lengths(self) -> IntArray:
        """Number of events of each user, shape (n_users,)."""
        return np.diff(self.offsets)

    def user_index(self) -> IntArray:
        """User of each event, shape (n,). Takes 8 bytes an event: for whole-table work only."""
        return np.repeat(np.arange(self.n_users, dtype=np.int64), self.lengths())

    def item_counts(self) -> IntArray:
        """Number of events of each item, shape (n_items,)."""
        return np.bincount(self.items, minlength=self.n_items).astype(np.int64)

    def users_table(self) -> Any:
        """Attributes of users as an Arrow table, one row per user, or None."""
        return None if self._users is None else as_table(self._users)

    def user_attributes(self, user: int) -> dict[str, Any]:
        """Public attributes of a user that have a value, without the id."""
        table = self.users_table()
        self._slice(user)
        if table is None:
            return {}
        row = {name: table.column(name)[int(user)].as_py() for name in table.column_names if name != "user_id"}
        return {name: value for name, value in row.items() if value is not None}

    def select(self, keep: npt.NDArray[np.bool_]) -> Interactions:
        """The events where `keep` is true; users and items keep their numbers, so some histories may become empty.

        Args:
            keep: shape (n,).
        """
        kept_before = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
        return Interactions(
            offsets=kept_before[self.offsets],
            items=self.items[keep],
            timestamps=self.event_times[keep],
            ratings=None if self.event_ratings is None else self.event_ratings[keep],
            user_ids=self.user_ids,
            n_items=self.n_items,
            time_is_order_only=self.time_is_order_only,
            tie_rule=self.tie_rule,
            users=self._users,
        )

    def _slice(self, user: int) -> slice:
        if not 0 <= user < self.n_users:
            raise DataError(f"no user with index {user!r}; there are users 0 to {self.n_users - 1}")
        return slice(int(self.offsets[user]), int(self.offsets[user + 1]))


def sort_order(users: IntArray, times: IntArray) -> IntArray:
    """Permutation that sorts by (user, time) and keeps the given order of ties."""
    if len(users) < 2:
        return np.arange(len(users), dtype=np.int64)
    step = np.diff(users)
    if bool(np.all((step > 0) | ((step == 0) & (np.diff(times) >= 0)))):
        return np.arange(len(users), dtype=np.int64)
    first, span = int(times.min()), int(times.max()) - int(times.min()) + 1
    if (int(users.max()) + 1) * span < 2**63:  # one sort over one key takes half the time of two
        return np.argsort(users * span + (times - first), kind="stable")
    return np.lexsort((times, users)).astype(np.int64)


def _positions(offsets: IntArray) -> IntArray:
    """0, 1, 2, ... within each user."""
    total = int(offsets[-1])
    return np.arange(total, dtype=np.int64) - np.repeat(offsets[:-1], np.diff(offsets))


def _check_range(column: IntArray, bound: int, what: str) -> None:
    if len(column) and not (int(column.min()) >= 0 and int(column.max()) < bound):
        wrong = column.min() if column.min() < 0 else column.max()
        raise DataError(f"{what} out of range, got {int(wrong)}; expected 0 to {bound - 1}")
