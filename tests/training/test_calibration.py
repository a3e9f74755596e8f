"""Calibration of a user's decisions: by hand, and against scikit-learn."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from llmrec.errors import ConfigError
from llmrec.roles.click_calibration import UNCORRECTED, read_calibration
from llmrec.training.user.calibration import (
    Decisions,
    brier_score,
    draw_reliability,
    expected_calibration_error,
    fit,
    floors,
    reliability,
    table,
    write_calibration,
)


def test_golden_bins_and_expected_calibration_error() -> None:
    """Two bins by hand: below one half 0.1, 0.3 (nothing taken), above it 0.6, 0.8, 1.0 (two of three taken).

    Means 0.2 against 0, and 0.8 against 2/3: (2 * 0.2 + 3 * (0.8 - 2/3)) / 5 = 0.16.
    """
    bins = reliability([False, False, True, False, True], [0.1, 0.3, 0.6, 0.8, 1.0], bins=2)
    assert [one.n for one in bins] == [2, 3]
    assert bins[0].said == pytest.approx(0.2)
    assert bins[1].happened == pytest.approx(2 / 3)
    assert expected_calibration_error(bins) == pytest.approx(0.16)


def test_empty_bins_count_for_nothing() -> None:
    bins = reliability([True, False], [0.5, 0.5], bins=10)
    assert [one.n for one in bins] == [0, 0, 0, 0, 0, 2, 0, 0, 0, 0]
    assert expected_calibration_error(bins) == 0.0


def test_golden_brier_score() -> None:
    """((1 - 0.8)^2 + 0.4^2) / 2 = 0.1; one half gives a quarter whatever happens."""
    assert brier_score([True, False], [0.8, 0.4]) == pytest.approx(0.1)
    assert brier_score([True, False, True], [0.5] * 3) == 0.25
    assert brier_score([True, False], [0.8, 0.4]) == pytest.approx(brier_score_loss([1, 0], [0.8, 0.4]))


def _world(n: int, scale: float, offset: float) -> tuple[list[float], list[bool]]:
    """Someone whose log-odds are `scale` times too large and shifted."""
    draws = np.random.default_rng(0)
    true = draws.normal(size=n)
    taken = draws.random(n) < 1 / (1 + np.exp(-true))
    said = 1 / (1 + np.exp(-(true - offset) / scale))
    return said.tolist(), taken.tolist()


def test_platt_and_temperature_find_what_is_wrong() -> None:
    said, taken = _world(20_000, 0.4, 0.5)  # too sure, and shifted
    platt = fit("platt", said, taken)
    assert platt.scale == pytest.approx(0.4, abs=0.03)
    assert platt.offset == pytest.approx(0.5, abs=0.05)
    said, taken = _world(20_000, 0.4, 0.0)
    temperature = fit("temperature", said, taken)
    assert temperature.offset == 0.0
    assert temperature.scale == pytest.approx(0.4, abs=0.03)
    right = [temperature(one) for one in said]
    assert log_loss(taken, right) < log_loss(taken, said) - 0.1
    bins = [expected_calibration_error(reliability(taken, one)) for one in (right, said)]
    assert bins[0] < 0.02 < 0.1 < bins[1]


def test_no_correction() -> None:
    assert fit("none", [0.2, 0.9], [True, False]) == UNCORRECTED


def test_golden_floors() -> None:
    """Fitted: items with 5 or more events were taken 2 of 2, others 0 of 2; with one pseudo-decision of each kind."""
    fitted = Decisions([True, True, False, False], [0.5] * 4, [9, 5, 4, 0])
    measured = Decisions([True, False, False], [0.5] * 3, [5, 4, 100])
    found = floors(fitted, measured)
    assert found["constant"] == [0.5, 0.5, 0.5]
    assert found["popularity"] == [0.75, 0.25, 0.75]
    rows = table(measured, found, bins=4, seed=0)
    assert [row["predictor"] for row in rows] == ["constant", "popularity"]
    assert rows[0]["log_loss"]["value"] == pytest.approx(math.log(2))
    assert rows[1]["accuracy"]["value"] == pytest.approx(2 / 3)


def test_the_correction_is_kept_beside_the_adapter(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) == UNCORRECTED
    calibration = fit("platt", *_world(200, 0.5, 0.2))
    write_calibration(tmp_path, calibration, {"kind": "platt", "n_fit": 200})
    assert read_calibration(tmp_path) == calibration
    assert json.loads((tmp_path / "calibration.json").read_text(encoding="utf-8"))["n_fit"] == 200


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    said, taken = _world(500, 0.5, 0.0)
    draw_reliability(tmp_path / "plot.png", {"model": reliability(taken, said), "calibrated": reliability(taken, said)})
    assert (tmp_path / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("said", [[0.5], [0.5, 1.5], [0.5, float("nan")]])
def test_what_is_no_probability(said: list[float]) -> None:
    with pytest.raises(ConfigError, match="probabilities in"):
        reliability([True, False], said)
