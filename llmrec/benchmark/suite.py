"""Runs a benchmark suite: every recommender, seed and order of a data set is one cell, kept on disk when it is done.

A suite takes hours, so a killed run goes on with the cells that are missing. A cell keeps its fitted recommender, the
rank of every user's target, and what it took; a blend reads its parts from the cells above it. Everything is picked on
validation inside `fit`; the test targets are read once, by the evaluation.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmrec.benchmark.protocol import evaluate
from llmrec.benchmark.suite_config import DatasetConfig, Order, RowConfig, SuiteConfig
from llmrec.errors import CacheError, ConfigError
from llmrec.ranking import registry
from llmrec.ranking.progress import told

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.retrieval.base import Recommender

Say = Callable[[str], None]
CELL = "cell.json"


@dataclass(frozen=True)
class Cell:
    """One recommender on one data set with one seed."""

    dataset: str
    order: Order
    row: str
    seed: int
    settings: RowConfig

    def folder(self, out: Path) -> Path:
        """Where it is kept."""
        return out / self.dataset / self.order / self.row.replace("/", "_") / f"seed{self.seed}"


@dataclass(frozen=True)
class CellResult:
    """What a finished cell left."""

    cell: Cell
    facts: dict[str, Any]
    """Metrics with intervals, minutes of fitting, users per second, parameters, what the recommender says of itself."""
    ranks: npt.NDArray[np.int64]
    """Rank of each user's target, shape (n_users,)."""


def cells(
    suite: SuiteConfig,
    datasets: list[str] | None = None,
    rows: list[str] | None = None,
    orders: list[Order] | None = None,
) -> Iterator[Cell]:
    """All cells in the order in which they are run.

    Args:
        datasets: only these.
        rows: only these lines, and those that they blend.
        orders: only these.

    Raises:
        ConfigError: a name is not in the suite.
    """
    for name in datasets or suite.datasets:
        if name not in suite.datasets:
            raise ConfigError(f"the suite has no data set {name!r}; it has {', '.join(suite.datasets)}")
        dataset = suite.datasets[name]
        wanted = _wanted(dataset, rows)
        for order in dataset.orders:
            if orders is not None and order not in orders:
                continue
            for seed in suite.seeds if order == "file" else suite.seeds[: suite.shuffled_seeds]:
                for label in wanted:
                    row = dataset.rows[label]
                    if row.seeded or seed == suite.seeds[0]:
                        yield Cell(name, order, label, seed, row)


def run_cells(suite: SuiteConfig, todo: list[Cell], *, data: str, out: Path, say: Say) -> list[CellResult]:
    """Run what is missing and return everything.

    Args:
        data: folder that ``{data}`` in the specs stands for.
        out: folder of the results.
        say: receives a line for each thing that people want to know.

    Raises:
        CacheError: a result on disk is damaged.
    """
    results: list[CellResult] = []
    opened: tuple[tuple[str, Order], Dataset, Split] | None = None
    for number, cell in enumerate(todo, 1):
        folder = cell.folder(out)
        if opened is None or opened[0] != (cell.dataset, cell.order):
            settings = suite.datasets[cell.dataset]
            opened = ((cell.dataset, cell.order), *_open(settings, cell.order, data))
        _, dataset, split = opened
        key = cell_key(cell, suite, dataset)
        found = read_cell(cell, folder, key)
        label = f"[{number}/{len(todo)}] {cell.dataset} ({cell.order} order) {cell.row}, seed {cell.seed}"
        if found is None:
            say(f"{label} ...")
            found = _run(cell, suite, dataset, split, folder, key, out, say)
        main = ", ".join(f"{name} {found.facts['metrics'][name]['value']:.4f}" for name in suite.main)
        say(f"{label}: {main}; {found.facts['fit_minutes']:.1f} min")
        results.append(found)
    return results


def cell_key(cell: Cell, suite: SuiteConfig, dataset: Dataset) -> str:
    """Hash of what a cell's figures depend on: data, settings (those of its parts too) and seed."""
    rows = suite.datasets[cell.dataset].rows
    used = {cell.row: cell.settings.model_dump(mode="json", exclude_defaults=True)}
    waiting = list(cell.settings.needs)
    while waiting:
        line = waiting.pop()
        used[line] = rows[line].model_dump(mode="json", exclude_defaults=True)
        waiting.extend(rows[line].needs)
    text = json.dumps([dataset.content_hash, used, cell.seed, suite.ks], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_cell(cell: Cell, folder: Path, key: str) -> CellResult | None:
    """A finished cell, or None when there is none with these settings.

    Raises:
        CacheError: the files are damaged.
    """
    path = folder / CELL
    if not path.exists():
        return None
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if facts["key"] != key:
            return None
        return CellResult(cell, facts, np.load(folder / "ranks.npy"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{folder} is damaged ({error}); delete it and run the suite again") from error


def _wanted(dataset: DatasetConfig, rows: list[str] | None) -> list[str]:
    if rows is None:
        return list(dataset.rows)
    kept: set[str] = set()
    waiting = list(rows)
    while waiting:
        label = waiting.pop()
        if label not in dataset.rows:
            raise ConfigError(f"the suite has no line {label!r}; it has {', '.join(dataset.rows)}")
        kept.add(label)
        waiting.extend(dataset.rows[label].needs)
    return [label for label in dataset.rows if label in kept]


def _open(settings: DatasetConfig, order: Order, data: str) -> tuple[Dataset, Split]:
    from llmrec.data.dataset import compact
    from llmrec.data.spec import load
    from llmrec.data.splits import k_core, leave_one_out

    dataset = load(settings.spec.format(data=data), seed=0)
    if settings.k_core:
        dataset = compact(dataset, k_core(dataset.interactions, settings.k_core))
    if order == "shuffled":
        dataset = _shuffled(dataset)
    return dataset, leave_one_out(dataset.interactions)


def _shuffled(dataset: Dataset) -> Dataset:
    from llmrec.data.amazon import product_code_ranks
    from llmrec.data.files import FileSet
    from llmrec.data.ties import shuffle_ties

    keys = None
    if dataset.interactions.time_is_order_only:
        source, _, path = dataset.spec.partition(":")
        if source != "amazon":
            raise ConfigError(f"ties of {dataset.spec!r} cannot be found: it has no timestamps and no product codes")
        keys = product_code_ranks(FileSet(Path(path)), dataset.catalogue.item_ids)
    return replace(dataset, interactions=shuffle_ties(dataset.interactions, seed=0, keys=keys))


def _run(
    cell: Cell, suite: SuiteConfig, dataset: Dataset, split: Split, folder: Path, key: str, out: Path, say: Say
) -> CellResult:
    """Fit, save, evaluate on the test targets."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CELL).unlink(missing_ok=True)  # of other settings: it never stands beside what comes now
    for old in folder.glob("checkpoint*"):
        if old.name != f"checkpoint-{key}":
            shutil.rmtree(old)
    model = _build(cell, suite, dataset, split, folder / f"checkpoint-{key}", out, say)
    started = time.monotonic()
    model.fit(dataset, split)
    minutes = (time.monotonic() - started) / 60
    if (state := getattr(model, "fit_state", None)) is not None:
        minutes = max(minutes, state.minutes)  # of all sittings, where a killed training went on
    if callable(save := getattr(model, "save", None)):
        save(folder / "model")
    outcome = asyncio.run(
        evaluate(dataset, {cell.row: model}, split=split, ks=suite.ks, seed=0, fit=False, floor=cell.row)
    )
    result = outcome.models[cell.row]
    n_parameters = getattr(model, "n_parameters", None)
    facts = {
        "key": key,
        "n_users": outcome.n,
        "protocol": outcome.protocol,
        "metrics": {name: interval._asdict() for name, interval in result.metrics.items()},
        "fit_minutes": minutes,
        "users_per_second": outcome.n / max(result.score_s, 1e-9),
        "parameters": n_parameters,
        "failed": result.failed,
        "note": result.note,
    }
    np.save(folder / "ranks.npy", result.ranks)
    partial = folder / "cell.partial"
    partial.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    partial.replace(folder / CELL)  # a kill leaves a whole result or none
    return CellResult(cell, facts, result.ranks)


def _build(
    cell: Cell, suite: SuiteConfig, dataset: Dataset, split: Split, checkpoint: Path, out: Path, say: Say
) -> Recommender:
    row = cell.settings
    folders = {name: str(_cell_of(cell, name, suite).folder(out) / "model") for name in row.uses}
    config = registry.settings(row.model, _filled(row.config, folders), seed=cell.seed)
    options: dict[str, Any] = {"name": cell.row} | ({} if config is None else {"config": config})
    if row.parts:
        options["parts"] = [_part(cell, name, suite, dataset, split, out, say) for name in row.parts]
    if row.item_vectors is not None:
        from llmrec.retrieval.item_vectors import item_vectors

        options["item_vectors"] = asyncio.run(
            item_vectors(row.item_vectors, dataset, split=split, seed=cell.seed)
        ).vectors
    if registry.resumes(row.model):
        options["checkpoint"] = checkpoint
        options["report"] = told(lambda line: say(f"  {cell.row}: {line}"))
    return registry.build(row.model, **options)


def _part(
    cell: Cell, name: str, suite: SuiteConfig, dataset: Dataset, split: Split, out: Path, say: Say
) -> Recommender:
    """A part of a blend as its own cell left it; what keeps nothing on disk is fitted again, which takes seconds."""
    own = _cell_of(cell, name, suite)
    folder = own.folder(out)
    if registry.is_saved(folder / "model"):
        return registry.load(folder / "model", dataset, split=split)
    part = _build(own, suite, dataset, split, folder / "checkpoint", out, say)
    part.fit(dataset, split)
    return part


def _cell_of(cell: Cell, name: str, suite: SuiteConfig) -> Cell:
    """The cell of another line that belongs to the same data set, order and seed."""
    row = suite.datasets[cell.dataset].rows[name]
    return replace(cell, row=name, settings=row, seed=cell.seed if row.seeded else suite.seeds[0])


def _filled(values: Any, folders: dict[str, str]) -> Any:
    """Settings with the folder of a line in place of ``{LINE}``."""
    if isinstance(values, dict):
        return {key: _filled(value, folders) for key, value in values.items()}
    if isinstance(values, str):
        for name, folder in folders.items():
            values = values.replace(f"{{{name}}}", folder)
    return values
