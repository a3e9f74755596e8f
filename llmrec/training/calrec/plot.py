"""Curves of a CALRec training as one picture, beside the adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

PLOT = "curves.png"
_LOSSES = {"next_item": "next item", "target_target": "target-target", "user_target": "user-target"}


def plot_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """The three losses, and NDCG@10 where it was measured, over steps.

    Args:
        rows: of `llmrec.training.calrec.trainer.curve`.
        path: PNG or SVG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, (name, label) in enumerate(_LOSSES.items()):
        for prefix, dashes, suffix in (("", "-", ""), ("validation_", "--", " (validation)")):
            own = [row for row in rows if prefix + name in row]
            if own:
                values = [row[prefix + name] for row in own]
                left.plot([row["step"] for row in own], values, dashes, color=f"C{place}", label=label + suffix)
    ranked = [row for row in rows if "validation_ndcg10" in row]
    right.plot([row["step"] for row in ranked], [row["validation_ndcg10"] for row in ranked], "o--", label="NDCG@10")
    for axes, title in ((left, "losses (nats)"), (right, "validation ranking")):
        axes.set(title=title, xlabel="step")
        axes.legend(fontsize=8)
    figure.savefig(path)
