"""A recommender made of others: their scores on one scale, added with weights that validation users chose.

Weights and scale are picked by NDCG@10 of validation targets; test targets are never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from llmrec.errors import ConfigError
from llmrec.ranking.blend_fit import Users, make_pool, score_parts, search_weights
from llmrec.ranking.normalise import Normaliser, combine, normalise
from llmrec.ranking.saved import Origin, check_events
from llmrec.ranking.validation import validation_sample
from llmrec.retrieval.base import FloatArray, IntArray, Recommender, require_fitted
from llmrec.running import run_sync

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split


class BlendConfig(BaseModel):
    """Settings of a blend."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    normalisers: tuple[Normaliser, ...] = Field(default=("zscore", "softmax", "reciprocal"), min_length=1)
    """Scales that are tried; see `llmrec.ranking.normalise`."""
    weights: tuple[float, ...] | None = None
    """Weight of each part in their order, not negative: taken as they are, with the first scale. None searches."""
    validation_users: PositiveInt = 5000
    """Users of the validation sample, drawn with the seed."""
    depth: PositiveInt = 100
    """Best items of each part that the search of the weights looks at, per user."""
    rank_offset: PositiveFloat = 10.0
    """Added to ranks before they are inverted; higher makes the first places less special."""
    seed: int = 0
    """Of the validation sample and of whatever the parts draw on it."""


class Fitted(BaseModel):
    """What a blend has learned."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    normaliser: Normaliser
    weights: tuple[float, ...]
    """Sum 1."""
    temperatures: tuple[float, ...]
    """Of each part, for "softmax"."""
    ndcg: float
    """Validation NDCG@10 of the blend."""
    alone: tuple[float, ...]
    """Validation NDCG@10 of each part by itself, on the same users."""
    tried: dict[Normaliser, float]
    """Best validation NDCG@10 under each scale."""
    n_users: int
    train_hash: str
    """Content hash of the training events."""
    catalogue: str
    """Content hash of the catalogue."""


class BlendRecommender:
    """Ranks by the weighted scores of its parts. An item that no part with a weight scores stays unscored.

    Args:
        parts: recommenders. Those that are fitted already stay as they are; the others are fitted with the blend, and
            anew with every further `fit`.
        config: settings.
        name: in tables.

    Raises:
        ConfigError: no parts, two of one name, or weights that do not suit.
    """

    def __init__(self, parts: Sequence[Recommender], *, config: BlendConfig | None = None, name: str = "blend") -> None:
        self.name, self.config = name, config or BlendConfig()
        self.parts = tuple(parts)
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"a blend needs parts with distinct names, got {names!r}")
        given = self.config.weights
        if given is not None and (len(given) != len(names) or min(given) < 0 or not 0 < sum(given) < float("inf")):
            raise ConfigError(f"weights must be one number per part, not negative, not all 0, got {given!r}")
        self._own: list[Recommender] | None = None  # parts that this blend fits
        self._fitted: Fitted | None = None

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Fit the parts that are not fitted, then find scale and weights on validation users.

        Raises:
            ConfigError: the split has no validation targets, or a part cannot be fitted.
            CacheError: a part was fitted on other training events.
        """
        if self._own is None:
            self._own = [part for part in self.parts if not run_sync(_is_fitted(part))]
        for part in self.parts:
            if part not in self._own and (origin := getattr(part, "origin", None)) is not None:
                check_events(f"the part {part.name!r}", origin, split)
        for part in self._own:
            part.fit(dataset, split)
        config, kinds = self.config, self.config.normalisers
        users = Users(*validation_sample(split, config.validation_users, config.seed))
        tried_kinds = kinds if config.weights is None else kinds[:1]
        pool = run_sync(
            make_pool(
                self.parts, users, tried_kinds, depth=config.depth, rank_offset=config.rank_offset, seed=config.seed
            )
        )
        found: dict[Normaliser, tuple[FloatArray, float]] = {}
        for kind in tried_kinds:
            if config.weights is None:
                found[kind] = search_weights(partial(pool.ndcg, kind), len(self.parts))
            else:
                weights = np.array(config.weights) / sum(config.weights)
                found[kind] = weights, pool.ndcg(kind, weights)
        best = max(found, key=lambda kind: found[kind][1])  # of equals the first
        self._fitted = Fitted(
            normaliser=best,
            weights=tuple(float(weight) for weight in found[best][0]),
            temperatures=pool.temperatures,
            ndcg=found[best][1],
            alone=tuple(pool.ndcg(best, row) for row in np.eye(len(self.parts))),
            tried={kind: value for kind, (_, value) in found.items()},
            n_users=len(users.numbers),
            train_hash=split.train.content_hash,
            catalogue=dataset.catalogue.content_hash,
        )

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Weighted scores on the common scale, shape (batch, n_items)."""
        fitted = self.fitted
        used = [i for i, weight in enumerate(fitted.weights) if weight > 0]
        scores = await score_parts([self.parts[i] for i in used], histories, users, seed)
        values = [
            normalise(
                score,
                histories,
                fitted.normaliser,
                temperature=fitted.temperatures[i],
                rank_offset=self.config.rank_offset,
            )
            for i, score in zip(used, scores, strict=True)
        ]
        total = combine(values, [fitted.weights[i] for i in used], fitted.normaliser)
        unscored = ~np.logical_or.reduce([np.isfinite(score) for score in scores])
        return np.where(unscored, -np.inf, total)

    @property
    def fitted(self) -> Fitted:
        """Scale, weights and validation scores."""
        return require_fitted(self._fitted, self.name)

    @property
    def origin(self) -> Origin | None:
        """What the weights were fitted on; None before."""
        return None if self._fitted is None else Origin(self._fitted.catalogue, self._fitted.train_hash)

    @property
    def n_parameters(self) -> int:
        """Parameters of all parts that tell theirs."""
        return sum(int(getattr(part, "n_parameters", 0) or 0) for part in self.parts)

    def describe(self) -> str:
        """Weights, scale and validation scores."""
        fitted = self.fitted
        told = zip(self.parts, fitted.weights, fitted.alone, strict=True)
        parts = ", ".join(f"{part.name} {weight:.2f} (alone {alone:.4f})" for part, weight, alone in told)
        chosen = "given" if self.config.weights is not None else "fitted"
        return (
            f"{fitted.normaliser} scores, weights {chosen}: {parts}; validation NDCG@10 {fitted.ndcg:.4f} on "
            f"{fitted.n_users} users"
        )

    def save(self, folder: Path | str) -> None:
        """Write weights, scale and validation scores (JSON), and the parts: each in a folder of its own where it can be
        saved, else by name and settings, to be fitted again when the blend is loaded.

        Raises:
            ConfigError: a part can neither be saved nor be built by name.
            StorageError: the disk is full or refuses the write.
        """
        from llmrec.ranking.blend_saving import save_blend

        save_blend(Path(folder), self)

    @classmethod
    def load(
        cls, folder: Path | str, dataset: Dataset, *, parts: Sequence[Recommender] | None = None
    ) -> BlendRecommender:
        """A fitted blend as it was saved.

        Args:
            folder: written by `save`.
            dataset: with the catalogue it was fitted on.
            parts: fitted parts in their order, to be used in place of the saved ones.

        Raises:
            CacheError: the folder is damaged or belongs to another catalogue; or a part has to be fitted again and the
                training events are not the same.
        """
        from llmrec.ranking.blend_saving import load_blend

        name, config, fitted, loaded = load_blend(Path(folder), dataset, parts)
        blend = cls(loaded, config=config, name=name)
        blend._own, blend._fitted = [], fitted
        return blend


async def _is_fitted(part: Any) -> bool:
    """By the contract of recommenders one that is not fitted refuses to score, even nobody."""
    try:
        await part.score([])
    except ConfigError:
        return False
    return True
