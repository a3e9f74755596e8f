"""Finds the weights of a blend: coordinate ascent on the simplex, by NDCG@10 of the same validation users throughout.

Only items that matter are kept: the best of each part for each user, and the target. What stands just behind the best
hundred of every part could still enter the first ten of their sum and is missed, so the validation figures of mixed
weights are upper bounds, close ones where lists agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError
from llmrec.metrics.ranking import MISS, masked_scores, ndcg_at, top_k_of_masked
from llmrec.ranking.normalise import Normaliser, fit_temperature, normalise
from llmrec.retrieval.base import FloatArray, IntArray, Recommender

_BATCH = 256  # users scored at once
_TEMPERATURE_BATCHES = 2  # batches that the temperatures are fitted on
_SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the whole that a part is tried with, the others keeping their proportions."""
_ROUNDS = 20  # far more than an ascent needs


@dataclass(frozen=True)
class Users:
    """Validation users."""

    numbers: IntArray
    """Shape (n,)."""
    targets: IntArray
    """Item rows, shape (n,)."""
    histories: list[IntArray]


@dataclass(frozen=True)
class Pool:
    """Normalised scores of the items that matter; column 0 is the target, as are the columns that are left over."""

    values: dict[Normaliser, npt.NDArray[np.floating]]
    """Each of shape (n_parts, n_users, n_columns); probabilities for "softmax"."""
    before: npt.NDArray[np.bool_]
    """True where an item wins a tie against the target, shape (n_users, n_columns)."""
    scored: npt.NDArray[np.bool_]
    """True where a part scores the target, shape (n_parts, n_users)."""
    temperatures: tuple[float, ...]
    """Of each part."""

    def ndcg(self, kind: Normaliser, weights: FloatArray) -> float:
        """Mean NDCG@10 of the blend with these weights, shape (n_parts,)."""
        values = self.values[kind]
        total = np.tensordot(weights.astype(values.dtype), values, axes=1)  # (n_users, n_columns)
        own = total[:, :1]
        ranks = np.count_nonzero((total > own) | ((total == own) & self.before), axis=1).astype(np.int64)
        ranked = self.scored[weights > 0].any(axis=0)
        return float(ndcg_at(np.where(ranked, ranks, MISS), 10).mean())


async def make_pool(
    parts: Sequence[Recommender],
    users: Users,
    kinds: Sequence[Normaliser],
    *,
    depth: int,
    rank_offset: float,
    seed: int,
) -> Pool:
    """Score the users with every part.

    Args:
        parts: fitted recommenders.
        users: validation users.
        kinds: normalisers to prepare.
        depth: best items of each part that are kept for each user.
        rank_offset: of "reciprocal".
        seed: of whatever the parts draw.
    """
    batches = [slice(start, start + _BATCH) for start in range(0, len(users.numbers), _BATCH)]
    temperatures = (1.0,) * len(parts)
    if "softmax" in kinds:
        first = slice(0, _TEMPERATURE_BATCHES * _BATCH)
        scores = await score_parts(parts, users.histories[first], users.numbers[first].tolist(), seed)
        temperatures = tuple(fit_temperature(s, users.histories[first], users.targets[first]) for s in scores)
    gathered: dict[Normaliser, list[npt.NDArray[np.floating]]] = {kind: [] for kind in kinds}
    before, scored = [], []
    for batch in batches:
        histories, targets = users.histories[batch], users.targets[batch]
        scores = await score_parts(parts, histories, users.numbers[batch].tolist(), seed)
        masked = [masked_scores(score, histories) for score in scores]
        columns = _columns([top_k_of_masked(score, depth) for score in masked], targets)
        for kind in kinds:
            values = [
                normalise(score, histories, kind, temperature=temperature, rank_offset=rank_offset)
                for score, temperature in zip(scores, temperatures, strict=True)
            ]
            kept = np.stack([np.take_along_axis(value, columns, axis=1) for value in values])
            gathered[kind].append(_compact(kept, kind))
        before.append(columns < targets[:, None])
        scored.append(np.stack([np.isfinite(score[np.arange(len(targets)), targets]) for score in masked]))
    widest = max(part.shape[1] for part in before)
    return Pool(
        values={kind: np.concatenate([_widen(part, widest) for part in gathered[kind]], axis=1) for kind in kinds},
        before=np.concatenate([np.pad(part, ((0, 0), (0, widest - part.shape[1]))) for part in before]),
        scored=np.concatenate(scored, axis=1),
        temperatures=temperatures,
    )


async def score_parts(
    parts: Sequence[Recommender], histories: Sequence[IntArray], users: Sequence[int] | None, seed: int
) -> list[FloatArray]:
    """Scores of each part, each of shape (batch, n_items).

    Raises:
        ConfigError: the parts know catalogues of different size.
    """
    scores = [await part.score(histories, users=users, seed=seed) for part in parts]
    if len({score.shape for score in scores}) > 1:
        shapes = ", ".join(f"{part.name}: {score.shape}" for part, score in zip(parts, scores, strict=True))
        raise ConfigError(f"the parts of a blend must score the same catalogue, got shapes {shapes}")
    return scores


def search_weights(objective: Callable[[FloatArray], float], n_parts: int) -> tuple[FloatArray, float]:
    """Weights with the highest value that coordinate ascent finds from every corner and from the centre.

    A step gives one part another share of the whole and leaves the proportions of the others; afterwards shares between
    the best ones are tried. Deterministic: of equals the first stays.

    Returns:
        Weights that sum to 1, shape (n_parts,), and their value.
    """
    starts = [*np.eye(n_parts), np.full(n_parts, 1.0 / n_parts)]
    found = [_ascend(objective, start, _SHARES) for start in starts[: 1 if n_parts == 1 else None]]
    weights, value = max(found, key=lambda pair: pair[1])
    for width in (0.04, 0.02, 0.01):
        around = [np.clip(share + shift, 0, 1) for share in weights for shift in (-width, width)]
        weights, value = _ascend(objective, weights, sorted({float(share) for share in around}))
    return weights, value


def _ascend(
    objective: Callable[[FloatArray], float], start: FloatArray, shares: Sequence[float]
) -> tuple[FloatArray, float]:
    weights, value = start, objective(start)
    for _ in range(_ROUNDS):
        before = value
        for part in range(len(weights)):
            others = weights.copy()
            others[part] = 0.0
            if others.sum() <= 0:  # a corner: the others have no proportions yet
                others = np.ones_like(weights)
                others[part] = 0.0
            if not others.any():
                continue
            others /= others.sum()
            for share in shares:
                trial = (1 - share) * others
                trial[part] = share
                if (tried := objective(trial)) > value:
                    weights, value = trial, tried
        if value <= before:
            break
    return weights, value


def _columns(tops: Sequence[IntArray], targets: IntArray) -> IntArray:
    """Item rows of the pool, the target first; doubles and empty places hold the target again."""
    columns = np.concatenate([targets[:, None], *tops], axis=1)
    order = np.argsort(columns, axis=1, kind="stable")
    ordered = np.take_along_axis(columns, order, axis=1)
    double = np.zeros(columns.shape, dtype=np.bool_)
    np.put_along_axis(double, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return np.where(double | (columns < 0), targets[:, None], columns)


def _compact(values: FloatArray, kind: Normaliser) -> npt.NDArray[np.floating]:
    """As the search reads them: probabilities, which need the range of float64, or scores in float32."""
    if kind == "softmax":
        return np.exp(np.minimum(values, 0.0))  # above 1 there is only a target out of the history: a miss anyway
    return values.astype(np.float32)


def _widen(values: npt.NDArray[np.floating], width: int) -> npt.NDArray[np.floating]:
    """Fill up with copies of the target's column, shape (n_parts, n_users, width)."""
    missing = width - values.shape[2]
    return np.concatenate([values, np.repeat(values[:, :, :1], missing, axis=2)], axis=2) if missing else values
