"""Number type and compilation, chosen by measuring this machine and never assumed.

Machines with bf16 units multiply bf16 several times faster than fp32; machines without run it four times slower. So the
choice is a matmul probe of half a second, and callers print `Hardware.note`.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from llmrec.errors import ConfigError
from llmrec.lm.allocator import keep_freed_memory

Purpose = Literal["inference", "training"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SHORT_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_SIZE = 512  # rows of the probe's square matrices
_MARGIN = 1.2  # bf16 must win by this factor: a noisy probe must not flip the number type between two runs


@dataclass(frozen=True)
class Hardware:
    """What to run on, and why."""

    device: str
    dtype: torch.dtype
    compile: bool
    note: str
    """One line for people: what was chosen and what was measured."""


@dataclass(frozen=True)
class MatmulSpeed:
    """Result of the probe, in GFLOP/s."""

    fp32: float
    bf16: float


def _gflops(dtype: torch.dtype, device: str, seconds: float) -> float:
    a = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
    b = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
    torch.mm(a, b)  # the first call chooses kernels
    repeats, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(4):
            torch.mm(a, b)
        if device != "cpu":
            torch.cuda.synchronize(device)
        repeats += 4
    return 2 * _SIZE**3 * repeats / elapsed / 1e9


@lru_cache(maxsize=4)
def matmul_speed(device: str = "cpu", seconds: float = 0.5) -> MatmulSpeed:
    """Measure square matrix products in fp32 and bf16, half of `seconds` each (once per process and device)."""
    return MatmulSpeed(
        fp32=_gflops(torch.float32, device, seconds / 2), bf16=_gflops(torch.bfloat16, device, seconds / 2)
    )


def compile_obstacle() -> str | None:
    """Why `torch.compile` cannot work here, or None when nothing speaks against it."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or shutil.which(compiler) is None:
        return "no C++ compiler found"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "no Python headers found"
    return None


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"no CUDA device is available, got device {wanted!r}; use 'cpu' or 'auto'")
    try:
        torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(f"unknown device, got {wanted!r}; use 'auto', 'cpu' or 'cuda'") from error
    return wanted


def parse_dtype(name: str) -> torch.dtype:
    """Number type by name (float32 or fp32, bfloat16 or bf16, float16 or fp16).

    Raises:
        ConfigError: another name.
    """
    full = _SHORT_NAMES.get(name, name)
    if full not in _DTYPES:
        raise ConfigError(f"unknown number type, got {name!r}; use one of {', '.join([*_DTYPES, *_SHORT_NAMES])}")
    return _DTYPES[full]


def _dtype(wanted: str, device: str) -> tuple[torch.dtype, str]:
    if from_env := os.environ.get("LLMREC_DTYPE"):
        return parse_dtype(from_env), "set by LLMREC_DTYPE"
    if wanted != "auto":
        return parse_dtype(wanted), "as asked"
    speed = matmul_speed(device)
    faster = speed.bf16 > _MARGIN * speed.fp32
    measured = f"matmul {speed.fp32:.0f} GFLOP/s in fp32, {speed.bf16:.0f} in bf16"
    return (torch.bfloat16 if faster else torch.float32), measured


def _compile(purpose: Purpose) -> tuple[bool, str]:
    if from_env := os.environ.get("LLMREC_COMPILE"):
        if from_env not in ("0", "1"):
            raise ConfigError(f"LLMREC_COMPILE must be 0 or 1, got {from_env!r}")
        return from_env == "1", "set by LLMREC_COMPILE"
    if purpose == "inference":
        return False, "shapes change with every batch"
    obstacle = compile_obstacle()
    return obstacle is None, obstacle or "C++ compiler found"


def choose(*, device: str = "auto", dtype: str = "auto", purpose: Purpose = "inference") -> Hardware:
    """Choose device, number type and compilation for this machine.

    The environment wins: LLMREC_DTYPE (a number type's name) and LLMREC_COMPILE (0 or 1). For training on a CPU the
    process is made to keep the memory that tensors free (`llmrec.lm.allocator`).

    Args:
        device: "auto" (CUDA when there is one), "cpu", "cuda" or "cuda:1".
        dtype: "auto" (measured), or a number type's name.
        purpose: inference never compiles unless told to, as each batch has another shape.

    Raises:
        ConfigError: an unknown or unavailable device or number type.
    """
    where = _device(device)
    if where == "cpu" and purpose == "training":
        keep_freed_memory()
    number_type, why_dtype = _dtype(dtype, where)
    compiled, why_compile = _compile(purpose)
    name = str(number_type).removeprefix("torch.")
    note = f"{where}, {name} ({why_dtype}), torch.compile {'on' if compiled else 'off'} ({why_compile})"
    return Hardware(device=where, dtype=number_type, compile=compiled, note=note)
