"""The choice of device, number type and compilation."""

from __future__ import annotations

import pytest
import torch

from llmrec.errors import ConfigError
from llmrec.lm import hardware
from llmrec.lm.hardware import MatmulSpeed, choose


@pytest.fixture(autouse=True)
def _no_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMREC_DTYPE", raising=False)
    monkeypatch.delenv("LLMREC_COMPILE", raising=False)


@pytest.mark.parametrize(("bf16", "expected"), [(400.0, torch.bfloat16), (105.0, torch.float32), (47.0, torch.float32)])
def test_bf16_is_taken_only_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, bf16: float, expected: torch.dtype
) -> None:
    monkeypatch.setattr(hardware, "matmul_speed", lambda device: MatmulSpeed(fp32=100.0, bf16=bf16))
    choice = choose(device="cpu")
    assert choice.dtype == expected
    assert "100 GFLOP/s in fp32" in choice.note
    assert not choice.compile


def test_the_probe_measures_both_types() -> None:
    speed = hardware.matmul_speed("cpu", seconds=0.02)
    assert speed.fp32 > 0.01
    assert speed.bf16 > 0.01


def test_a_missing_compiler_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    choice = choose(device="cpu", dtype="fp32", purpose="training")
    assert not choice.compile
    assert "no C++ compiler found" in choice.note


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMREC_DTYPE", "bf16")
    monkeypatch.setenv("LLMREC_COMPILE", "1")
    choice = choose(device="cpu", dtype="float32")
    assert (choice.dtype, choice.compile) == (torch.bfloat16, True)
    assert "LLMREC_DTYPE" in choice.note
    monkeypatch.setenv("LLMREC_COMPILE", "yes")
    with pytest.raises(ConfigError, match="'yes'"):
        choose(device="cpu")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="int7"):
        choose(device="cpu", dtype="int7")
    with pytest.raises(ConfigError, match="abacus"):
        choose(device="abacus", dtype="fp32")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA"):
            choose(device="cuda", dtype="fp32")
