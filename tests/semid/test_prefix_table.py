"""The compact table: structure, walking, duplicates, filters, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from llmrec.errors import CacheError, ConfigError, DataError
from llmrec.semid.device_table import DeviceTable
from llmrec.semid.filters import ALL_ITEMS, FilterBatch, ItemFilter
from llmrec.semid.prefix_table import PrefixTable
from llmrec.semid.table_file import load_table, save_table
from tests.semid.decoding import END, equal_paths, ragged_table


def test_golden_table_by_hand() -> None:
    """Items 0: 1 3, 1: 0 2, 2: 1 2. Sorted 0 2, 1 2, 1 3: root 0, then 0 and 1, then 2, 2 and 3."""
    table = PrefixTable.from_paths(np.array([[1, 3], [0, 2], [1, 2]]))
    assert table.token.tolist() == [-1, 0, 1, 2, 2, 3]
    assert table.indptr.tolist() == [1, 3, 4, 6, 6, 6, 6]
    assert table.lo.tolist() == [0, 0, 1, 0, 1, 2]
    assert table.hi.tolist() == [3, 1, 3, 1, 2, 3]
    assert table.items.tolist() == [1, 2, 0]
    assert table.level_starts == (0, 1, 3, 6)
    assert table.parents.tolist() == [0, 0, 0, 1, 2, 2]
    assert table.leaves.tolist() == [5, 3, 4]
    assert (table.depth, table.n_tokens, table.n_items, table.n_nodes) == (2, 4, 3, 6)


def test_children_and_steps_by_hand() -> None:
    table = PrefixTable.from_paths(np.array([[1, 3], [0, 2], [1, 2]]))
    owner, token, node = table.children(np.array([2, 3, 0]))
    assert (owner.tolist(), token.tolist(), node.tolist()) == ([0, 0, 2, 2], [2, 3, 0, 1], [4, 5, 1, 2])
    on_device = DeviceTable(table).children(torch.tensor([2, 3, 0]))
    assert [part.tolist() for part in on_device] == [owner.tolist(), token.tolist(), node.tolist()]
    assert table.step(np.array([0, 0, 1, -1, 2]), np.array([1, 9, 3, 1, 3])).tolist() == [2, -1, -1, -1, 5]
    assert table.items_of([1, 2]).tolist() == [2]
    assert table.items_of([1]).tolist() == table.items_of([2]).tolist() == table.items_of([1, 2, 2]).tolist() == []


@pytest.mark.parametrize("n_items", [1, 2, 500])
def test_every_item_is_found_by_its_path_and_nothing_else_is(n_items: int) -> None:
    paths = equal_paths(n_items)
    table = PrefixTable.from_paths(paths)
    assert (table.item_paths() == paths).all()
    assert (table.walk(paths) == table.leaves).all()
    legal = {tuple(path) for path in paths.tolist()}
    draw = np.random.default_rng(2)
    random = draw.integers(0, 30, (300, 3))
    found = table.is_leaf(table.walk(random))
    assert found.tolist() == [tuple(path) in legal for path in random.tolist()]
    assert (DeviceTable(table).walk(torch.from_numpy(random)).numpy() == table.walk(random)).all()


def test_paths_of_any_length_come_back_with_their_end() -> None:
    paths = [[7], [7, 8, 9], [5, 6], [7, 8]]
    table = PrefixTable.from_paths(paths, end=END)
    assert table.item_paths().tolist() == [[7, END, -1, -1], [7, 8, 9, END], [5, 6, END, -1], [7, 8, END, -1]]
    padded = np.array([[7, -1, -1], [7, 8, 9], [5, 6, -1], [7, 8, -1]])
    again = PrefixTable.from_paths(padded, end=END)
    assert (again.token == table.token).all()
    assert (again.items == table.items).all()
    assert padded.tolist()[0] == [7, -1, -1], "the caller's array is left alone"


def test_items_of_equal_paths_share_a_leaf_if_allowed() -> None:
    paths = [[3, 1], [2, 2], [3, 1], [3, 1]]
    table = PrefixTable.from_paths(paths, duplicates="share")
    assert table.items_of([3, 1]).tolist() == [0, 2, 3]
    assert table.leaves[0] == table.leaves[2] == table.leaves[3]
    assert table.n_items == 4
    with pytest.raises(DataError, match=r"items 0 and 2 have the same path \[3, 1\].*2 pairs"):
        PrefixTable.from_paths(paths)


def test_paths_that_cannot_work_are_named() -> None:
    with pytest.raises(DataError, match=r"\[7\] of item 2 begins the path \[7, 8\] of item 0.*end=TOKEN"):
        PrefixTable.from_paths([[7, 8], [6], [7]])
    with pytest.raises(DataError, match=r"\[7, 8\] of item 3 begins the path \[7, 8, 1\] of item 1"):
        PrefixTable.from_paths([[7, 8], [7, 8, 1], [6], [7, 8]], duplicates="share")
    with pytest.raises(DataError, match="at least one item"):
        PrefixTable.from_paths([])
    with pytest.raises(DataError, match="item 1 has an empty path"):
        PrefixTable.from_paths([[1], []])
    with pytest.raises(DataError, match=r"got \[-1, 2\] for item 1"):
        PrefixTable.from_paths(np.array([[1, 2], [-1, 2]]))
    with pytest.raises(DataError, match=r"float64 of \(1, 1\)"):
        PrefixTable.from_paths(np.zeros((1, 1)))  # type: ignore[arg-type]


def test_filters_count_what_is_left_below_each_node() -> None:
    """Against counting item by item, for every node and every kind of filter."""
    table = ragged_table()
    draw = np.random.default_rng(3)
    shared = draw.choice(table.n_items, 15, replace=False)
    mask = draw.random(table.n_items) < 0.3
    filters = [
        ALL_ITEMS,
        ItemFilter(excluded=[3, 3, 7]),
        ItemFilter(shared),
        ItemFilter(mask, excluded=np.arange(20)),
        ItemFilter(shared, excluded=shared[:5]),
        ItemFilter(np.array([], dtype=np.int64)),
    ]
    batch = FilterBatch(table, filters)
    nodes = np.arange(table.n_nodes)
    lo, hi = torch.from_numpy(table.lo), torch.from_numpy(table.hi)
    for request, one in enumerate(filters):
        left = np.zeros(table.n_items, dtype=np.bool_)
        left[slice(None) if one.allowed is None else one.allowed] = True
        left[np.asarray(one.excluded, dtype=np.int64)] = False
        expected = [int(left[table.items[table.lo[node] : table.hi[node]]].sum()) for node in nodes]
        assert batch.alive(torch.full((len(nodes),), request), lo, hi).tolist() == expected
        assert int(batch.left[request]) == int(left.sum())


def test_a_filter_over_foreign_items_is_refused() -> None:
    table = ragged_table()
    with pytest.raises(ConfigError, match="rows 0 to 39, got 40"):
        FilterBatch(table, [ItemFilter(excluded=[40])])
    with pytest.raises(ConfigError, match=r"each of 40 items, got \(3,\)"):
        FilterBatch(table, [ItemFilter(np.ones(3, dtype=np.bool_))])


def test_a_saved_table_is_the_same_and_knows_its_catalogue(tmp_path: Path) -> None:
    table = PrefixTable.from_paths(equal_paths(50), catalogue_hash="abc")
    save_table(table, tmp_path / "table")
    again = load_table(tmp_path / "table", catalogue_hash="abc")
    assert (again.item_paths() == table.item_paths()).all()
    assert again.level_starts == table.level_starts
    with pytest.raises(CacheError, match="catalogue 'abc', the one in use is 'xyz'"):
        load_table(tmp_path / "table", catalogue_hash="xyz")


def test_a_table_half_replaced_by_another_is_refused(tmp_path: Path) -> None:
    """The arrays of B beside the description of A, whichever of the two a kill left behind."""
    first, second = tmp_path / "a", tmp_path / "b"
    save_table(PrefixTable.from_paths(equal_paths(50), catalogue_hash="A"), first)
    save_table(PrefixTable.from_paths(equal_paths(50)[::-1], catalogue_hash="B"), second)
    (first / "table.safetensors").write_bytes((second / "table.safetensors").read_bytes())
    with pytest.raises(CacheError, match="not those that"):
        load_table(first, catalogue_hash="A")


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    with pytest.raises(CacheError, match="no readable prefix table"):
        load_table(folder)
    save_table(PrefixTable.from_paths(equal_paths(50)), folder)
    spec = json.loads((folder / "table.json").read_text())
    (folder / "table.json").write_text(json.dumps({**spec, "version": 99}))
    with pytest.raises(CacheError, match="version 99"):
        load_table(folder)
    (folder / "table.json").write_text(json.dumps({**spec, "n_nodes": 3}))
    with pytest.raises(CacheError, match="wrong sizes"):
        load_table(folder)
    (folder / "table.json").write_text(json.dumps(spec))
    arrays = (folder / "table.safetensors").read_bytes()
    (folder / "table.safetensors").write_bytes(arrays[: len(arrays) // 2])
    with pytest.raises(CacheError, match="damaged"):
        load_table(folder)


def test_a_hundred_thousand_items_take_little_memory() -> None:
    """37 bytes an item were measured at a million; three levels of 256 codes and a collision code."""
    draw = np.random.default_rng(0)
    paths = np.unique(draw.integers(0, 256, (100_000, 3)), axis=0) + np.array([0, 256, 512])
    table = PrefixTable.from_paths(draw.permutation(np.column_stack([paths, np.full(len(paths), 768)])))
    assert table.nbytes < 80 * table.n_items
