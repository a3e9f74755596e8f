"""Two processes that share every batch learn what one process learns."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmrec.assets import asset
from llmrec.assets import load_file as load_script
from llmrec.data.dataset import Dataset
from llmrec.data.spec import load
from llmrec.errors import ConfigError
from llmrec.training.trainer_settings import batch_share

_RECIPE = asset("finetune/recommender.yaml")
_TOLERANCE = 1e-4
"""Of losses, relative: two halves of a batch are summed in another order."""


def _overrides(backbone: Path, output: Path) -> list[str]:
    settings = {"backbone": backbone, "output": output, "examples": 32, "validation_examples": 8}
    return [f"{key}={value}" for key, value in {**settings, "batch_size": 8, "evaluations": 1}.items()]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_two_processes_on_the_cpu_take_the_same_steps(
    films: Dataset, mini_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`accelerate launch` with gloo; the very command of the script's docstring."""
    load("films", seed=0)  # into the cache that all read
    single, double = tmp_path / "single", tmp_path / "double"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(asset("finetune/accelerate"))]
    launcher[-1] += "/ddp.yaml"
    options = ["--num_processes", "2", "--main_process_port", str(_free_port())]
    sets = [part for one in _overrides(mini_folder, double) for part in ("--set", one)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launcher, *options, str(asset("finetune/sft.py")), str(_RECIPE), *sets],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    script = load_script(asset("finetune/sft.py"), name="sft_under_test")
    wanted = script.main(_RECIPE, _overrides(mini_folder, single))
    found = json.loads((double / "training.json").read_text(encoding="utf-8"))
    losses = [[row["loss"] for row in record["curve"] if "loss" in row] for record in (wanted, found)]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=_TOLERANCE)
    assert found["n_train"] == wanted["n_train"]
    weights, others = (load_file(one / "adapter_model.safetensors") for one in (single, double))
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, atol=1e-4, rtol=1e-3)


def test_golden_share_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert batch_share(16) == 16
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert batch_share(16) == 4
    with pytest.raises(ConfigError, match=r"multiple of the number of processes \(4\), got 6"):
        batch_share(6)
