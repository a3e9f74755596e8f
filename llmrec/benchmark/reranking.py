"""What re-ranking costs and gives: lists of the same users before and after, by accuracy, diversity and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmrec.benchmark.protocol import sample_users
from llmrec.data.splits import leave_one_out
from llmrec.errors import ConfigError
from llmrec.metrics.bootstrap import Interval, bootstrap_mean, paired_difference
from llmrec.metrics.diversity import intra_list_diversity, miscalibration
from llmrec.metrics.ranking import MISS, ndcg_at
from llmrec.ranking.rerank import RerankContext, Reranker
from llmrec.ranking.stages import candidates
from llmrec.seeding import derive

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.ranking.categories import ItemCategories
    from llmrec.ranking.similarity import Similarity
    from llmrec.retrieval.base import FloatArray, IntArray, Recommender

BEFORE = "before"
"""Name of the lists as the recommender gives them."""
MEASURES = ("ndcg", "diversity", "miscalibration")


@dataclass(frozen=True)
class RerankingReport:
    """Means over users with 95 % bootstrap intervals."""

    recommender: str
    n: int
    """Evaluated users."""
    k: int
    """Length of the lists."""
    candidates: int
    lists: dict[str, dict[str, Interval]]
    """By re-ranker, `BEFORE` first: "ndcg" at k; "diversity" inside a list, over users whose list has a pair;
    "miscalibration" in nats, lower is better, over users that have a history and a list."""
    change: dict[str, dict[str, Interval]]
    """By re-ranker: after minus before, paired by user."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        plain = {
            part: {name: {m: tuple(value) for m, value in row.items()} for name, row in rows.items()}
            for part, rows in (("lists", self.lists), ("change", self.change))
        }
        return {"recommender": self.recommender, "n": self.n, "k": self.k, "candidates": self.candidates, **plain}


async def compare_reranking(
    dataset: Dataset,
    recommender: Recommender,
    rerankers: Sequence[Reranker],
    *,
    similarity: Similarity,
    categories: ItemCategories,
    split: Split | None = None,
    stage: Literal["validation", "test"] = "test",
    n_users: int | None = None,
    k: int = 10,
    n_candidates: int = 100,
    batch_size: int = 256,
    seed: int = 0,
) -> RerankingReport:
    """Lists of a fitted recommender for the users that `evaluate` takes, as they are and re-ranked.

    Args:
        dataset: catalogue and interactions.
        recommender: fitted on the split.
        rerankers: with distinct names.
        similarity: that diversity is measured with.
        categories: that calibration is measured with.
        split: default leave-one-out by time.
        stage: which target.
        n_users: size of the user sample; None evaluates all.
        k: length of the lists.
        n_candidates: best items that a list is chosen from.
        batch_size: users scored at once.
        seed: of the user sample, of the bootstrap and of whatever the recommender draws.

    Raises:
        ConfigError: two re-rankers have one name, or the split has no target at this stage.
    """
    named = {reranker.name: reranker for reranker in rerankers}
    if len(named) != len(rerankers) or BEFORE in named:
        raise ConfigError(f"re-rankers need distinct names other than {BEFORE!r}, got {[r.name for r in rerankers]!r}")
    split = leave_one_out(dataset.interactions) if split is None else split
    users, targets = sample_users(split, stage, n_users, seed)
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in (BEFORE, *named)}
    for start in range(0, len(users), batch_size):
        own = users[start : start + batch_size]
        histories = [split.history(int(user), stage) for user in own]
        scores = await recommender.score(histories, users=own.tolist(), seed=derive(seed, "evaluate", "score"))
        chosen = candidates(scores, histories, n_candidates)
        for row, items, history, target in zip(scores, chosen, histories, targets[start:], strict=False):
            lists = {BEFORE: items[:k]}
            for name, reranker in named.items():
                lists[name] = reranker.rerank(items, row[items], RerankContext(history), k)
            for name, shown in lists.items():
                measured[name].append(_measure(shown, int(target), history, similarity, categories, k))
    columns = {name: np.array(rows) for name, rows in measured.items()}  # each (n_users, measures)
    return RerankingReport(
        recommender=recommender.name,
        n=len(users),
        k=k,
        candidates=n_candidates,
        lists={name: _means(values, seed) for name, values in columns.items()},
        change={name: _changes(columns[name], columns[BEFORE], seed) for name in named},
    )


def _measure(
    shown: IntArray, target: int, history: IntArray, similarity: Similarity, categories: ItemCategories, k: int
) -> tuple[float, float, float]:
    """NDCG, diversity and miscalibration of one list; nan where a measure is not defined."""
    found = np.flatnonzero(shown == target)
    rank = np.array([found[0] if len(found) else MISS])
    wanted = categories.profile(history)
    divergence = float("nan")
    if wanted is not None and len(shown):
        divergence = float(miscalibration(wanted, categories.shares(shown).mean(axis=0)))
    return float(ndcg_at(rank, k)[0]), intra_list_diversity(similarity(shown)), divergence


def _means(values: FloatArray, seed: int) -> dict[str, Interval]:
    found = {}
    for measure, column in zip(MEASURES, values.T, strict=True):
        defined = column[~np.isnan(column)]
        if len(defined):
            found[measure] = bootstrap_mean(defined, seed=seed)
    return found


def _changes(after: FloatArray, before: FloatArray, seed: int) -> dict[str, Interval]:
    found = {}
    for measure, new, old in zip(MEASURES, after.T, before.T, strict=True):
        defined = ~(np.isnan(new) | np.isnan(old))
        if defined.any():
            found[measure] = paired_difference(new[defined], old[defined], seed=seed)
    return found
