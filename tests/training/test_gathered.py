"""Two processes contrast the whole batch, and their gradients are those of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from llmrec.assets import asset
from llmrec.training.calrec.data import CalrecCollator
from llmrec.training.calrec.gathered import gathered
from llmrec.training.calrec.towers import run_towers
from llmrec.training.processes import n_processes
from tests.training.gathered_run import OBJECTIVE
from tests.training.tiny import PAD, rows, tiny_model


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file, root = tmp_path_factory.mktemp("two") / "found.pt", asset("tests")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(root / "training" / "gathered_run.py"), str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(root.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(file)


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_two_processes_give_the_gradients_of_one(micro_batch: int, of_two: Any) -> None:
    """gloo; at once, and with GradCache in each process: within 1e-5."""
    found = of_two[micro_batch]
    model = tiny_model()
    passed = run_towers(model, CalrecCollator(PAD)(rows(8)))
    assert passed.next_item is not None
    assert passed.vectors is not None
    losses = OBJECTIVE.combine(passed.next_item, OBJECTIVE.terms(passed.vectors))
    losses.total.backward()  # type: ignore[no-untyped-call]
    for name in ("target_target", "user_target"):  # the next-item loss is that of the own half
        assert found["losses"][name].item() == pytest.approx(losses.numbers()[name].item(), abs=1e-5)
    expected = {name: weight.grad for name, weight in model.named_parameters()}
    assert expected.keys() == found["gradients"].keys()
    for name, gradient in expected.items():
        assert gradient is not None
        assert (gradient - found["gradients"][name]).abs().max().item() < 1e-5, name


def test_one_process_gathers_nothing() -> None:
    rows_here = torch.randn(3, 2)
    assert n_processes() == 1
    assert gathered(rows_here) is rows_here
