"""Click probabilities put right: by hand, where the correction comes from, and who wins."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from llmrec.errors import ConfigError
from llmrec.roles.click_calibration import FILE, UNCORRECTED, Calibration, fit_calibration, read_calibration
from llmrec.roles.loading import load_agent
from llmrec.roles.mindset import UserConfig
from llmrec.roles.opinion import sigmoid


def test_golden_correction() -> None:
    """Odds 2 to 1, squared: 4 to 1; halved: 2 to 1 again."""
    assert Calibration(2.0, -math.log(2))(2 / 3) == pytest.approx(2 / 3)
    assert Calibration(0.0, math.log(3))(0.01) == pytest.approx(0.75)
    assert UNCORRECTED(0.3) == 0.3


def test_certain_models_and_failures_survive() -> None:
    assert 0 < Calibration(5.0, 0.0)(0.0) < Calibration(5.0, 0.0)(1.0) < 1
    assert math.isnan(Calibration(2.0, 1.0)(math.nan))


def test_calibration_undoes_a_bias_and_a_stretch() -> None:
    """The model's log-odds are 3 + 4 times the right ones; the fit finds the line back: scale 1/4, offset -3/4."""
    draws = np.random.default_rng(0)
    right = draws.normal(0.0, 1.5, 4000)
    taken = draws.random(4000) < 1 / (1 + np.exp(-right))
    given = [sigmoid(float(3 + 4 * x)) for x in np.clip(right, -2.5, 2.5)]
    fitted = fit_calibration(given, list(taken))
    assert fitted.scale == pytest.approx(0.25, abs=0.03)
    assert fitted.offset == pytest.approx(-0.75, abs=0.15)


@pytest.mark.parametrize("clicks", [[0.1, 0.2, 0.8, 0.9], [0.9] * 4])
def test_a_useless_or_inverted_model_is_not_turned_around(clicks: list[float]) -> None:
    fitted = fit_calibration(clicks, [True, True, False, False])
    assert fitted.scale == pytest.approx(0.0, abs=1e-6)
    assert fitted(0.3) == pytest.approx(0.5)


def test_separable_decisions_stay_finite() -> None:
    fitted = fit_calibration([0.9, 0.8, 0.2, 0.1], [True, True, False, False])
    assert 0 < fitted.scale < 10


def test_the_adapters_correction_is_used_unless_the_settings_name_one(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"scale": 0.5, "offset": -0.25}), encoding="utf-8")
    shipped: UserConfig = load_agent("user").config
    assert shipped.calibration == UNCORRECTED
    assert shipped.calibrated_for(tmp_path).calibration == (0.5, -0.25)
    assert shipped.calibrated_for(None) == shipped.calibrated_for(tmp_path / "elsewhere") == shipped
    for chosen in ({"click_scale": 1.0}, {"click_offset": 2.0}):
        config = UserConfig.model_validate(chosen)
        assert config.calibrated_for(tmp_path) == config


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) == UNCORRECTED
    (tmp_path / FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="train the adapter again"):
        read_calibration(tmp_path)
    with pytest.raises(ConfigError, match=FILE):
        UserConfig().calibrated_for(tmp_path)
