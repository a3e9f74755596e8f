"""Processes that train together: which one this is, how many there are, and how they part."""

from __future__ import annotations

import atexit
import os
import sys


def place_among_processes() -> tuple[int, int]:
    """Number of this process, and how many there are; (0, 1) without a process group."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def n_processes() -> int:
    """Processes that train together; 1 without a process group."""
    return place_among_processes()[1]


def leave_processes() -> None:
    """End a process that trained with others, with exit status 0; where there are none, nothing happens.

    What was registered with `atexit` runs and the streams are flushed, but Python is not torn down. Gloo's threads give
    back the tensors of the last exchange and need the interpreter for it: one that is torn down by then aborts
    ("terminate called without an active exception"), and the launcher reports a failure of a run that went well. Ending
    the group does not prevent it, since data-parallel models keep it and its threads alive.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return
    distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
