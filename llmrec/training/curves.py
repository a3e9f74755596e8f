"""Learning curves as one picture, beside what was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

PLOT = "curves.png"
LOSS: Mapping[str, Mapping[str, str]] = {"loss (nats per token with loss)": {"loss": "loss"}}
"""Panels of a training that watches its loss alone."""


def plot_curves(
    rows: Sequence[Mapping[str, float]], path: Path, panels: Mapping[str, Mapping[str, str]] = LOSS
) -> None:
    """One panel beside the other; solid lines are of training, dashed ones of users that it does not see.

    Args:
        rows: of a curve: step, and numbers by name; those of held-out users begin with ``validation_``.
        path: PNG or SVG file to write.
        panels: title -> name of a number -> its label.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(panels), 3.4), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for place, (name, label) in enumerate(names.items()):
            for prefix, style, suffix in (("", "-", ""), ("validation_", "o--", " (held-out users)")):
                own = [row for row in rows if prefix + name in row]
                if own:
                    steps, values = [row["step"] for row in own], [row[prefix + name] for row in own]
                    axes.plot(steps, values, style, markersize=3, color=f"C{place}", label=label + suffix)
        axes.set(title=title, xlabel="step")
        if axes.lines:
            axes.legend(fontsize=8)
    figure.savefig(path)
