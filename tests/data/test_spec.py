"""Specs and the cache behind them."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmrec.data import cache as store
from llmrec.data.spec import load, parse
from llmrec.errors import CacheError, ConfigError, DataError, StorageError


def _write(folder: Path, n_events: int = 3) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "items.csv").write_text("item_id,title\na,A\nb,B\n")
    events = "".join(f"u{i % 5},{'ab'[i // 5 % 2]},{i}\n" for i in range(n_events))
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp\n" + events)
    return f"table:{folder}"


def _caches(cache: Path) -> list[Path]:
    return sorted((cache / "data").iterdir())


@pytest.mark.parametrize("spec", ["", "film", "films:", "csv:x", "movielens", "table:", "films:7"])
def test_unknown_specs_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError):
        parse(spec)


def test_second_load_opens_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = _write(tmp_path / "d")
    first = load(spec, cache=tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("the source was read again")

    monkeypatch.setattr("llmrec.data.tables.read", refuse)
    second = load(spec, cache=tmp_path)
    assert second.content_hash == first.content_hash
    assert second.notes == first.notes


def test_changed_content_is_another_cache(tmp_path: Path) -> None:
    load(_write(tmp_path / "d"), cache=tmp_path)
    changed = load(_write(tmp_path / "d", 4), cache=tmp_path)
    assert len(changed.interactions) == 4
    assert len(_caches(tmp_path)) == 2


def test_columns_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    x = load(_write(tmp_path / "d", 50), cache=tmp_path).interactions
    for column in (x.items, x.event_times, x.offsets, x.history(2)):
        assert not column.flags.owndata
        assert not column.flags.writeable
    assert np.shares_memory(x.history(2), x.items)


def test_many_batches_keep_one_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmrec.data.lines.blocks.__kwdefaults__", {"encoding": "utf-8", "size": 64})
    dataset = load(_write(tmp_path / "d", 200), cache=tmp_path)
    assert dataset.interactions._owner.data.table.column("item").num_chunks == 1
    assert dataset.interactions.lengths().tolist() == [40] * 5


@pytest.mark.parametrize("damage", ["cut", "flip", "meta", "seal", "gone"])
def test_damaged_cache_names_folder_and_remedy(tmp_path: Path, damage: str) -> None:
    spec = _write(tmp_path / "d", 60)
    load(spec, cache=tmp_path)
    folder = _caches(tmp_path)[0]
    events, meta = folder / "events.arrow", folder / "meta.json"
    if damage == "cut":
        events.write_bytes(events.read_bytes()[:-9])
    elif damage == "flip":
        content = bytearray(events.read_bytes())
        content[len(content) // 2] ^= 1
        events.write_bytes(bytes(content))
    elif damage == "meta":
        meta.write_text("{")
    elif damage == "seal":
        meta.write_text(meta.read_text().replace('"item_noun": "item"', '"item_noun": "film"'))
    else:
        events.unlink()
    with pytest.raises(CacheError, match=rf"{folder} is damaged .*delete that folder and run the command again"):
        load(spec, cache=tmp_path)


def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = _write(tmp_path / "d")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pyarrow.ipc.new_stream", full)
        with pytest.raises(StorageError, match=r"the disk is full while writing .*LLMREC_CACHE"):
            load(spec, cache=tmp_path)
    assert _caches(tmp_path) == []
    assert len(load(spec, cache=tmp_path).interactions) == 3


def test_a_lost_race_uses_the_winner(tmp_path: Path) -> None:
    spec = _write(tmp_path / "d")
    load(spec, cache=tmp_path)
    folder = _caches(tmp_path)[0]
    opened = store.load(folder)
    assert opened is not None
    store.store(folder, {}, {})  # the target exists: kept as it is
    assert store.load(folder) is not None
    assert len(_caches(tmp_path)) == 1


def test_all_rows_rejected_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    spec = _write(tmp_path / "d")
    (tmp_path / "d" / "interactions.csv").write_text("user_id,item_id,timestamp\nu,zz,1\nu,yy,2\n")
    with pytest.raises(
        DataError, match=r"no usable interaction: 2 rows were rejected, the first in interactions.csv line 2"
    ):
        load(spec, cache=tmp_path)


def test_films_need_no_path() -> None:
    pytest.importorskip("llmrec.data.films")
    dataset = load("films", seed=1)
    assert dataset.spec == "films"
    assert len(dataset.catalogue) >= 600
