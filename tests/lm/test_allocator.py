"""Freed memory stays with the process, unless somebody says otherwise."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from llmrec.errors import ConfigError
from llmrec.lm.allocator import keep_freed_memory

_CHURN = """
import resource
import sys
import torch
from llmrec.lm.allocator import keep_freed_memory
from llmrec.lm.hardware import choose

choose(device="cpu", dtype="float32", purpose=sys.argv[1])
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for round in range(28):
    if round == 10:
        start = faults()  # the first rounds get the memory
    torch.ones(16, 1024, 1024)  # 64 MiB, written and freed
print(faults() - start, keep_freed_memory())
"""


def _churn(purpose: str = "training", **environment: str) -> tuple[int, bool]:
    """Page faults of 18 tensors of 64 MiB, 16,384 small pages each, and whether memory can be kept."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LLMREC_"))}
    done = subprocess.run(
        [sys.executable, "-c", _CHURN, purpose], capture_output=True, text=True, check=True, env=kept | environment
    )
    faults, said = done.stdout.split()
    return int(faults), said == "True"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this system's C library has no mallopt")
def test_a_freed_tensor_costs_no_page_faults_again() -> None:
    faults, done = _churn()
    assert done
    given_back, done = _churn(LLMREC_KEEP_MEMORY="0")
    assert not done
    assert 4 * faults < given_back
    assert 4 * faults < _churn("inference")[0]  # a server does not hold its peak for ever


def test_settings_of_the_environment_are_left_alone() -> None:
    assert not _churn(MALLOC_TRIM_THRESHOLD_="131072")[1]


def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMREC_KEEP_MEMORY", "yes")
    keep_freed_memory.cache_clear()
    with pytest.raises(ConfigError, match="LLMREC_KEEP_MEMORY must be 0 or 1, got 'yes'"):
        keep_freed_memory()
    keep_freed_memory.cache_clear()
