"""Calibrated lists: the mix of categories on the list follows the mix in the user's history.

Source: Steck, Calibrated recommendations (RecSys 2018). The greedy choice is within 1 - 1/e of the best list, for the
objective is submodular.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat

from llmrec.metrics.diversity import miscalibration
from llmrec.ranking.categories import ItemCategories
from llmrec.ranking.rerank import RerankContext, Scale, by_relevance, greedy, scaled
from llmrec.retrieval.base import FloatArray, IntArray


class CalibratedConfig(BaseModel):
    """Settings of the calibration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calibration: float = Field(default=0.2, ge=0, le=1)
    """Weight of the divergence against the sum of the scores (the paper's lambda); 0 changes nothing."""
    mixing: float = Field(default=0.01, gt=0, lt=1)
    """Share of the history's mix that is added to the list's before they are compared (the paper's alpha)."""
    smoothing: NonNegativeFloat = 0.0
    """Number of items of the catalogue's own mix that are added to the history."""
    half_life: PositiveFloat | None = None
    """Age, in items, at which an item of the history counts half; None counts all alike."""
    scale: Scale = "minmax"
    """How scores are made comparable with nats."""


class CalibratedReranker:
    """Chooses the list that is relevant and calibrated.

    An empty history has no mix to follow: without `smoothing` the order by relevance stays.

    Args:
        categories: values of every item.
        config: settings.
        name: in tables.
    """

    def __init__(
        self, categories: ItemCategories, *, config: CalibratedConfig | None = None, name: str = "calibrated"
    ) -> None:
        self.categories = categories
        self.config = config or CalibratedConfig()
        self.name = name

    def rerank(self, items: npt.ArrayLike, scores: npt.ArrayLike, context: RerankContext, k: int) -> IntArray:
        """The new first places (see `Reranker.rerank`)."""
        config = self.config
        rows, values = by_relevance(items, scores, k)
        wanted = self.categories.profile(context.history, smoothing=config.smoothing, half_life=config.half_life)
        if wanted is None:
            return rows[:k]
        order = calibrated_order(
            scaled(values, config.scale),
            self.categories.shares(rows),
            wanted,
            calibration=config.calibration,
            mixing=config.mixing,
            k=k,
        )
        return rows[order]


def calibrated_order(
    scores: FloatArray, shares: FloatArray, wanted: FloatArray, *, calibration: float, mixing: float, k: int
) -> IntArray:
    """Places of the greedily best list, shape (min(k, n),); ties go to the earlier candidate.

    Args:
        scores: shape (n,).
        shares: distribution of each candidate over the categories, shape (n, n_categories).
        wanted: distribution of the history, shape (n_categories,).
        calibration: weight of the divergence, in [0, 1].
        mixing: see `miscalibration`.
        k: places.
    """

    def gains(chosen: Sequence[int]) -> FloatArray:
        so_far = list(chosen)
        lists = (shares[so_far].sum(axis=0) + shares) / (len(so_far) + 1)  # (n, n_categories): with each candidate
        worth = float(scores[so_far].sum()) + scores
        return np.asarray((1.0 - calibration) * worth - calibration * miscalibration(wanted, lists, mixing=mixing))

    return greedy(len(scores), k, gains)
