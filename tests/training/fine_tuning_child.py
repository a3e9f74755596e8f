"""Forks processes that run `finetune/sft.py`, one per line on stdin; a test kills some of them.

    python tests/training/fine_tuning_child.py

Imports once, so that a child starts at once. A line holds the recipe's overrides as JSON; the child's process id is
printed, and when it ends, ``ended`` and how.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from typing import Any

from llmrec.assets import asset, load_file
from llmrec.training.callbacks import Progress

SCRIPT = load_file(asset("finetune/sft.py"), name="sft_of_child")
PAUSE_S = 0.05
"""Between two steps, so that there is time to kill."""


def _slower() -> None:
    step_end = Progress.on_step_end

    def slow(self: Progress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step_end(self, args, state, control, **kwargs)
        time.sleep(PAUSE_S)

    Progress.on_step_end = slow  # type: ignore[method-assign]


def main() -> None:
    for module in ("llmrec.training.grouped", "datasets", "torch.utils.tensorboard"):
        import_module(module)  # what a training imports on the way
    _slower()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            SCRIPT.main(asset("finetune/recommender.yaml"), json.loads(line))
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
