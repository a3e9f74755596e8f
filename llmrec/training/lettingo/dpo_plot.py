"""Curves of an alignment as one picture, beside the adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

PLOT = "curves.png"


def plot_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Log-likelihood of chosen and rejected profiles, margin and divergence from the reference, over steps.

    Args:
        rows: of `llmrec.training.lettingo.dpo_trainer.preference_curve`.
        path: PNG or SVG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for prefix, dashes in (("", "-"), ("validation_", "--")):
        own = [row for row in rows if f"{prefix}chosen" in row]
        steps = [row["step"] for row in own]
        suffix = " (held-out users)" if prefix else ""
        for axes, names in ((left, ("chosen", "rejected")), (right, ("margin", "kl"))):
            for place, name in enumerate(names):
                label = {"margin": "margin of log-ratios", "kl": "divergence from the reference"}.get(name, name)
                axes.plot(steps, [row[prefix + name] for row in own], dashes, color=f"C{place}", label=label + suffix)
    for axes, title in ((left, "log-likelihood of profiles (nats)"), (right, "nats")):
        axes.set(title=title, xlabel="step")
        axes.legend(fontsize=8)
    figure.savefig(path)
