"""Words and numbers of the report: filters of the template, and sentences that say what the numbers mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from llmrec.benchmark.protocol import FLOORS as _TABLE_FLOORS
from llmrec.benchmark.report_shape import Bounds, Catalogued, Comparison, Evaluation, Results

FLOORS = frozenset({*_TABLE_FLOORS, "random"})
"""Recommenders that are marked as floors."""
HEADLINE = "ndcg@10"
"""The metric that is shown first and plotted."""
_FIRST = (HEADLINE, "recall@10", "mrr")
_MINUS = "−"


def bounds(value: Bounds | None, digits: int = 4, scale: float = 1.0) -> Markup:
    """A value with its confidence interval beneath."""
    if value is None or value.value is None:
        return Markup('<span class="none">–</span>')
    text = Markup("<b>{}</b>").format(_number(value.value * scale, digits))
    if value.low is None or value.high is None:
        return text
    low, high = _number(value.low * scale, digits), _number(value.high * scale, digits)
    return text + Markup('<span class="ci">{} to {}</span>').format(low, high)


def difference(value: Bounds | None, digits: int = 4, scale: float = 1.0) -> Markup:
    """A difference with its interval, signed; marked when the interval leaves zero out."""
    if value is None or value.value is None:
        return Markup('<span class="none">–</span>')
    text = Markup("<b>{}</b>").format(_signed(value.value * scale, digits))
    if value.low is None or value.high is None:
        return text
    interval = f"{_signed(value.low * scale, digits)} to {_signed(value.high * scale, digits)}"
    kind = "up" if value.low > 0 else "down" if value.high < 0 else "ci"
    word = {"up": "higher", "down": "lower", "ci": "open"}[kind]
    return text + Markup('<span class="ci">{}</span><span class="{}">{}</span>').format(interval, kind, word)


def duration(seconds: float | None) -> str:
    """75.3 -> 1 min 15 s."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def thousands(value: float | None) -> str:
    """1000209 -> 1,000,209."""
    return "–" if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    """0.4167 -> 42 %."""
    return "–" if value is None else f"{value:.0%}".replace("%", "\u202f%")


def plain_value(value: Any) -> str:
    """A setting as people read it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, str | int | float):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine in a few words; empty when nothing is known."""
    known = {name: value for name, value in machine.items() if value is not None}
    parts = [str(known[name]) for name in ("processor", "system") if name in known][:1]
    parts += [f"{known['cores']} cores"] if "cores" in known else []
    parts += [f"{name} {known[name]}" for name in ("python", "torch") if name in known]
    return ", ".join(parts)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    rows: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows |= flat(value, f"{prefix}{name}.")
        else:
            rows[prefix + name] = value
    return rows


def metric_names(evaluation: Evaluation | None) -> list[str]:
    """Metrics of the table; those at 10 come first."""
    if evaluation is None:
        return []
    names = list(dict.fromkeys(name for row in evaluation.models.values() for name in row))
    return sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))


def label(metric: str) -> str:
    """ndcg@10 -> NDCG@10."""
    name, at, k = metric.partition("@")
    return (name.upper() if name in ("ndcg", "mrr") else name.capitalize()) + at + k


def lead(results: Results) -> list[str]:
    """What was run, in sentences."""
    data = results.dataset
    lines = ["The dataset was not recorded."]
    if data is not None:
        counts = f"{data.n_users:,} users, {data.n_items:,} items, {data.n_interactions:,} interactions"
        lines = [f"Dataset {data.spec}: {counts}."]
    lines += [f"Evaluated on {results.evaluation.n:,} users."] if results.evaluation else []
    lines += [f"Seed {results.seed}."] if results.seed is not None else []
    lines += [f"llmrec {results.llmrec}."] if results.llmrec else []
    machine = machine_line(results.machine or {})
    return [*lines, f"{machine}."] if machine else lines


def findings(results: Results) -> list[str]:
    """What the numbers say, in sentences."""
    lines = [*_ranking_findings(results.evaluation), *_fidelity_findings(results)]
    comparisons = results.simulation.comparisons if results.simulation else []
    lines += [_comparison_finding(one) for one in comparisons]
    if results.out_of_catalogue:
        lines.append(_catalogue_finding(results.out_of_catalogue))
    return lines


def _ranking_findings(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return []
    against = evaluation.paired.against if evaluation.paired else "popular"
    floor = evaluation.models.get(against, {}).get(HEADLINE, Bounds())
    rows = {name: row[HEADLINE] for name, row in evaluation.models.items() if name not in FLOORS and HEADLINE in row}
    return [
        f"{name}: NDCG@10 {_span(ours)}, {_relation(ours, floor)} {against}, {_span(floor)}; n = {evaluation.n} users."
        for name, ours in rows.items()
    ]


def _fidelity_findings(results: Results) -> list[str]:
    if results.fidelity is None:
        return []
    ours = results.fidelity.model
    gaps = {
        "always click": ours.over_always,
        "never click": ours.over_never,
        "the popularity threshold": results.fidelity.over_popularity,
    }
    said = "".join(f"; {_gap(gap)} against {name}" for name, gap in gaps.items() if gap is not None)
    return [f"Simulated user's click decisions: accuracy {_span(ours.accuracy, 3)}{said}; n = {ours.n} decisions."]


def _comparison_finding(one: Comparison) -> str:
    measure = one.measure.replace("_", " ")
    gap = _gap(Bounds(value=one.value, low=one.low, high=one.high))
    return f"Simulated: {measure} of {one.first} minus {one.second}: {gap}, paired by user."


def _catalogue_finding(one: Catalogued) -> str:
    proof = "a planted case was caught" if one.planted_caught else "BUT THE CHECK MISSED A PLANTED CASE"
    return f"Items outside the catalogue: {one.count:,} among {one.checked:,} checked; {proof}."


def _relation(ours: Bounds, floor: Bounds) -> str:
    """How two values lie, judged by whether their intervals overlap."""
    if ours.low is None or ours.high is None or floor.low is None or floor.high is None:
        return "beside"
    if ours.low > floor.high:
        return "above"
    return "below" if ours.high < floor.low else "not clearly different from"


def _gap(value: Bounds, digits: int = 3) -> str:
    """A paired difference with its interval; says so when that holds 0."""
    if value.value is None or value.low is None or value.high is None:
        return "unknown"
    doubt = "" if value.low > 0 or value.high < 0 else " (the interval holds 0)"
    low, high = _signed(value.low, digits), _signed(value.high, digits)
    return f"{_signed(value.value, digits)} [{low} to {high}]{doubt}"


def _span(value: Bounds, digits: int = 4) -> str:
    if value.value is None:
        return "unknown"
    if value.low is None or value.high is None or value.low == value.high == value.value:
        return _number(value.value, digits)
    return f"{_number(value.value, digits)} [{_number(value.low, digits)} to {_number(value.high, digits)}]"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", _MINUS)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", _MINUS)
