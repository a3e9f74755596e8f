"""Packing, windows and augmentation of training sequences."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.data.splits import leave_one_out
from llmrec.errors import DataError
from llmrec.ranking.sequences import AugmentConfig, TrainingSequences, pack, pack_for_training
from llmrec.retrieval.base import checked_histories
from llmrec.seeding import rng
from tests.ranking.synthetic import dataset_of, walks


def test_golden_packing() -> None:
    """Lengths 3, 9, 5 go in order 0, 2, 1. Lengths 3 is below 4, so its group goes up to 6: {3, 5}; then {9}."""
    sequences = [np.array([1, 2, 3]), np.arange(10, 19), np.array([4, 5, 6, 7, 8])]
    batch = pack(sequences)
    assert batch.items.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, *range(10, 19)]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, *range(9)]
    assert batch.last.tolist() == [2, 7, 16]
    assert batch.order.tolist() == [0, 2, 1]
    small, large = batch.groups
    assert small.index.tolist() == [[0, 1, 2, 2, 2], [3, 4, 5, 6, 7]]
    assert small.real is not None
    assert small.real.tolist() == [[True, True, True, False, False], [True] * 5]
    assert large.real is None


def test_groups_cover_every_position_once_and_waste_less_than_half() -> None:
    draw = rng(0, "lengths")
    batch = pack([np.zeros(n, dtype=np.int64) for n in draw.integers(1, 200, size=300)])
    places, padded = [], 0
    for group in batch.groups:
        flat = group.index if group.real is None else group.index[group.real]
        places.extend(flat.flatten().tolist())
        padded += group.index.numel()
    assert places == list(range(len(batch.items)))
    assert padded < 2 * len(batch.items)


def test_golden_targets_are_the_next_items() -> None:
    batch = pack_for_training(
        [np.array([5, 6, 7]), np.array([8, 9])], np.array([0, 1]), n_items=20, item_mask=0, rng=rng(0)
    )
    assert batch.targets is not None
    assert batch.users is not None
    assert (batch.items.tolist(), batch.targets.tolist(), batch.users.tolist()) == ([8, 5, 6], [9, 6, 7], [1, 0])


def test_golden_windows() -> None:
    """A user with 8 training events, windows of at most 3 + 1 events, stride 2: they end at 8, 6, 4. One more user has
    4 events, one window. A user with one training event has none."""
    data = dataset_of([list(range(10)), [10, 11, 12, 13, 14, 15], [16, 17, 18]], 20)
    train = leave_one_out(data.interactions).train
    whole = TrainingSequences(train, max_length=3, augment=AugmentConfig(window_stride=2))
    found = whole.batch(np.arange(len(whole)), rng(0))
    assert sorted(whole.users.tolist()) == [0, 0, 0, 1]
    assert found.targets is not None
    assert sorted(found.targets.tolist()) == sorted([5, 6, 7, 3, 4, 5, 1, 2, 3, 11, 12, 13])
    newest = TrainingSequences(train, max_length=3, augment=AugmentConfig())
    assert newest.users.tolist() == [0, 1]


def test_every_window_is_in_one_batch_of_an_epoch() -> None:
    sequences = TrainingSequences(leave_one_out(walks().interactions).train, max_length=5, augment=AugmentConfig())
    batches = sequences.batches(10, rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(64))
    assert max(map(len, batches)) <= 10


@pytest.mark.parametrize(
    ("settings", "keeps_items", "keeps_order"),
    [({"item_drop": 0.4}, False, True), ({"order_jitter": 3.0}, True, False), ({"reverse": 1.0}, True, False)],
)
def test_augmentation_changes_what_it_says(settings: dict[str, float], keeps_items: bool, keeps_order: bool) -> None:
    train = leave_one_out(dataset_of([list(range(22))], 22).interactions).train
    sequences = TrainingSequences(train, max_length=50, augment=AugmentConfig.model_validate(settings))
    batch = sequences.batch(np.array([0]), rng(3))
    assert batch.targets is not None
    events = [batch.items.tolist()[0], *batch.targets.tolist()]
    assert (sorted(events) == list(range(20))) is keeps_items
    assert (events == sorted(events)) is keeps_order
    assert len(set(events)) == len(events) >= 2


def test_a_jitter_up_to_one_changes_nothing() -> None:
    train = leave_one_out(dataset_of([list(range(22))], 22).interactions).train
    sequences = TrainingSequences(train, max_length=50, augment=AugmentConfig(order_jitter=1.0))
    assert sequences.batch(np.array([0]), rng(3)).items.tolist() == list(range(19))


def test_masked_items_are_inputs_only() -> None:
    train = leave_one_out(dataset_of([list(range(302))], 302).interactions).train
    sequences = TrainingSequences(train, max_length=400, augment=AugmentConfig(item_mask=0.3))
    batch = sequences.batch(np.array([0]), rng(0))
    assert batch.targets is not None
    assert 0.2 < float((batch.items == 302).float().mean()) < 0.4
    assert batch.targets.tolist() == list(range(1, 300))


def test_no_pair_to_learn_from_is_an_error() -> None:
    train = leave_one_out(dataset_of([[0, 1, 2], [3, 4, 5]], 6).interactions).train
    with pytest.raises(DataError, match="at least two training events"):
        TrainingSequences(train, max_length=5, augment=AugmentConfig())


def test_unknown_item_rows_are_named() -> None:
    with pytest.raises(DataError, match=r"got row 7; this catalogue has the rows 0 to 6"):
        checked_histories([np.array([1, 7])], n_items=7, max_length=5)
    with pytest.raises(DataError, match="got row -1"):
        checked_histories([np.array([-1])], n_items=7, max_length=5)
    assert checked_histories([np.arange(7)], n_items=7, max_length=2)[0].tolist() == [5, 6]
