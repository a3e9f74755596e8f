"""The small world, as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split
from llmrec.lm.protocol import LanguageModel
from llmrec.roles.mindset import UserConfig
from llmrec.simulate.journal import Journal
from llmrec.simulate.policies import Policy
from llmrec.simulate.runner import SimulationResult, simulate
from tests.simulate.world import Taster, make_world

World = tuple[Dataset, Split]


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()


class Run:
    """Simulates in a fresh journal."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self._count = 0

    async def __call__(
        self,
        policies: Sequence[Policy],
        *,
        lm: LanguageModel | None = None,
        n_users: int = 12,
        max_rounds: int = 8,
        config: UserConfig | None = None,
        seed: int = 0,
        run: str = "test",
        journal: str | None = None,
        slate_size: int = 5,
        concurrency: int = 128,
        progress: Callable[[int, int], None] | None = None,
    ) -> SimulationResult:
        self._count += 1
        dataset, split = self.world
        with Journal(self.folder / (journal or f"journal-{self._count}.db")) as book:
            return await simulate(
                dataset,
                split,
                lm or Taster(),
                policies=policies,
                n_users=n_users,
                max_rounds=max_rounds,
                slate_size=slate_size,
                seed=seed,
                run=run,
                journal=book,
                concurrency=concurrency,
                user_config=config,
                progress=progress,
            )


@pytest.fixture
def run(world: World, tmp_path: Path) -> Run:
    return Run(world, tmp_path)
