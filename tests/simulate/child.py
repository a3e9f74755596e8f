"""Forks processes that simulate, one per line on stdin; a test kills them.

    python tests/simulate/child.py JOURNAL

Imports once, so that a child starts at once. For every line a child is forked and its process id printed; when it ends,
``ended`` and how.
"""

from __future__ import annotations

import asyncio
import os
import sys

from llmrec.roles.loading import load_agent
from llmrec.simulate.journal import Journal
from llmrec.simulate.policies import Policy, RandomPolicy
from llmrec.simulate.runner import simulate
from tests.simulate.world import FixedPolicy, Taster, make_world

N_USERS, MAX_ROUNDS, SLATE_SIZE = 40, 2, 3
WORLD = make_world()
load_agent("user")  # imports langgraph


def work(journal: str) -> None:
    dataset, split = WORLD
    policies: list[Policy] = [RandomPolicy(len(dataset.catalogue)), FixedPolicy("western", dataset, ("Western",))]
    with Journal(journal) as book:
        asyncio.run(
            simulate(
                dataset,
                split,
                Taster(pause_s=0.02),
                policies=policies,
                n_users=N_USERS,
                max_rounds=MAX_ROUNDS,
                slate_size=SLATE_SIZE,
                seed=3,
                run="killed",
                journal=book,
                concurrency=4,
            )
        )


def main() -> None:
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            work(sys.argv[1])
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
