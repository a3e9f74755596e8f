"""Two stages: a first recommender names candidates, a second orders them, and the rest follows behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmrec.metrics.ranking import masked_scores, top_k_of_masked
from llmrec.ranking.rerank import RerankContext, Reranker
from llmrec.retrieval.base import FloatArray, IntArray, Recommender

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split


def candidates(scores: FloatArray, histories: Sequence[IntArray], n: int) -> list[IntArray]:
    """The n best items outside each history, best first; fewer where fewer are scored.

    Args:
        scores: shape (batch, n_items).
        histories: item rows, one array per row of the scores.
        n: candidates per row.
    """
    tops = top_k_of_masked(masked_scores(scores, histories), n)
    return [top[top >= 0] for top in tops]


def promoted(first: FloatArray, items: IntArray, values: FloatArray) -> FloatArray:
    """Scores in which some items stand above all others, shape (n_items,).

    Args:
        first: scores of the first stage, shape (n_items,); the others keep its order, and stay unscored where they
            were.
        items: rows of the items on top, shape (n,).
        values: their finite scores, shape (n,).
    """
    behind = np.array(first, dtype=np.float64)
    behind[np.isnan(behind)] = -np.inf
    behind[items] = -np.inf
    order = np.argsort(-behind, kind="stable")[: int(np.isfinite(behind).sum())]
    result = np.full(len(behind), -np.inf)
    result[order] = float(values.min(initial=0.0)) - 1.0 - np.arange(len(order))  # places: differences may be tiny
    result[items] = values
    return result


class RerankedRecommender:
    """A recommender whose best candidates are put into another order, as every other recommender is evaluated.

    Args:
        first: names the candidates; `fit` fits it too unless it is said to be fitted.
        reranker: fills the first places from them.
        candidates: best items of the first stage that it chooses from.
        k: places that it fills; the candidates that it leaves out and all other items follow in the first order.
        fitted: the first stage is fitted on the same split already.
        name: in tables; None joins the names of the two.
    """

    def __init__(
        self,
        first: Recommender,
        reranker: Reranker,
        *,
        candidates: int = 100,
        k: int = 20,
        fitted: bool = False,
        name: str | None = None,
    ) -> None:
        self.first, self.reranker = first, reranker
        self.candidates, self.k = candidates, k
        self.name = f"{first.name}+{reranker.name}" if name is None else name
        self._fitted = fitted

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Fit the first stage."""
        if not self._fitted:
            self.first.fit(dataset, split)

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Scores that tell the order alone, shape (batch, n_items)."""
        scores = await self.first.score(histories, users=users, seed=seed)
        chosen = candidates(scores, histories, self.candidates)
        rows = []
        for row, history, items in zip(scores, histories, chosen, strict=True):
            order = self.reranker.rerank(items, row[items], RerankContext(np.asarray(history)), self.k)
            rows.append(promoted(row, order, np.arange(len(order), 0.0, -1.0)))
        return np.reshape(rows, scores.shape)
