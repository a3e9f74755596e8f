"""Are the probabilities of a simulated user right? Fit on users that training never saw, measured on others.

A fine-tuned model may rank items well and still say 0.9 where 0.7 is true. Temperature scaling (Guo et al., ICML 2017)
multiplies its log-odds by one number; Platt scaling adds an offset. The correction is kept beside the adapter, where
`llmrec.roles.click_calibration` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError, StorageError
from llmrec.metrics.classification import click_metrics
from llmrec.roles.click_calibration import FILE, UNCORRECTED, Calibration, fit_calibration, inside
from llmrec.roles.opinion import log_odds

if TYPE_CHECKING:
    from llmrec.training.user.recipe import CalibrationKind

FloatArray = npt.NDArray[np.float64]
PLOT = "reliability.png"


class Bin(NamedTuple):
    """Probabilities between two bounds, and what happened."""

    low: float
    high: float
    n: int
    said: float
    """Mean probability; nan without decisions."""
    happened: float
    """Share that was taken; nan without decisions."""


def reliability(taken: Sequence[bool], probabilities: Sequence[float], *, bins: int = 10) -> list[Bin]:
    """Decisions in bins of equal width; a probability of 1 is in the last one.

    Args:
        taken: what happened, shape (n,).
        probabilities: what was said, in [0, 1], shape (n,).
        bins: how many.

    Raises:
        ConfigError: lengths differ, or a probability is outside [0, 1].
    """
    truth, given = np.asarray(taken, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if truth.shape != given.shape or not np.all((given >= 0) & (given <= 1)):
        raise ConfigError(
            f"reliability needs as many outcomes as probabilities in [0, 1], got {len(truth)}, {len(given)}"
        )
    place = np.minimum((given * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        said = np.bincount(place, weights=given, minlength=bins) / counts
        happened = np.bincount(place, weights=truth, minlength=bins) / counts
    return [Bin(i / bins, (i + 1) / bins, int(counts[i]), float(said[i]), float(happened[i])) for i in range(bins)]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance of what was said from what happened, bins weighted by their decisions (Naeini et al., 2015)."""
    total = sum(one.n for one in bins)
    return sum(one.n * abs(one.said - one.happened) for one in bins if one.n) / max(total, 1)


def brier_score(taken: Sequence[bool], probabilities: Sequence[float]) -> float:
    """Mean squared distance of probability and outcome; 0.25 for always saying one half."""
    return float(np.mean((np.asarray(probabilities, dtype=np.float64) - np.asarray(taken, dtype=np.float64)) ** 2))


def fit(kind: CalibrationKind, probabilities: Sequence[float], taken: Sequence[bool]) -> Calibration:
    """The correction under which these decisions are likeliest.

    Args:
        kind: none is no correction, temperature a scale, platt a scale and an offset.
        probabilities: the model's, shape (n,).
        taken: what happened, shape (n,).
    """
    if kind == "none" or not probabilities:
        return UNCORRECTED
    if kind == "platt":
        return fit_calibration(list(probabilities), list(taken))
    return Calibration(_temperature(probabilities, taken), 0.0)


def _temperature(probabilities: Sequence[float], taken: Sequence[bool]) -> float:
    """Scale of the log-odds with the lowest log loss, between 1/50 and 50."""
    from scipy.optimize import minimize_scalar

    odds = np.array([log_odds(inside(probability)) for probability in probabilities])
    sign = np.where(np.asarray(taken), 1.0, -1.0)

    def loss(log_scale: float) -> float:
        return float(np.logaddexp(0.0, -sign * np.exp(log_scale) * odds).mean())

    found = minimize_scalar(loss, bounds=(-np.log(50.0), np.log(50.0)), method="bounded")
    return float(np.exp(found.x))


class Decisions(NamedTuple):
    """Decisions that are known, shape (n,) each."""

    taken: list[bool]
    said: list[float]
    """The model's probability of taking."""
    popularity: list[int]
    """Training events of the item."""


def floors(fitted: Decisions, measured: Decisions) -> dict[str, list[float]]:
    """Probabilities for the measured decisions that need no model.

    constant: the share taken among the fitted ones. popularity: that share above and below the threshold that tells
    them apart best, each with one pseudo-decision of both kinds.
    """
    taken, popularity = np.asarray(fitted.taken), np.asarray(fitted.popularity)
    thresholds = np.unique(popularity)
    right = [int(((popularity >= threshold) == taken).sum()) for threshold in thresholds]
    threshold = thresholds[int(np.argmax(right))]
    shares = {above: _share(taken[(popularity >= threshold) == above]) for above in (True, False)}
    return {
        "constant": [_share(taken)] * len(measured.taken),
        "popularity": [shares[bool(count >= threshold)] for count in measured.popularity],
    }


def _share(taken: npt.NDArray[Any]) -> float:
    return float((taken.sum() + 1) / (len(taken) + 2))


def table(measured: Decisions, columns: Mapping[str, Sequence[float]], *, bins: int, seed: int) -> list[dict[str, Any]]:
    """One row per predictor: accuracy, log loss (nats), area under the ROC curve with intervals; Brier score; ECE."""
    rows = []
    for name, probabilities in columns.items():
        metrics = click_metrics(measured.taken, probabilities, seed=seed)
        rows.append(
            {
                "predictor": name,
                "n": metrics.n,
                "accuracy": metrics.accuracy._asdict(),
                "log_loss": metrics.log_loss._asdict(),
                "auc": metrics.auc._asdict(),
                "brier": brier_score(measured.taken, probabilities),
                "ece": expected_calibration_error(reliability(measured.taken, probabilities, bins=bins)),
            }
        )
    return rows


def write_calibration(folder: Path, calibration: Calibration, facts: dict[str, Any]) -> None:
    """Keep the correction beside the adapter, with how it was found.

    Raises:
        StorageError: the folder cannot be written.
    """
    try:
        (folder / FILE).write_text(json.dumps({**calibration._asdict(), **facts}, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{str(folder / FILE)!r} cannot be written: {error.strerror or error}") from error


def draw_reliability(path: Path, curves: dict[str, list[Bin]]) -> None:
    """The reliability plot as PNG: share taken against probability, and below it how many decisions each bin holds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    upper.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="right")
    width = 0.8 / max(len(curves), 1)
    for place, (name, bins) in enumerate(curves.items()):
        filled = [one for one in bins if one.n]
        upper.plot([one.said for one in filled], [one.happened for one in filled], marker="o", markersize=4, label=name)
        centres = [one.low + (one.high - one.low) * (0.1 + width * (place + 0.5)) for one in bins]
        lower.bar(centres, [one.n for one in bins], width=width * (bins[0].high - bins[0].low), label=name)
        for one in filled:
            upper.annotate(str(one.n), (one.said, one.happened), fontsize=7, xytext=(4, -8), textcoords="offset points")
    upper.set(ylabel="share taken", xlim=(0, 1), ylim=(0, 1))
    upper.legend(loc="upper left", frameon=False, fontsize=8)
    lower.set(xlabel="probability said", ylabel="decisions")
    figure.savefig(path, dpi=120)
