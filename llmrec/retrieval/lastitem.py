"""BM25 with the text of the last item as query: the heuristic that text models have to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmrec.retrieval.base import FloatArray, IntArray, checked_histories, popularity_backoff, require_fitted
from llmrec.retrieval.bm25 import Bm25Index, Engine

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split


class LastItemRecommender:
    """Ranks items by how much their text looks like the newest item's; popularity orders equals and empty histories."""

    def __init__(self, *, engine: Engine = "bm25s", name: str = "bm25-lastitem") -> None:
        self.name = name
        self.engine: Engine = engine
        self._documents: list[str] = []
        self._index: Bm25Index | None = None
        self._backoff: FloatArray | None = None

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Index the catalogue's documents."""
        catalogue = dataset.catalogue
        self._documents = [catalogue.document(row) for row in range(len(catalogue))]
        self._index = Bm25Index(self._documents, engine=self.engine)
        self._backoff = popularity_backoff(split.train.item_counts())

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """BM25 scores of the catalogue, shape (batch, n_items)."""
        index, backoff = require_fitted(self._index, self.name), require_fitted(self._backoff, self.name)
        scores = np.empty((len(histories), index.n_documents))
        for row, history in enumerate(checked_histories(histories, n_items=index.n_documents)):
            scores[row] = index.scores(self._documents[int(history[-1])]) if len(history) else 0.0
        return scores + backoff
