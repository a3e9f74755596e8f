"""Many sessions at once: every session is a task, the language model batches what they ask for.

Sessions that the journal has already are skipped, so the same call resumes a killed run. No draw depends on the order
in which sessions run.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split
from llmrec.errors import ConfigError
from llmrec.lm.protocol import LanguageModel
from llmrec.roles.loading import load_agent
from llmrec.roles.mindset import UserConfig
from llmrec.roles.persona import taste_index
from llmrec.roles.simulated_user import Player
from llmrec.seeding import rng
from llmrec.simulate.journal import Journal
from llmrec.simulate.policies import Policy
from llmrec.simulate.session import Session, Stage, play

Progress = Callable[[int, int], None]
"""(finished sessions, all sessions)."""


@dataclass(frozen=True)
class SimulationResult:
    """All sessions of a run, those of earlier starts included."""

    run: str
    sessions: tuple[Session, ...]
    """Ordered by policy and user."""
    settings: Mapping[str, Any]
    n_resumed: int
    """Sessions that the journal had already."""


async def simulate(
    dataset: Dataset,
    split: Split,
    lm: LanguageModel,
    *,
    policies: Sequence[Policy],
    n_users: int,
    max_rounds: int,
    slate_size: int,
    seed: int,
    journal: Journal,
    run: str | None = None,
    concurrency: int = 128,
    user_config: UserConfig | None = None,
    progress: Progress | None = None,
) -> SimulationResult:
    """Play one session of every policy with each of `n_users` drawn users.

    Args:
        split: personas and histories come from its training part.
        lm: plays the users, by its adapter `UserConfig.adapter`.
        policies: with different names.
        n_users: users are drawn without replacement from the evaluated users of the split.
        max_rounds: a session that gets this far is cut.
        run: name of the run; default made of the settings, so that the same call resumes it.
        concurrency: sessions under way at once.
        user_config: constants of the simulated user; default those of agents/user/agent.yaml.
        progress: called after every session.

    Raises:
        ConfigError: a setting is out of range, or the run exists with other settings.
    """
    agent = load_agent("user")
    config: UserConfig = user_config or agent.config
    users = draw_users(split, n_users, seed=seed)
    _check(policies, max_rounds, slate_size, concurrency, lm, config)
    settings = run_settings(
        dataset,
        split,
        lm,
        policies,
        n_users=n_users,
        max_rounds=max_rounds,
        slate_size=slate_size,
        seed=seed,
        config=config,
    )
    run = run or f"{dataset.name}-{settings['hash']}"
    done = journal.open_run(run, settings)
    player = Player(lm, taste_index(dataset, split), config, seed)
    stage = Stage(player, agent.build(player), max_rounds, slate_size)
    gate = asyncio.Semaphore(concurrency)
    todo = [(policy, user) for user in users for policy in policies if (user, policy.name) not in done]
    finished = n_total = len(users) * len(policies)
    finished -= len(todo)

    async def one(policy: Policy, user: int) -> None:
        nonlocal finished
        async with gate:
            session = await play(stage, policy, user)
        journal.add(run, session)
        finished += 1
        if progress is not None:
            progress(finished, n_total)

    try:
        async with asyncio.TaskGroup() as tasks:
            for policy, user in todo:
                tasks.create_task(one(policy, user))
    except (
        ExceptionGroup
    ) as group:  # the first cause is what the user must repair; finished sessions are in the journal
        raise group.exceptions[0] from group
    return SimulationResult(run, tuple(journal.sessions(run)), settings, n_total - len(todo))


def draw_users(split: Split, n_users: int, *, seed: int) -> list[int]:
    """Users drawn without replacement from the evaluated users of a split, in ascending order.

    Raises:
        ConfigError: there are not so many.
    """
    if not 1 <= n_users <= len(split.users):
        raise ConfigError(f"the number of users must be between 1 and {len(split.users)}, got {n_users!r}")
    drawn = rng(seed, "population").choice(np.asarray(split.users), size=n_users, replace=False)
    return sorted(int(user) for user in drawn)


def run_settings(
    dataset: Dataset,
    split: Split,
    lm: LanguageModel,
    policies: Sequence[Policy],
    *,
    n_users: int,
    max_rounds: int,
    slate_size: int,
    seed: int,
    config: UserConfig,
) -> dict[str, Any]:
    """What decides the content of a run, as plain JSON values with a hash over them."""
    settings: dict[str, Any] = {
        "dataset": dataset.name,
        "dataset_hash": dataset.content_hash,
        "split": split.protocol,
        "model": lm.name,
        "policies": sorted(policy.name for policy in policies),
        "policy_settings": {policy.name: dict(policy.settings) for policy in policies},
        "users": n_users,
        "max_rounds": max_rounds,
        "slate_size": slate_size,
        "seed": seed,
        "user": config.model_dump(mode="json"),
    }
    text = json.dumps(settings, sort_keys=True)
    return settings | {"hash": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _check(
    policies: Sequence[Policy],
    max_rounds: int,
    slate_size: int,
    concurrency: int,
    lm: LanguageModel,
    config: UserConfig,
) -> None:
    names = [policy.name for policy in policies]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"policies need at least one name and no name twice, got {names!r}")
    for name, value in (("max_rounds", max_rounds), ("slate_size", slate_size), ("concurrency", concurrency)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value!r}")
    if config.adapter is not None and config.adapter not in lm.capabilities.adapters:
        loaded = ", ".join(lm.capabilities.adapters) or "none"
        raise ConfigError(
            f"the model {lm.name!r} has no adapter {config.adapter!r} (loaded: {loaded}); train it, or let the bare "
            "backbone play the user (adapter null in the user settings, --no-user-adapter)"
        )
