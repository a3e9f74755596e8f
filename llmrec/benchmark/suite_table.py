"""The table of a suite: mean and spread over seeds, interval over users, and what each line took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.benchmark.suite import CellResult
from llmrec.benchmark.suite_config import Order
from llmrec.metrics.bootstrap import Interval, bootstrap_means
from llmrec.metrics.ranking import per_user_metrics


@dataclass(frozen=True)
class Line:
    """One recommender over all its seeds."""

    dataset: str
    order: Order
    row: str
    n_users: int
    seeds: tuple[int, ...]
    metrics: dict[str, Interval]
    """Mean over seeds, with the bootstrap over users (each user's value is the mean over seeds)."""
    spread: dict[str, float | None]
    """Standard deviation over seeds (n - 1); None for one seed."""
    fit_minutes: float
    """Mean over seeds."""
    users_per_second: float
    parameters: int | None
    failed: int
    note: str


def lines(results: Sequence[CellResult], *, ks: Sequence[int], n_resamples: int = 2000) -> list[Line]:
    """One line per data set, order and recommender, in the order in which they were run."""
    groups: dict[tuple[str, Order, str], list[CellResult]] = {}
    for result in results:
        groups.setdefault((result.cell.dataset, result.cell.order, result.cell.row), []).append(result)
    return [_line(group, ks, n_resamples) for group in groups.values()]


def _line(group: Sequence[CellResult], ks: Sequence[int], n_resamples: int) -> Line:
    by_seed = [per_user_metrics(one.ranks, ks) for one in group]
    names = list(by_seed[0])
    values = np.stack([[metrics[name] for name in names] for metrics in by_seed])  # (seeds, metrics, users)
    intervals = bootstrap_means(values.mean(axis=0).T, seed=0, n_resamples=n_resamples)
    spread = values.mean(axis=2).std(axis=0, ddof=1) if len(group) > 1 else None  # (metrics,)
    first = group[0]
    return Line(
        dataset=first.cell.dataset,
        order=first.cell.order,
        row=first.cell.row,
        n_users=values.shape[2],
        seeds=tuple(one.cell.seed for one in group),
        metrics=dict(zip(names, intervals, strict=True)),
        spread={name: None if spread is None else float(spread[place]) for place, name in enumerate(names)},
        fit_minutes=float(np.mean([one.facts["fit_minutes"] for one in group])),
        users_per_second=float(np.mean([one.facts["users_per_second"] for one in group])),
        parameters=first.facts["parameters"],
        failed=sum(one.facts["failed"] for one in group),
        note=first.facts["note"],
    )


def markdown(table: Sequence[Line], *, main: Sequence[str]) -> str:
    """Tables for people, one per data set and order."""
    parts: list[str] = []
    for dataset, order in dict.fromkeys((line.dataset, line.order) for line in table):
        own = [line for line in table if (line.dataset, line.order) == (dataset, order)]
        what = "" if order == "file" else ", order inside ties drawn anew"
        parts.append(f"### {dataset}{what}\n")
        parts.append(f"n = {own[0].n_users} users; mean ± sd over seeds, 95 % bootstrap over users.\n")
        parts.append(f"| recommender | {' | '.join(main)} | seeds | training min | parameters | users/s | failed |")
        parts.append(f"| --- | {'--- | ' * len(main)}---: | ---: | ---: | ---: | ---: |")
        parts.extend(_cells(line, main) for line in own)
        parts.append("")
        parts.extend(f"- {line.row}: {line.note}" for line in own if line.note)
        parts.append("")
    return "\n".join(parts)


def _cells(line: Line, main: Sequence[str]) -> str:
    figures = " | ".join(_figure(line.metrics[name], line.spread[name]) for name in main)
    size = "–" if line.parameters is None else f"{line.parameters:,}"
    return (
        f"| {line.row} | {figures} | {len(line.seeds)} | {line.fit_minutes:.1f} | {size} | "
        f"{line.users_per_second:.0f} | {line.failed} |"
    )


def _figure(interval: Interval, spread: float | None) -> str:
    sd = "" if spread is None else f" ± {_short(spread)}"
    return f"{_short(interval.value)}{sd} [{_short(interval.low)}, {_short(interval.high)}]"


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")
