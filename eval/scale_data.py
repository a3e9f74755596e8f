"""Memory and time to build and to open datasets of growing size.

    python eval/scale_data.py                                  # 10k and 100k items, 10 and 100 interactions each
    python eval/scale_data.py --items 1000000 --per-item 20    # a million items, 20 million interactions
    python eval/scale_data.py --json

Synthetic tables are written as Parquet (or CSV), converted by ``llmrec.data.spec.load("table:...")`` and opened again,
each step in a process of its own. ``peak`` is the largest resident set of that process; ``open_private`` is what
opening added to the process's own memory (mapped pages belong to the file), which must not grow with the data.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.seeding import rng

MIB = 1 << 20


def write(folder: Path, n_items: int, n_events: int, form: str) -> None:
    """Write items.* and interactions.*: popularity falls off as in real catalogues, times are random."""
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    draw = rng(0, "scale", n_items, n_events)
    n_users = max(1, n_events // 50)
    numbers = np.arange(n_items)
    genres = pa.array([f"genre {i % 23}|mood {i % 7}" for i in range(n_items)])
    ids = pa.array(numbers).cast(pa.string())
    titles = pa.array([f"Item number {i}" for i in range(n_items)])
    items = pa.table({"item_id": ids, "title": titles, "year": 1950 + numbers % 75, "genres": genres})
    columns = {
        "user_id": draw.integers(0, n_users, n_events),
        "item_id": (n_items * draw.random(n_events) ** 3).astype(np.int64),
        "timestamp": draw.integers(1_000_000_000, 1_700_000_000, n_events),
        "rating": draw.integers(1, 6, n_events),
    }
    events = pa.table(columns)
    for name, table in (("items", items), ("interactions", events)):
        if form == "parquet":
            pq.write_table(table, folder / f"{name}.parquet")
        else:
            pc.write_csv(table, folder / f"{name}.csv", pc.WriteOptions(quoting_style="none"))


def build(folder: Path) -> dict[str, float]:
    """Convert the table and fill the cache."""
    from llmrec.data.spec import load

    load(f"table:{folder}", cache=folder / "cache")
    return {}


def open_only(folder: Path) -> dict[str, float]:
    """Open the cache, then read a thousand histories."""
    import datasets  # noqa: F401  (its memory is not the data's)

    from llmrec.data import cache
    from llmrec.data.spec import _open

    found = next((folder / "cache" / "data").iterdir())
    before = _private()
    start = time.perf_counter()
    opened = cache.load(found)
    assert opened is not None
    dataset = _open("table", *opened)
    opened_s = time.perf_counter() - start
    users = rng(0, "users").integers(0, dataset.interactions.n_users, 1000)
    start = time.perf_counter()
    total = sum(int(dataset.interactions.history(int(user)).sum()) for user in users)
    assert total > 0
    return {
        "open_s": opened_s,
        "open_private_mib": (_private() - before) / MIB,
        "histories_ms": 1000 * (time.perf_counter() - start),
    }


def _private() -> int:
    """Bytes of this process alone, without mapped files (Linux)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["RssAnon"].split()[0]) * 1024


def _peak() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmHWM"].split()[0]) * 1024


def _child(work: Callable[[Path], dict[str, float]], folder: Path, pipe: Connection) -> None:
    start = time.perf_counter()
    answer = work(folder)
    pipe.send({**answer, "total_s": time.perf_counter() - start, "peak_mib": _peak() / MIB})


def measure(work: Callable[[Path], dict[str, float]], folder: Path) -> dict[str, float]:
    """Run in a fresh process, so that one step's memory is not another's."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, folder, theirs))
    process.start()
    theirs.close()
    try:
        answer: dict[str, float] = ours.recv()
    except EOFError as error:
        process.join()
        raise SystemExit(f"the measured step failed with exit code {process.exitcode}") from error
    process.join()
    return answer


def row(n_items: int, per_item: int, form: str) -> dict[str, Any]:
    """One line of the table."""
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        write(folder, n_items, n_items * per_item, form)
        source = sum(file.stat().st_size for file in folder.iterdir())
        built = measure(build, folder)
        opened = measure(open_only, folder)
        size = sum(file.stat().st_size for file in (folder / "cache").rglob("*") if file.is_file())
    finally:
        shutil.rmtree(folder)
    return {
        "items": n_items,
        "interactions": n_items * per_item,
        "source_mib": source / MIB,
        "cache_mib": size / MIB,
        "build_s": built["total_s"],
        "build_peak_mib": built["peak_mib"],
        "open_s": opened["open_s"],
        "open_private_mib": opened["open_private_mib"],
        "histories_ms": opened["histories_ms"],
    }


def _cell(value: float) -> str:
    return f"{value:16,.2f}" if isinstance(value, float) else f"{value:16,}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--per-item", type=int, nargs="+", default=[10, 100], help="interactions per item")
    parser.add_argument("--form", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rows = []
    for n_items in options.items:
        for per_item in options.per_item:
            rows.append(row(n_items, per_item, options.form))
            if not options.json:
                if len(rows) == 1:
                    print(" | ".join(f"{name:>16}" for name in rows[0]))
                print(
                    " | ".join(
                        f"{value:16,.2f}" if isinstance(value, float) else f"{value:16,}" for value in rows[-1].values()
                    )
                )
                sys.stdout.flush()
    if options.json:
        print(json.dumps({"form": options.form, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
