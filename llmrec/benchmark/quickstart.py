"""The main job: train nano, fine-tune its roles, evaluate, simulate, and write the report.

Each step is what the other commands do (evaluate, finetune, simulate); this file only puts them in a row.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec import __version__
from llmrec.assets import asset, load_file
from llmrec.benchmark.stages import Stages

if TYPE_CHECKING:
    from llmrec.benchmark.quickstart_config import QuickstartConfig
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.lm.protocol import LanguageModel
    from llmrec.retrieval.calrec import CalrecConfig
    from llmrec.roles.mindset import UserConfig
    from llmrec.training.recipe import Recipe

Say = Callable[[str], None]
Bar = Callable[[str, float | None], AbstractContextManager[Callable[[float], None]]]
"""Opens a progress bar for (description, total) and yields the function that advances it."""


@contextmanager
def no_bar(description: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """A progress bar that shows nothing."""
    yield lambda step: None


@dataclass
class Job:
    """What all stages of one quickstart share."""

    spec: str
    config: QuickstartConfig
    out: Path
    seed: int
    say: Say
    bar: Bar
    run: str = "quickstart"
    """Name of the run in the journal."""

    @cached_property
    def dataset(self) -> Dataset:
        """Loaded once."""
        from llmrec.data.spec import load

        return load(self.spec, seed=self.seed)

    @cached_property
    def split(self) -> Split:
        """Leave-one-out by time."""
        from llmrec.data.splits import leave_one_out

        return leave_one_out(self.dataset.interactions)

    @property
    def backbone(self) -> Path:
        """Folder of nano."""
        return self.out / "backbone"

    @cached_property
    def lm(self) -> LanguageModel:
        """nano with its adapters."""
        from llmrec.lm.loading import load_backbone

        return load_backbone(self.backbone)

    @cached_property
    def user_config(self) -> UserConfig:
        """The simulated user, its decisions corrected as its adapter's `calibration.json` says."""
        from llmrec.roles.loading import load_agent

        config: UserConfig = load_agent("user").config
        return config.calibrated_for(self.out / "adapters" / "user")

    @cached_property
    def calrec(self) -> CalrecConfig:
        """Sampling of the generative recommender, in the evaluation and inside the agent."""
        from llmrec.retrieval.calrec import CalrecConfig

        settings = self.config.evaluation
        return CalrecConfig(
            samples=settings.samples, temperature=settings.temperature, history_items=self.config.nano.history_items
        )


def quickstart(
    spec: str, config: QuickstartConfig, *, out: Path, seed: int, say: Say, bar: Bar = no_bar
) -> dict[str, Any]:
    """Run all stages and write report.html and report.json into `out`.

    Args:
        spec: dataset spec.
        config: sizes.
        out: folder of all results; the same call goes on where a killed one stopped.
        seed: of everything.
        say: receives lines for people.
        bar: shows progress.

    Returns:
        The content of report.json.
    """
    from llmrec.benchmark.machine import machine_facts
    from llmrec.benchmark.report import write_report
    from llmrec.training.fingerprint import text_digest

    job = Job(spec, config, out, seed, say, bar)
    settings = {
        "llmrec": __version__,
        "data": job.dataset.content_hash,
        "texts": text_digest(),
        "seed": seed,
        "config": config.model_dump(mode="json"),
    }
    stages = Stages(out / "stages", settings, say=say)
    job.run = f"quickstart-{stages.key[:8]}"  # other settings are another run in the same journal
    started = time.monotonic()
    results: dict[str, Any] = {
        "llmrec": __version__,
        "command": f"llmrec quickstart --dataset {spec} --seed {seed}",
        "seed": seed,
        "settings": config.model_dump(mode="json"),
        "dataset": stages.run("data", lambda: _describe(job)),
        "backbone": stages.run("backbone", lambda: _train_backbone(job)),
        "adapters": {
            role: stages.run(f"adapter-{role}", partial(_train_adapter, job, role)) for role in config.adapters
        },
        "evaluation": stages.run("evaluation", lambda: _evaluate(job)),
        "fidelity": stages.run("fidelity", lambda: _fidelity(job)),
    }
    results |= stages.run("simulation", lambda: _simulate(job))
    results |= {
        "machine": machine_facts(),
        "stages": stages.log,
        "total_seconds": round(sum(stage["seconds"] for stage in stages.log), 1),
        "seconds_of_this_run": round(time.monotonic() - started, 1),
        "peak_mib": max(stage["peak_mib"] for stage in stages.log),
    }
    paths = write_report(results, out)
    say(f"report: {paths.html}")
    return results


def _describe(job: Job) -> dict[str, Any]:
    from llmrec.benchmark.report_shape import plain
    from llmrec.data.describe import describe

    return {"spec": job.spec, "name": job.dataset.name, **plain(describe(job.dataset, rows=0))}


def _train_backbone(job: Job) -> dict[str, Any]:
    from llmrec.training.pretrain import train_nano

    trained = train_nano(job.dataset, job.split, job.config.nano, seed=job.seed, say=job.say)
    shutil.rmtree(job.backbone, ignore_errors=True)
    shutil.copytree(trained.path, job.backbone)  # a few megabytes: the run folder stays whole when the cache goes
    return {**trained.report, "cached": trained.cached, "folder": "backbone"}


def _train_adapter(job: Job, role: str) -> dict[str, Any]:
    from llmrec.lm.adapters import AdapterStore
    from llmrec.training.recipe import load_recipe

    recipe = asset(f"finetune/{role}.yaml")
    folder = job.out / "adapters" / role
    overrides = {
        "dataset": job.spec,
        "backbone": str(job.backbone),
        "output": str(folder),
        "seed": job.seed,
        "history_items": job.config.nano.history_items,
        **job.config.adapters[role],
    }
    script = load_file(asset(f"finetune/{load_recipe(recipe).script}"), name="llmrec_finetune_script")
    changes = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    changes += _without_calibration(job, load_recipe(recipe, changes))
    record: dict[str, Any] = script.main(recipe, changes)
    store = AdapterStore.load(job.backbone)
    store.add(role, folder)
    store.save()
    return record


def _without_calibration(job: Job, recipe: Recipe) -> list[str]:
    """What leaves the calibration of the user out where a small table has nobody to calibrate on."""
    from llmrec.training.user.decisions import can_calibrate
    from llmrec.training.user.recipe import UserRecipe

    if not isinstance(recipe, UserRecipe) or not recipe.calibration_users or can_calibrate(job.split, recipe):
        return []
    job.say("adapter user: too few users to calibrate clicks on, so its probabilities stay as the model gives them")
    return ["calibration_users=0"]


def _evaluate(job: Job) -> dict[str, Any]:
    from llmrec.benchmark.protocol import evaluate, steps
    from llmrec.ranking.registry import build

    settings = job.config.evaluation
    models = {
        name: build(name, lm=job.lm, **({"config": job.calrec} if name == "calrec" else {})) for name in settings.models
    }
    n_users = min(settings.users, len(job.split.users))
    with job.bar("evaluating", n_users * len(models)) as advance:
        told = steps(advance)
        work = evaluate(job.dataset, models, n_users=n_users, seed=job.seed, split=job.split, progress=told)
        return asyncio.run(work).to_json()


def _fidelity(job: Job) -> dict[str, Any]:
    from llmrec.simulate.fidelity import click_fidelity

    n_users = min(job.config.fidelity.users, len(job.split.users))
    calibration = job.user_config.calibration
    asked = click_fidelity(job.lm, job.dataset, job.split, n_users=n_users, seed=job.seed, calibration=calibration)
    return asyncio.run(asked).to_json()


def _simulate(job: Job) -> dict[str, Any]:
    from llmrec.benchmark.grounding_check import check_sessions
    from llmrec.simulate.journal import Journal
    from llmrec.simulate.metrics import compare, n_clicks, summarise_run
    from llmrec.simulate.policies import build_policies
    from llmrec.simulate.runner import simulate

    settings = job.config.simulation
    policies = build_policies(
        settings.policies, job.dataset, job.split, job.lm, slate_size=settings.slate_size, calrec=job.calrec
    )
    n_users = min(settings.users, len(job.split.users))
    with Journal(job.out / "sessions.sqlite") as journal, job.bar("sessions", n_users * len(policies)) as advance:
        played = simulate(
            job.dataset,
            job.split,
            job.lm,
            policies=policies,
            n_users=n_users,
            max_rounds=settings.max_rounds,
            slate_size=settings.slate_size,
            seed=job.seed,
            run=job.run,
            journal=journal,
            user_config=job.user_config,
            progress=lambda done, total: advance(1),
        )
        sessions = asyncio.run(played).sessions
    first = settings.policies[0]
    measures = {
        "clicks": lambda session: float(n_clicks(session)),
        "rounds": lambda session: float(len(session.rounds)),
    }
    comparisons = [
        {"first": first, "second": other, "measure": name}
        | compare(sessions, first, other, measure, seed=job.seed)._asdict()
        for other in settings.policies[1:]
        for name, measure in measures.items()
    ]
    shown = [session for session in sessions if session.policy == first]
    longest = sorted(shown, key=lambda session: (-len(session.rounds), session.user))[:3]
    return {
        "simulation": {"policies": summarise_run(sessions, job.split, seed=job.seed), "comparisons": comparisons},
        "transcripts": [session.model_dump(mode="json") for session in longest],
        "out_of_catalogue": check_sessions(sessions, job.dataset.catalogue),
    }
