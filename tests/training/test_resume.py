"""A fine-tuning that is killed with SIGKILL and started again ends where an unbroken one ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmrec.data.dataset import Dataset
from tests.training import fine_tuning_child as child

_ROOT = Path(__file__).resolve().parents[2]
_TOLERANCE = 1e-6
"""Of losses, in nats per token: one process, one number type, so the same sums in the same order."""


@pytest.fixture
def zygote(films: Dataset) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(Path(child.__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=_ROOT,
        env=environment,
    )
    yield process
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=60)


def _start(zygote: subprocess.Popen[str], backbone: Path, output: Path, epochs: int) -> int:
    settings = {"backbone": backbone, "output": output, "examples": 32, "validation_examples": 8, "evaluations": 4}
    further = {
        "batch_size": 8,
        "epochs": epochs,
        "lora.dropout": 0.1,  # the random generators have to come back too
    }
    assert zygote.stdin is not None
    zygote.stdin.write(json.dumps([f"{key}={value}" for key, value in {**settings, **further}.items()]) + "\n")
    zygote.stdin.flush()
    return int(_line(zygote))


def _line(zygote: subprocess.Popen[str]) -> str:
    assert zygote.stdout is not None
    return zygote.stdout.readline().strip()


def _newest_checkpoint(folder: Path) -> int:
    states = folder.glob("checkpoints/*/checkpoint-*/trainer_state.json")
    return max((int(state.parent.name.rpartition("-")[2]) for state in states), default=0)


@pytest.mark.parametrize(("epochs", "killed_after"), [(1, 2), (2, 6)])
def test_killed_and_started_again(
    zygote: subprocess.Popen[str], mini_folder: Path, tmp_path: Path, epochs: int, killed_after: int
) -> None:
    """Four steps are an epoch; the second run is killed in the middle of one, while it writes a checkpoint."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _start(zygote, mini_folder, whole, epochs)
    assert _line(zygote) == "ended 0"
    process = _start(zygote, mini_folder, broken, epochs)
    deadline = time.monotonic() + 120
    while _newest_checkpoint(broken) < killed_after and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    assert _line(zygote) == f"ended {-signal.SIGKILL}"
    assert not (broken / "training.json").exists()
    assert not (broken / "adapter_model.safetensors").exists()
    (checkpoint,) = broken.glob(f"checkpoints/*/checkpoint-{killed_after}")
    shutil.copytree(checkpoint, half := checkpoint.with_name("checkpoint-7"), dirs_exist_ok=True)
    (half / "trainer_state.json").write_text("{", encoding="utf-8")
    _start(zygote, mini_folder, broken, epochs)
    assert _line(zygote) == "ended 0"
    wanted, found = (json.loads((one / "training.json").read_text(encoding="utf-8")) for one in (whole, broken))
    assert found["best"] == pytest.approx(wanted["best"], abs=_TOLERANCE)
    for one, other in zip(found["curve"], wanted["curve"], strict=True):
        assert one == pytest.approx(other, abs=_TOLERANCE)
    weights, others = (load_file(one / "adapter_model.safetensors") for one in (whole, broken))
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, atol=1e-6, rtol=1e-5)
