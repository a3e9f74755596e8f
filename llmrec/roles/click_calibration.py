"""Putting a simulated user's click probabilities right: a line over the model's log-odds, kept beside its adapter.

A model that nobody tuned says yes (or no) far too often and is too sure of it; a tuned one is closer, and still not
right. `calibration.json` in an adapter's folder holds what `finetune/user.py` found on users that training never saw.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmrec.errors import ConfigError
from llmrec.roles.opinion import log_odds, sigmoid

FILE = "calibration.json"
_LOWEST = 1e-6


class Calibration(NamedTuple):
    """Corrected log-odds are ``scale * log-odds + offset``."""

    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, click: float) -> float:
        """The corrected click probability, at least a millionth away from 0 and 1; nan stays nan."""
        if self == UNCORRECTED or math.isnan(click):
            return click
        return inside(sigmoid(self.scale * log_odds(inside(click)) + self.offset))


UNCORRECTED = Calibration()
"""The model's log-odds as they are."""


def read_calibration(folder: Path) -> Calibration:
    """The correction beside an adapter; none changes nothing.

    Raises:
        ConfigError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return UNCORRECTED
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Calibration(float(values["scale"]), float(values["offset"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read ({error}); delete it or train the adapter again") from error


def fit_calibration(clicks: Sequence[float], taken: Sequence[bool]) -> Calibration:
    """Logistic regression of what really happened on the model's log-odds (Platt scaling), by Newton's method.

    Args:
        clicks: the model's click probabilities, uncorrected, shape (n,).
        taken: what really happened, shape (n,).

    A weak pull (one pseudo-observation of each) keeps separable cases finite. A model that is worse than chance gets
    scale 0: its opinion says nothing, and it is not turned around.
    """
    x = np.array([log_odds(inside(click)) for click in clicks])
    n_taken = sum(taken)
    # Platt's targets: (n + 1) / (n + 2) instead of 1, and 1 / (n + 2) instead of 0.
    y = np.where(np.array(taken), (n_taken + 1) / (n_taken + 2), 1 / (len(taken) - n_taken + 2))
    spread = float(x.std()) or 1.0
    centre = float(x.mean())
    z = (x - centre) / spread
    weights = np.zeros(2)
    features = np.stack([z, np.ones_like(z)], axis=1)  # (n, 2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-features @ weights))
        hessian = features.T @ (features * (p * (1 - p))[:, None]) + 1e-3 * np.eye(2)
        step = np.linalg.solve(hessian, features.T @ (y - p) - 1e-3 * weights)
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] <= 0:
        share = float(y.mean())
        return Calibration(0.0, log_odds(share))
    scale = float(weights[0]) / spread
    return Calibration(scale, float(weights[1]) - scale * centre)


def inside(probability: float) -> float:
    """At least a millionth away from 0 and 1, so that it has log-odds."""
    return min(max(probability, _LOWEST), 1.0 - _LOWEST)
