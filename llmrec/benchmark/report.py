"""Writes what a job found out: report.json for programs, report.html for people.

The page is one file that opens offline: styles and plots are inside, nothing is fetched, no script runs. All text
passes through the template's autoescape, because titles of items and words of users are foreign text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from llmrec.benchmark import report_plots as plots
from llmrec.benchmark import report_text as text
from llmrec.benchmark.report_shape import Bounds, Evaluation, Policy, Results, check
from llmrec.benchmark.report_text import FLOORS, HEADLINE
from llmrec.benchmark.report_transcript import transcript
from llmrec.errors import StorageError


class ReportPaths(NamedTuple):
    """Where the report lies."""

    html: Path
    json: Path


def write_report(results: Mapping[str, Any], folder: Path) -> ReportPaths:
    """Write `report.html` and `report.json`.

    Args:
        results: see `llmrec.benchmark.report_shape.Results`; parts that are absent are left out with a plain sentence.
        folder: made when it is absent.

    Raises:
        ConfigError: a part is there but has another shape.
        StorageError: the folder cannot be written.
    """
    values, checked = check(results)
    page = render(checked)
    paths = ReportPaths(folder / "report.html", folder / "report.json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(paths.json, json.dumps(values, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
        _replace(paths.html, page)
    except OSError as error:
        raise StorageError(f"the report cannot be written to {str(folder)!r}: {error.strerror or error}") from error
    return paths


def render(results: Results) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bounds": text.bounds,
        "difference": text.difference,
        "duration": text.duration,
        "thousands": text.thousands,
        "plain": text.plain_value,
        "share": text.share,
        "label": text.label,
    }
    return environment.get_template("report.html.jinja").render(
        r=results,
        floors=FLOORS,
        metrics=text.metric_names(results.evaluation),
        findings=text.findings(results),
        ranking_plot=ranking_plot(results.evaluation),
        fidelity_plot=fidelity_plot(results),
        curves=curves(results),
        length_plots=length_plots(results),
        actions_plot=actions_plot(results),
        action_names=plots.ordered_actions(_actions(results)),
        transcripts=[transcript(one) for one in results.transcripts],
        settings=text.flat(results.settings or {}),
        machine={name: value for name, value in (results.machine or {}).items() if value is not None},
        lead=text.lead(results),
        more=results.model_extra or {},
    )


def ranking_plot(evaluation: Evaluation | None) -> Markup | None:
    """NDCG@10 of every recommender, best first."""
    if evaluation is None:
        return None
    rows = [(name, row[HEADLINE]) for name, row in evaluation.models.items() if HEADLINE in row]
    ordered = sorted(_estimates([(name, one, name in FLOORS) for name, one in rows]), key=lambda row: -row.value)
    return plots.intervals("NDCG@10, 95 % intervals", ordered, "hollow: floors")


def fidelity_plot(results: Results) -> Markup | None:
    """Accuracy of click decisions beside the floors."""
    if results.fidelity is None:
        return None
    ours, popularity = results.fidelity.model, results.fidelity.popularity
    rows = [("simulated user", ours.accuracy, False)]
    rows += [("popularity threshold", popularity.accuracy, True)] if popularity else []
    rows += [("always click", ours.always_click, True), ("never click", ours.never_click, True)]
    return plots.intervals("Accuracy of click decisions, 95 % intervals", _estimates(rows), "hollow: floors")


def _estimates(rows: Sequence[tuple[str, Bounds, bool]]) -> list[plots.Estimate]:
    """Rows of (name, value, whether it is a floor) as the plot takes them; unknown values are left out."""
    return [
        plots.Estimate(name, one.value, one.low, one.high, is_floor)
        for name, one, is_floor in rows
        if one.value is not None
    ]


def curves(results: Results) -> list[Markup]:
    """Learning curves of the backbone and of every adapter."""
    trained = {"backbone": results.backbone} if results.backbone else {}
    trained |= {f"adapter {name}": one for name, one in results.adapters.items()}
    found = [plots.learning_curve(name, one.curve) for name, one in trained.items()]
    return [plot for plot in found if plot is not None]


def length_plots(results: Results) -> list[Markup]:
    """Session lengths, one plot per policy on shared axes."""
    counts = {name: one.rounds_distribution for name, one in _policies(results).items() if one.rounds_distribution}
    longest = max((int(length) for row in counts.values() for length in row), default=0)
    most = max((n for row in counts.values() for n in row.values()), default=0)
    found = [plots.session_lengths(name, row, longest=longest, most=most) for name, row in counts.items()]
    return [plot for plot in found if plot is not None]


def actions_plot(results: Results) -> Markup | None:
    """Shares of actions per policy."""
    return plots.actions("actions on shown items per policy", _actions(results))


def _policies(results: Results) -> Mapping[str, Policy]:
    return results.simulation.policies if results.simulation else {}


def _actions(results: Results) -> dict[str, dict[str, int]]:
    return {name: one.actions for name, one in _policies(results).items()}


def _replace(path: Path, content: str) -> None:
    """A reader never sees half a file."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)
