"""Maximal marginal relevance: the next item is relevant and unlike those already placed.

Source: Carbonell & Goldstein, The use of MMR, diversity-based reranking for reordering documents and producing
summaries (SIGIR 1998).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from llmrec.ranking.rerank import RerankContext, Scale, by_relevance, greedy, scaled
from llmrec.ranking.similarity import Similarity
from llmrec.retrieval.base import FloatArray, IntArray


class MmrConfig(BaseModel):
    """Settings of maximal marginal relevance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    relevance: float = Field(default=0.9, ge=0, le=1)
    """Weight of the scores against the likeness to items already placed (the paper's lambda); 1 changes nothing."""
    scale: Scale = "minmax"
    """How scores are made comparable with similarities."""


class MmrReranker:
    """Orders candidates by maximal marginal relevance.

    Args:
        similarity: between items.
        config: settings.
        name: in tables.
    """

    def __init__(self, similarity: Similarity, *, config: MmrConfig | None = None, name: str = "mmr") -> None:
        self.similarity = similarity
        self.config = config or MmrConfig()
        self.name = name

    def rerank(self, items: npt.ArrayLike, scores: npt.ArrayLike, context: RerankContext, k: int) -> IntArray:
        """The new first places (see `Reranker.rerank`); the history is not looked at."""
        rows, values = by_relevance(items, scores, k)
        order = mmr_order(
            scaled(values, self.config.scale), self.similarity(rows), relevance=self.config.relevance, k=k
        )
        return rows[order]


def mmr_order(scores: FloatArray, similarity: FloatArray, *, relevance: float, k: int) -> IntArray:
    """Places in the order of maximal marginal relevance, shape (min(k, n),); ties go to the earlier candidate.

    Args:
        scores: shape (n,).
        similarity: shape (n, n).
        relevance: weight of the scores, in [0, 1].
        k: places.
    """

    def gains(chosen: Sequence[int]) -> FloatArray:
        alike = similarity[:, list(chosen)].max(axis=1) if len(chosen) else np.zeros(len(scores))
        return relevance * scores - (1.0 - relevance) * alike

    return greedy(len(scores), k, gains)
