"""Plots of the report as SVG that takes its colours from the page.

matplotlib draws with stand-in colours; the stand-ins are then replaced by CSS variables of the page, so that one
plot is right in light and dark. Plots are narrow: a phone shows one beside the text, a desktop several in a row.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

WIDTH_IN = 5.2
"""Of a plot, in inches of 72 points."""
_SCALE = 1.2  # the largest magnification of a plot on a wide page

# name of the CSS variable -> colour that stands in for it; any colours do that matplotlib does not use by itself
_STAND_INS = {
    name: f"#a1b2{number:02x}"
    for number, name in enumerate(
        ("ink", "muted", "grid", "surface", "neutral", "blue", "aqua", "yellow", "violet", "red", "magenta", "orange")
    )
}
INK, MUTED, GRID, SURFACE, NEUTRAL, BLUE, AQUA, YELLOW, VIOLET, RED, MAGENTA, ORANGE = _STAND_INS.values()

# A colour belongs to an action, whichever policy or dataset is shown.
ACTION_COLOURS: Mapping[str, str] = {
    "skip": NEUTRAL,
    "view": MAGENTA,
    "click": BLUE,
    "like": AQUA,
    "buy": VIOLET,
    "rate": YELLOW,
    "dislike": ORANGE,
    "leave": RED,
}

_STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "llmrec",
    "font.size": 10,
    "text.parse_math": False,  # names are foreign text
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}


class Estimate(NamedTuple):
    """A row of an interval plot."""

    label: str
    value: float
    low: float | None
    high: float | None
    is_floor: bool


def learning_curve(title: str, curve: Sequence[Mapping[str, float | None]]) -> Markup | None:
    """Training loss and, where measured, validation loss; None when there are no points."""
    training = _points(curve, "loss")
    validation = _points(curve, "validation_loss")
    if not training and not validation:
        return None
    with matplotlib.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(WIDTH_IN, 3.0), layout="constrained")
        axes = figure.subplots()
        for name, points, colour in (("training", training, BLUE), ("validation", validation, ORANGE)):
            if points:
                dots = "o" if name == "validation" or len(points) == 1 else ""
                axes.plot(*zip(*points, strict=True), color=colour, marker=dots, markersize=6, label=name)
        by_tokens = all(row.get("tokens") is not None for row in curve)
        axes.set(xlabel="tokens" if by_tokens else "step", ylabel="loss (nats per token)")
        axes.set_title(title)
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        if training and validation:
            axes.legend()
        return _svg(figure, title)


def intervals(title: str, rows: Sequence[Estimate], label: str) -> Markup | None:
    """Dots with confidence intervals, floors hollow; None when there are no rows."""
    if not rows:
        return None
    with matplotlib.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.36 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(rows):
            colour = MUTED if row.is_floor else BLUE
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [place, place], color=colour)
            face = SURFACE if row.is_floor else colour
            axes.plot([row.value], [place], "o", markersize=8, color=colour, markerfacecolor=face, markeredgewidth=2)
        axes.set_yticks(range(len(rows)), [row.label for row in rows], color=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label)
        axes.set_title(title)
        return _svg(figure, title)


def session_lengths(policy: str, counts: Mapping[str, int], *, longest: int, most: int) -> Markup | None:
    """Number of sessions by their number of rounds, on axes that all policies share; None without sessions."""
    if not counts:
        return None
    with matplotlib.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(WIDTH_IN * 0.75, 2.3), layout="constrained")
        axes = figure.subplots()
        lengths = sorted(int(length) for length in counts)
        heights = [counts[str(length)] for length in lengths]
        bars = axes.bar(lengths, heights, width=0.8, color=BLUE)
        if longest <= 12:
            axes.bar_label(bars, color=MUTED, padding=2, fontsize=9)
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="rounds", xlim=(min(0.4, lengths[0] - 0.6), longest + 0.6))
        axes.set(ylabel="sessions", ylim=(0, most * 1.15))
        if longest <= 12:
            axes.set_xticks(range(min(1, lengths[0]), longest + 1))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_title(policy)
        return _svg(figure, f"session lengths of {policy}")


def actions(title: str, counts: Mapping[str, Mapping[str, int]]) -> Markup | None:
    """Share of every action, one stacked bar per policy; None without actions."""
    policies = [policy for policy, row in counts.items() if sum(row.values())]
    if not policies:
        return None
    names = ordered_actions(counts)
    with matplotlib.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(WIDTH_IN * 1.25, 1.25 + 0.42 * len(policies)), layout="constrained")
        axes = figure.subplots()
        left = [0.0] * len(policies)
        for name in names:
            shares = [counts[p].get(name, 0) / sum(counts[p].values()) for p in policies]
            bars = axes.barh(range(len(policies)), shares, 0.62, left=left, label=name)
            for bar in bars:
                bar.set(facecolor=ACTION_COLOURS.get(name, NEUTRAL), edgecolor=SURFACE, linewidth=1.5)
            left = [start + share for start, share in zip(left, shares, strict=True)]
        axes.set_yticks(range(len(policies)), policies, color=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        figure.legend(loc="outside upper left", ncols=len(names), handlelength=1, columnspacing=1.2)
        return _svg(figure, title)


def ordered_actions(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Every action that occurs, in the order of `ACTION_COLOURS`, unknown ones last."""
    present = {name for row in counts.values() for name in row}
    known = [name for name in ACTION_COLOURS if name in present]
    return [*known, *sorted(present - set(known))]


def _points(curve: Sequence[Mapping[str, float | None]], key: str) -> list[tuple[float, float]]:
    by_tokens = all(row.get("tokens") is not None for row in curve)
    pairs = [(row.get("tokens" if by_tokens else "step"), row.get(key)) for row in curve]
    return [(x, y) for x, y in pairs if x is not None and y is not None]


def _short(value: float, _position: int) -> str:
    """1200000 -> 1.2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _svg(figure: Figure, label: str) -> Markup:
    """The figure as inline SVG: colours from the page, ids of its own, no address of anything."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # the prologue names a DTD
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"font: ?([^;\"]*?px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    own = "p" + hashlib.sha256(text.encode()).hexdigest()[:8]  # several plots share a page, and equal ids would clash
    text = re.sub(r'(\sid="|url\(#|\shref="#)', rf"\g<1>{own}-", text)
    for name, colour in _STAND_INS.items():
        text = text.replace(colour, f"var(--{name})")
    width, height = (figure.get_size_inches() * 72).round(2)
    opening = (
        f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width: {width * _SCALE:.0f}px" '
        f'role="img" aria-label="{escape(label)}">'
    )
    return Markup(opening) + Markup(text[text.index(">") + 1 :])
