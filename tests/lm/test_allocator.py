"""Freed memory stays with the process, unless somebody says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llmrec.errors import ConfigError
from llmrec.lm.allocator import keep_freed_memory

_CHURN = """
import resource
import torch
from llmrec.lm.allocator import keep_freed_memory
from llmrec.lm.hardware import choose

choose(device="cpu", dtype="float32")
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for round in range(28):
    if round == 10:
        start = faults()  # the first rounds get the memory
    torch.ones(16, 1024, 1024)  # 64 MiB, written and freed
print(keep_freed_memory(), faults() - start)
"""


def _churn(**environment: str) -> tuple[bool, int]:
    """Whether memory was kept, and page faults of 18 tensors of 64 MiB: 16,384 pages each."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LLMREC_"))}
    done = subprocess.run(
        [sys.executable, "-c", _CHURN], capture_output=True, text=True, check=True, env=kept | environment
    )
    said, faults = done.stdout.split()
    return said == "True", int(faults)


def test_a_freed_tensor_costs_no_page_faults_again() -> None:
    done, faults = _churn()
    if not done:
        pytest.skip("this system's C library has no mallopt")
    assert faults < 16_384
    done, without = _churn(LLMREC_KEEP_MEMORY="0")
    assert not done
    assert without > 10 * faults


def test_settings_of_the_environment_are_left_alone() -> None:
    assert not _churn(MALLOC_TRIM_THRESHOLD_="131072")[0]


def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMREC_KEEP_MEMORY", "yes")
    keep_freed_memory.cache_clear()
    with pytest.raises(ConfigError, match="LLMREC_KEEP_MEMORY must be 0 or 1, got 'yes'"):
        keep_freed_memory()
    keep_freed_memory.cache_clear()
