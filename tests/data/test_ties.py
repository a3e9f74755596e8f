"""Shuffled ties: what may move, what may not, and what the Amazon files owe to their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmrec.data.amazon import product_code_ranks
from llmrec.data.files import FileSet
from llmrec.data.interactions import Interactions
from llmrec.data.spec import load
from llmrec.data.ties import shuffle_ties, tie_groups
from llmrec.errors import DataError


def _timed() -> Interactions:
    return Interactions.from_arrays(
        [0, 0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 3, 4, 5], [10, 10, 10, 20, 20, 20, 30], user_ids=["a", "b"], n_items=6
    )


def test_only_events_with_one_timestamp_change_places() -> None:
    before = _timed()
    seen = set()
    for seed in range(20):
        after = shuffle_ties(before, seed=seed)
        assert sorted(after.history(0)[:3]) == [0, 1, 2]
        assert after.history(0)[3] == 3
        assert sorted(after.history(1)[:2]) == [3, 4]
        assert after.history(1)[2] == 5
        np.testing.assert_array_equal(after.event_times, before.event_times)
        seen.add(tuple(after.items))
    assert len(seen) > 6  # of 3! * 2! orders


def test_a_tie_never_reaches_into_the_next_user() -> None:
    np.testing.assert_array_equal(tie_groups(_timed()), [0, 0, 0, 1, 2, 2, 3])


def test_ascending_runs_stand_for_ties_where_only_the_order_is_known() -> None:
    events = Interactions.from_arrays([0] * 5, [2, 4, 1, 3, 0], None, user_ids=["a"], n_items=5)
    np.testing.assert_array_equal(tie_groups(events, np.arange(5)), [0, 0, 1, 1, 2])
    after = shuffle_ties(events, seed=3, keys=np.arange(5))
    assert set(after.items[:2]) == {2, 4}
    assert after.items[4] == 0


def test_ratings_travel_with_their_events() -> None:
    items = np.arange(50)
    events = Interactions.from_arrays([0] * 50, items, [7] * 50, items / 10, user_ids=["a"], n_items=50)
    after = shuffle_ties(events, seed=0)
    assert not np.array_equal(after.items, items)
    assert after.event_ratings is not None
    np.testing.assert_allclose(after.event_ratings, after.items / 10, rtol=1e-6)


def test_without_timestamps_the_keys_must_be_named_and_fit() -> None:
    events = Interactions.from_arrays([0, 0], [0, 1], None, user_ids=["a"], n_items=2)
    with pytest.raises(DataError, match="only the order"):
        shuffle_ties(events, seed=0)
    with pytest.raises(DataError, match=r"one number per item \(2\), got 3"):
        shuffle_ties(events, seed=0, keys=np.arange(3))


def test_the_amazon_files_are_sorted_by_product_code_inside_ties(real_data: Path) -> None:
    folder = real_data / "amazon-beauty"
    dataset = load(f"amazon:{folder}")
    keys = product_code_ranks(FileSet(folder), dataset.catalogue.item_ids)
    events = dataset.interactions
    same = events.user_index()[1:] == events.user_index()[:-1]

    def ascending(one: Interactions) -> float:
        along = keys[one.items]
        return float((along[1:] > along[:-1])[same].mean())

    assert ascending(events) > 0.65  # 0.5 if the order said nothing
    assert ascending(shuffle_ties(events, seed=0, keys=keys)) < 0.52  # the order says nothing any more
