"""Offline evaluation: many recommenders, one protocol, the same users, floors beside them.

Every item of the catalogue is ranked for every sampled user; items of the user's history are left out; the target is
the user's next item. Users for whom a model failed or left the target unscored count as misses. Intervals are
percentile bootstraps over users; differences to the floor are paired by user.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError, EnvironmentFailure, ModelError
from llmrec.metrics.bootstrap import Interval, bootstrap_means
from llmrec.metrics.coverage import catalogue_coverage
from llmrec.metrics.ranking import masked_scores, per_user_metrics, ranks_of_masked, top_k_of_masked
from llmrec.seeding import derive, rng

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.retrieval.base import FloatArray, IntArray, Recommender

Stage = Literal["validation", "test"]
FLOORS = ("popular", "knn")
"""Recommenders that every table shows beside the others."""
Progress = Callable[[str, int, int], None]
"""Called with (model, users done, users in all)."""


@dataclass(frozen=True)
class ModelResult:
    """One recommender's row of the table."""

    metrics: dict[str, Interval]
    """"recall@k", "ndcg@k" and "mrr", with bounds."""
    coverage: dict[str, float]
    """"coverage@k": share of the catalogue in anybody's first k; it belongs to the sample, so it has no interval."""
    ranks: npt.NDArray[np.int64]
    """Rank of each user's target, `MISS` when it was not ranked, shape (n,)."""
    fit_s: float
    score_s: float
    failed: int
    """Users without any usable score."""
    failures: tuple[str, ...]
    """Distinct reasons."""
    note: str
    """What the recommender says about itself (which encoder, for example)."""


@dataclass(frozen=True)
class Evaluation:
    """Results of all recommenders on the same users."""

    dataset: str
    stage: Stage
    protocol: str
    seed: int
    ks: tuple[int, ...]
    n_items: int
    users: npt.NDArray[np.int64]
    """User numbers, shape (n,)."""
    models: dict[str, ModelResult]
    floor: str
    """Recommender that the paired differences are against."""
    paired: dict[str, dict[str, Interval]] = field(default_factory=dict)
    """Metric of a model minus that of the floor, for every other model."""

    @property
    def n(self) -> int:
        """Number of evaluated users."""
        return len(self.users)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, texts and lists."""
        rows = {
            name: {metric: interval._asdict() for metric, interval in result.metrics.items()}
            | {metric: {"value": value, "low": None, "high": None} for metric, value in result.coverage.items()}
            for name, result in self.models.items()
        }
        return {
            "dataset": self.dataset,
            "protocol": self.protocol,
            "stage": self.stage,
            "n": self.n,
            "n_items": self.n_items,
            "seed": self.seed,
            "ks": list(self.ks),
            "models": rows,
            "paired": {
                "against": self.floor,
                "models": {
                    name: {metric: interval._asdict() for metric, interval in differences.items()}
                    for name, differences in self.paired.items()
                },
            },
            "seconds": {
                name: {"fit": round(result.fit_s, 3), "score": round(result.score_s, 3)}
                for name, result in self.models.items()
            },
            "failed": {
                name: {"users": result.failed, "reasons": list(result.failures)} for name, result in self.models.items()
            },
            "notes": {name: result.note for name, result in self.models.items() if result.note},
        }


async def evaluate(
    dataset: Dataset,
    models: Sequence[Recommender] | Mapping[str, Recommender],
    *,
    n_users: int | None = None,
    stage: Stage = "test",
    seed: int = 0,
    ks: Sequence[int] = (1, 5, 10, 20),
    split: Split | None = None,
    floor: str = "popular",
    batch_size: int = 256,
    n_resamples: int = 2000,
    fit: bool | Collection[str] = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Rank the whole catalogue for the same users with every model.

    Args:
        dataset: catalogue and interactions.
        models: recommenders, or recommenders under the names that the table shall show.
        n_users: size of the user sample drawn with `seed`; None evaluates all.
        stage: which target; "test" lets histories contain the validation item, training data never does.
        seed: of the user sample, of the bootstrap and of whatever the models draw.
        ks: cut-offs.
        split: default leave-one-out by time.
        floor: model that the others are compared with, user by user; without it no comparison is made.
        batch_size: users scored at once.
        n_resamples: bootstrap samples.
        fit: fit the models first; False when they are fitted on this split already; or the names of those to fit.
        progress: called after each batch.

    Raises:
        ConfigError: no models, two of one name, cut-offs or counts that make no sense.
    """
    named = _named(models)
    cutoffs = tuple(sorted(set(ks)))
    if not cutoffs or cutoffs[0] < 1 or batch_size < 1 or (n_users is not None and n_users < 1):
        raise ConfigError(f"ks, n_users and batch_size must be positive, got {ks!r}, {n_users!r}, {batch_size!r}")
    if split is None:
        from llmrec.data.splits import leave_one_out

        split = leave_one_out(dataset.interactions)
    users, targets = sample_users(split, stage, n_users, seed)
    histories = [split.history(int(user), stage) for user in users]
    results: dict[str, ModelResult] = {}
    for name, model in named.items():
        started = time.perf_counter()
        if fit is True or (fit is not False and name in fit):
            model.fit(dataset, split)
        fit_s = time.perf_counter() - started
        run = _Run(name, len(dataset.catalogue), cutoffs[-1], batch_size, progress)
        await run.score(model, users, targets, histories, seed)
        results[name] = run.result(cutoffs, fit_s, seed, n_resamples, _describe(model))
    return Evaluation(
        dataset=dataset.spec,
        stage=stage,
        protocol=protocol_text(split, stage, len(users), len(dataset.catalogue), n_resamples),
        seed=seed,
        ks=cutoffs,
        n_items=len(dataset.catalogue),
        users=users,
        models=results,
        floor=floor,
        paired=_paired(results, floor, cutoffs, seed, n_resamples),
    )


def steps(advance: Callable[[float], None]) -> Progress:
    """Turn (model, users done, users in all) reports into steps of one bar."""
    done: dict[str, int] = {}

    def report(name: str, now: int, _total: int) -> None:
        advance(now - done.get(name, 0))
        done[name] = now

    return report


def sample_users(split: Split, stage: Stage, n_users: int | None, seed: int) -> tuple[IntArray, IntArray]:
    """Users and their targets, ascending by user; a seeded sample without replacement where fewer are wanted.

    Raises:
        ConfigError: the split has no target at this stage.
    """
    users, targets = split.targets(stage)
    if len(users) == 0:
        raise ConfigError(f"the split has no {stage} targets; use another split or dataset")
    if n_users is None or n_users >= len(users):
        return users, targets
    chosen = np.sort(rng(seed, "evaluate", "users").choice(len(users), size=n_users, replace=False))
    return users[chosen], targets[chosen]


def protocol_text(split: Split, stage: Stage, n: int, n_items: int, n_resamples: int) -> str:
    """The protocol in one sentence for reports."""
    return (
        f"{split.protocol}; {stage} target of {n} users, all {n_items} items ranked, history items excluded, ties to "
        f"the lower item row, unscored targets and failures are misses; 95% percentile bootstrap over users "
        f"({n_resamples} resamples), differences paired by user"
    )


class _Run:
    """Collects ranks and lists of one model, batch by batch."""

    def __init__(self, name: str, n_items: int, longest: int, batch_size: int, progress: Progress | None) -> None:
        self.name, self.n_items, self.longest = name, n_items, longest
        self.batch_size, self.progress = batch_size, progress
        self.ranks: list[IntArray] = []
        self.tops: list[IntArray] = []
        self.failed = 0
        self.reasons: dict[str, None] = {}
        self.score_s = 0.0

    async def score(
        self, model: Recommender, users: IntArray, targets: IntArray, histories: Sequence[IntArray], seed: int
    ) -> None:
        for start in range(0, len(users), self.batch_size):
            part = slice(start, start + self.batch_size)
            started = time.perf_counter()
            scores = await self._scores(model, histories[part], [int(user) for user in users[part]], seed)
            self.score_s += time.perf_counter() - started
            masked = masked_scores(scores, histories[part])
            self.ranks.append(ranks_of_masked(masked, targets[part]))
            self.tops.append(top_k_of_masked(masked, self.longest))
            if self.progress:
                self.progress(self.name, min(start + self.batch_size, len(users)), len(users))

    async def _scores(
        self, model: Recommender, histories: Sequence[IntArray], users: Sequence[int], seed: int
    ) -> FloatArray:
        """Scores of a batch; a batch whose model failed is retried user by user, so that one failure costs one user."""
        try:
            scores = await model.score(histories, users=users, seed=derive(seed, "evaluate", "score"))
        except (ModelError, EnvironmentFailure) as error:
            if len(histories) > 1:
                parts = [await self._scores(model, [h], [u], seed) for h, u in zip(histories, users, strict=True)]
                return np.concatenate(parts)
            self._fail(str(error) or type(error).__name__)
            return np.full((1, self.n_items), -np.inf)
        expected = (len(histories), self.n_items)
        if scores.shape != expected:
            raise ConfigError(
                f"the recommender {self.name!r} must return scores of shape {expected}, got {scores.shape}"
            )
        for _ in range(int((~np.isfinite(scores)).all(axis=1).sum())):
            self._fail("no finite score")
        return scores

    def _fail(self, reason: str) -> None:
        self.failed += 1
        self.reasons[reason] = None

    def result(self, ks: Sequence[int], fit_s: float, seed: int, n_resamples: int, note: str) -> ModelResult:
        ranks, top = np.concatenate(self.ranks), np.concatenate(self.tops)
        values = per_user_metrics(ranks, ks)
        intervals = bootstrap_means(np.stack(list(values.values()), axis=1), seed=seed, n_resamples=n_resamples)
        return ModelResult(
            metrics=dict(zip(values, intervals, strict=True)),
            coverage={f"coverage@{k}": catalogue_coverage(top[:, :k], self.n_items) for k in ks},
            ranks=ranks,
            fit_s=fit_s,
            score_s=self.score_s,
            failed=self.failed,
            failures=tuple(self.reasons),
            note=note,
        )


def _paired(
    results: Mapping[str, ModelResult], floor: str, ks: Sequence[int], seed: int, n_resamples: int
) -> dict[str, dict[str, Interval]]:
    others = [name for name in results if name != floor]
    if floor not in results or not others:
        return {}
    base = per_user_metrics(results[floor].ranks, ks)
    paired: dict[str, dict[str, Interval]] = {}
    for name in others:
        values = per_user_metrics(results[name].ranks, ks)
        differences = np.stack([values[metric] - base[metric] for metric in base], axis=1)  # (n_users, n_metrics)
        intervals = bootstrap_means(differences, seed=seed, n_resamples=n_resamples)
        paired[name] = dict(zip(base, intervals, strict=True))
    return paired


def _named(models: Sequence[Recommender] | Mapping[str, Recommender]) -> dict[str, Recommender]:
    pairs = list(models.items()) if isinstance(models, Mapping) else [(model.name, model) for model in models]
    named = dict(pairs)
    if not named or len(named) != len(pairs):
        raise ConfigError(f"evaluation needs models with distinct names, got {[name for name, _ in pairs]!r}")
    return named


def _describe(model: Recommender) -> str:
    describe = getattr(model, "describe", None)
    return str(describe()) if callable(describe) else ""
