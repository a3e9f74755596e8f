"""How processes that trained together end."""

from __future__ import annotations

import subprocess
import sys

from llmrec.training.processes import leave_processes, place_among_processes

_ENDING = """
import atexit
from torch import distributed
from llmrec.training.processes import leave_processes, place_among_processes

class Last:
    def __del__(self):
        print("torn down", flush=True)

last = Last()
atexit.register(print, "at exit")
if {grouped}:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    assert place_among_processes() == (0, 1)
leave_processes()
print("went on")
"""


def _ended(*, grouped: bool) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _ENDING.format(grouped=grouped)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_process_of_several_ends_before_python_is_torn_down() -> None:
    """Threads of gloo that need the interpreter abort the process once it is torn down."""
    done = _ended(grouped=True)
    assert (done.returncode, done.stdout) == (0, "at exit\n"), done.stderr


def test_a_process_alone_goes_on() -> None:
    assert place_among_processes() == (0, 1)
    leave_processes()
    done = _ended(grouped=False)
    assert (done.returncode, done.stdout) == (0, "went on\nat exit\ntorn down\n"), done.stderr
