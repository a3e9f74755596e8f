"""Opening costs the same whatever the size; building needs no loop over rows."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.data.dataset import Dataset
from llmrec.data.interactions import sort_order
from llmrec.data.spec import load


def _write(folder: Path, n_items: int, n_events: int) -> str:
    folder.mkdir()
    generator = np.random.default_rng(7)
    ids = [f"i{i}" for i in range(n_items)]
    pq.write_table(pa.table({"item_id": ids, "title": ids, "year": [1990] * n_items}), folder / "items.parquet")
    columns = {
        "user_id": generator.integers(0, n_events // 50, n_events),
        "item_id": pa.array(ids).take(pa.array(generator.integers(0, n_items, n_events))),
        "timestamp": generator.integers(0, 10**9, n_events),
    }
    pq.write_table(pa.table(columns), folder / "interactions.parquet")
    return f"table:{folder}"


def _opening_cost(spec: str, cache: Path) -> tuple[Dataset, int]:
    """Bytes that opening and reading some histories allocate, in Python, numpy and Arrow."""
    load(spec, cache=cache)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    dataset = load(spec, cache=cache)
    for user in range(20):
        assert dataset.interactions.history(user).sum() >= 0
    python = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return dataset, python + pa.total_allocated_bytes() - before


def test_opening_takes_constant_memory(tmp_path: Path) -> None:
    _, small = _opening_cost(_write(tmp_path / "small", 100, 1_000), tmp_path)
    dataset, large = _opening_cost(_write(tmp_path / "large", 20_000, 400_000), tmp_path)
    assert len(dataset.interactions) > 390_000
    assert large < small + 100_000  # the columns alone are 400,000 x 24 bytes


@pytest.mark.parametrize("span", [1_000, 2**62])
def test_both_ways_to_sort_agree(span: int) -> None:
    generator = np.random.default_rng(3)
    users, times = generator.integers(0, 9, 500), generator.integers(0, span, 500) // 7 * 7
    expected = sorted(range(500), key=lambda i: (users[i], times[i], i))
    assert sort_order(users, times).tolist() == expected
