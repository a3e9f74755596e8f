"""Interactions: order, ties, views."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.data.interactions import Interactions
from llmrec.errors import DataError


def _interactions(users: list[int], items: list[int], times: list[int] | None) -> Interactions:
    return Interactions.from_arrays(users, items, times, user_ids=["u", "v", "w"], n_items=5)


def test_golden_sorted_by_user_then_time_ties_in_given_order() -> None:
    x = _interactions([1, 0, 1, 1, 0, 0], [0, 1, 2, 3, 4, 0], [9, 5, 3, 3, 5, 1])
    assert x.history(0).tolist() == [0, 1, 4]
    assert x.history(1).tolist() == [2, 3, 0]
    assert x.history(2).tolist() == []
    assert x.item_counts().tolist() == [2, 1, 1, 1, 1]
    assert x.lengths().tolist() == [3, 3, 0]


def test_without_times_the_order_is_the_position() -> None:
    x = _interactions([1, 0, 1], [3, 1, 2], None)
    assert x.time_is_order_only
    times = x.timestamps(1)
    assert times is not None
    assert times.tolist() == [0, 1]
    assert x.history(1).tolist() == [3, 2]


def test_history_is_a_view() -> None:
    x = _interactions([0, 0, 1], [0, 1, 2], [1, 2, 3])
    assert np.shares_memory(x.history(0), x.items)


def test_ratings_follow_their_events() -> None:
    x = Interactions.from_arrays([0, 0], [1, 0], [2, 1], [5.0, 3.0], user_ids=["u"], n_items=2)
    ratings = x.ratings(0)
    assert ratings is not None
    assert ratings.tolist() == [3.0, 5.0]
    assert x.has_ratings
    assert not _interactions([0], [0], [1]).has_ratings


def test_user_attributes_without_id_and_nulls() -> None:
    users = pa.table({"user_id": ["u", "v"], "age": [30, None], "job": ["writer", "cook"]})
    x = Interactions.from_arrays([0, 1], [0, 0], [1, 2], user_ids=["u", "v"], n_items=1, users_table=users)
    assert x.user_attributes(0) == {"age": 30, "job": "writer"}
    assert x.user_attributes(1) == {"job": "cook"}
    assert _interactions([0], [0], [1]).user_attributes(0) == {}


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [([3], [0], "user index out of range, got 3"), ([0], [5], "item row out of range, got 5"), ([-1], [0], "got -1")],
)
def test_indices_out_of_range_are_refused(users: list[int], items: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _interactions(users, items, [1])


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(DataError, match="columns differ in length"):
        _interactions([0, 0], [0, 0], [1])


def test_unknown_user_is_refused() -> None:
    with pytest.raises(DataError, match="no user with index 3"):
        _interactions([0], [0], [1]).history(3)


_EVENTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 3)), max_size=30)


@given(_EVENTS)
def test_equals_a_plain_stable_sort(events: list[tuple[int, int, int]]) -> None:
    users, items, times = ([event[i] for event in events] for i in range(3))
    x = _interactions(users, items, times)
    for user in range(3):
        own = sorted((event for event in events if event[0] == user), key=lambda event: event[2])
        assert x.history(user).tolist() == [event[1] for event in own]


@given(_EVENTS, st.data())
def test_select_keeps_order_and_numbers(events: list[tuple[int, int, int]], data: st.DataObject) -> None:
    users, items, times = ([event[i] for event in events] for i in range(3))
    x = _interactions(users, items, times)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(x), max_size=len(x))), dtype=np.bool_)
    selected = x.select(keep)
    for user in range(3):
        own = keep[x.offsets[user] : x.offsets[user + 1]]
        assert selected.history(user).tolist() == x.history(user)[own].tolist()


def test_content_hash_sees_order_and_ids() -> None:
    one = _interactions([0, 0], [1, 2], [1, 2])
    assert one.content_hash == _interactions([0, 0], [2, 1], [2, 1]).content_hash
    assert one.content_hash != _interactions([0, 0], [2, 1], [1, 2]).content_hash
    other = Interactions.from_arrays([0, 0], [1, 2], [1, 2], user_ids=["u", "v", "x"], n_items=5)
    assert one.content_hash != other.content_hash
