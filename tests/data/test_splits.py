"""Splits and filters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset, compact
from llmrec.data.interactions import Interactions
from llmrec.data.splits import drop_consecutive_duplicates, global_temporal, k_core, leave_one_out, repeats
from llmrec.errors import ConfigError, DataError


def _histories(*histories: list[int], n_items: int = 10) -> Interactions:
    users = [user for user, items in enumerate(histories) for _ in items]
    items = [item for history in histories for item in history]
    times = [time for history in histories for time in range(len(history))]
    return Interactions.from_arrays(
        users, items, times, user_ids=[f"u{i}" for i in range(len(histories))], n_items=n_items
    )


def test_golden_leave_one_out() -> None:
    split = leave_one_out(_histories([1, 2, 3, 4], [5, 6], [7, 8, 9]))
    assert split.users.tolist() == [0, 2]
    assert split.validation.tolist() == [3, 8]
    assert split.test.tolist() == [4, 9]
    assert split.history(0, "validation").tolist() == [1, 2]
    assert split.history(0, "test").tolist() == [1, 2, 3]
    assert [split.train.history(user).tolist() for user in range(3)] == [[1, 2], [5, 6], [7]]


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=6))
def test_no_target_is_in_the_training_part(histories: list[list[int]]) -> None:
    if max(map(len, histories)) < 3:
        return
    x = _histories(*histories)
    split = leave_one_out(x)
    for user, validation, test in zip(split.users, split.validation, split.test, strict=True):
        whole = x.history(user).tolist()
        assert [*split.train.history(user).tolist(), int(validation), int(test)] == whole
        assert [*split.history(user, "test").tolist(), int(test)] == whole
    for user in set(range(x.n_users)) - set(split.users.tolist()):
        assert split.train.history(user).tolist() == x.history(user).tolist()


def test_leave_one_out_refuses_what_cannot_work() -> None:
    with pytest.raises(ConfigError, match="min_length must be at least 3"):
        leave_one_out(_histories([1, 2, 3]), min_length=2)
    with pytest.raises(DataError, match="the longest history has 2"):
        leave_one_out(_histories([1, 2]))


def test_golden_global_temporal() -> None:
    # times 0..9 over two users; cuts at the events whose time is at the 60 % and 80 % quantile: 6 and 8
    users, items = [0, 1, 0, 1, 0, 0, 0, 1, 1, 0], list(range(10))
    x = Interactions.from_arrays(users, items, range(10), user_ids=["u", "v"], n_items=10)
    split = global_temporal(x, fractions=(0.6, 0.2, 0.2))
    assert split.train.history(0).tolist() == [0, 2, 4, 5]
    assert split.train.history(1).tolist() == [1, 3]
    assert split.targets("validation")[1].tolist() == [6, 7]
    assert split.targets("test")[1].tolist() == [9, 8]
    assert split.history(0, "test").tolist() == [0, 2, 4, 5, 6]


def test_global_temporal_never_trains_on_the_future() -> None:
    generator = np.random.default_rng(1)
    n = 500
    users, items, times = generator.integers(0, 20, n), generator.integers(0, 9, n), generator.integers(0, 300, n)
    x = Interactions.from_arrays(users, items, times, user_ids=[str(i) for i in range(20)], n_items=9)
    split = global_temporal(x)
    last = split.train.event_times.max()
    for user, _ in zip(*split.targets("test"), strict=True):
        seen = len(split.history(int(user), "test"))
        assert x.event_times[x.offsets[user] + seen] > last


def test_global_temporal_needs_real_times() -> None:
    x = Interactions.from_arrays([0, 0], [0, 1], None, user_ids=["u"], n_items=2)
    with pytest.raises(DataError, match="knows only the order"):
        global_temporal(x)
    with pytest.raises(ConfigError, match="three positive numbers with sum 1"):
        global_temporal(x, fractions=(0.5, 0.5, 0.5))


def test_golden_k_core_cascades() -> None:
    # item 3 has one event; without it user 2 has one, so user 2 goes too; then item 1 still has two events.
    x = k_core(_histories([1, 2], [1, 2], [1, 3]), 2)
    assert [x.history(user).tolist() for user in range(3)] == [[1, 2], [1, 2], []]


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=8), st.integers(1, 3))
def test_k_core_property(histories: list[list[int]], k: int) -> None:
    x = k_core(_histories(*histories), k)
    assert all(count == 0 or count >= k for count in (*x.lengths().tolist(), *x.item_counts().tolist()))


def test_golden_consecutive_duplicates() -> None:
    x = _histories([1, 1, 2, 2, 2, 1], [1, 1])
    assert repeats(x).tolist() == [False, True, False, True, True, False, False, True]
    kept = drop_consecutive_duplicates(x)
    assert [kept.history(user).tolist() for user in range(2)] == [[1, 2, 1], [1]]
    assert not repeats(kept).any()


def test_empty_histories_survive_every_filter() -> None:
    x = _histories([], [1, 2, 3], [])
    assert leave_one_out(x).users.tolist() == [1]
    assert drop_consecutive_duplicates(x).lengths().tolist() == [0, 3, 0]
    assert k_core(x, 1).lengths().tolist() == [0, 3, 0]


def test_compact_renumbers_users_and_items() -> None:
    titles = [f"t{i}" for i in range(10)]
    dataset = Dataset(
        "d", "d", Catalogue.from_columns({"item_id": titles, "title": titles}), _histories([1, 2], [1, 2], [1, 3])
    )
    small = compact(dataset, k_core(dataset.interactions, 2))
    assert small.catalogue.titles() == ["t1", "t2"]
    assert list(small.interactions.user_ids) == ["u0", "u1"]
    assert small.interactions.history(1).tolist() == [0, 1]
    assert "compacted from 10 items and 3 users to 2 and 2" in small.notes
