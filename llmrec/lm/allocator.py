"""The C library keeps the memory that tensors free.

By default glibc gives blocks above 32 MiB back to the kernel at once and gets fresh, zeroed pages for the next tensor:
in a training step on a CPU whose logits are that large, these page faults take as long as the arithmetic
(`eval/bench_training.py`). `keep_freed_memory` raises the two thresholds that decide it (mallopt(3): M_MMAP_THRESHOLD,
M_TRIM_THRESHOLD). The price is memory that is held and not used: a process may keep as much as its peak. So it is done
for training, whose steps ask for the same memory again and again, and not for a server.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

from llmrec.errors import ConfigError

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h
_KEPT = 1 << 30  # bytes
_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Raise both thresholds to 1 GiB in this process, once and for good.

    Returns:
        Whether it was done: not on a system without mallopt, nor where the environment has settings of its own
        (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_, GLIBC_TUNABLES) or says LLMREC_KEEP_MEMORY=0.

    Raises:
        ConfigError: LLMREC_KEEP_MEMORY is neither 0 nor 1.
    """
    wanted = os.environ.get("LLMREC_KEEP_MEMORY", "1")
    if wanted not in ("0", "1"):
        raise ConfigError(f"LLMREC_KEEP_MEMORY must be 0 or 1, got {wanted!r}")
    if wanted == "0" or any(name in os.environ for name in _VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    on_the_heap = mallopt(_MMAP_THRESHOLD, _KEPT) or mallopt(_MMAP_MAX, 0)  # glibc before 2.35 takes 32 MiB at most
    return bool(on_the_heap) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
