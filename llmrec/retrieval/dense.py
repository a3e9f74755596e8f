"""Dense retrieval: sentence embeddings of a named model, or TF-IDF reduced by SVD when none is named.

The choice is the caller's and `DenseIndex.describe` says which is in use; a named model that cannot be loaded is an
error, never a reason to use the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveInt

from llmrec.errors import ConfigError
from llmrec.metrics.ranking import top_k
from llmrec.retrieval.base import FloatArray, IntArray, checked_histories, popularity_backoff, require_fitted
from llmrec.retrieval.encoders import Encoder, SentenceEncoder, TfidfSvdEncoder, unit

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split


class DenseConfig(BaseModel):
    """Settings of dense retrieval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    """A sentence-transformers model (hub id or folder, or "minilm", which a package carries); None is TF-IDF with SVD,
    which needs no model."""
    dimensions: PositiveInt = 128
    """Size of the SVD embedding; a sentence model brings its own."""
    history_items: PositiveInt = 5
    """Newest items of a history that form the query, the j-th from the end with weight 1/j."""
    seed: int = 0
    """Of the randomised SVD."""


class DenseIndex:
    """Cosine search over the vectors of documents, in row order."""

    def __init__(self, documents: Sequence[str], *, config: DenseConfig | None = None) -> None:
        if not documents:
            raise ConfigError("a dense index needs at least one document, got none")
        config = config or DenseConfig()
        self.encoder: Encoder = (
            TfidfSvdEncoder(documents, dimensions=config.dimensions, seed=config.seed)
            if config.model is None
            else SentenceEncoder(config.model)
        )
        self.vectors = self.encoder.encode(documents)  # (n_documents, dimensions)

    def describe(self) -> str:
        """Which encoder is in use."""
        return self.encoder.describe()

    def scores(self, query: str) -> FloatArray:
        """Cosine of every document with the query, shape (n_documents,)."""
        cosines: FloatArray = self.vectors @ self.encoder.encode([query])[0]
        return cosines

    def top(self, query: str, n: int = 10) -> list[tuple[int, float]]:
        """The nearest documents, (row, cosine), best first; at most `n`."""
        scores = self.scores(query)
        return [(int(row), float(scores[row])) for row in top_k(scores[None, :], n)[0]]


class DenseRecommender:
    """Ranks items by cosine with the recency-weighted mean vector of the newest history items."""

    def __init__(self, *, config: DenseConfig | None = None, name: str = "dense") -> None:
        self.name = name
        self.config = config or DenseConfig()
        self._index: DenseIndex | None = None
        self._backoff: FloatArray | None = None

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Embed the catalogue's documents."""
        catalogue = dataset.catalogue
        documents = [catalogue.document(row) for row in range(len(catalogue))]
        self._index = DenseIndex(documents, config=self.config)
        self._backoff = popularity_backoff(split.train.item_counts())

    def describe(self) -> str:
        """Which encoder is in use."""
        return require_fitted(self._index, self.name).describe()

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Cosines, shape (batch, n_items); popularity orders equals and serves empty histories."""
        vectors = require_fitted(self._index, self.name).vectors
        queries = np.zeros((len(histories), vectors.shape[1]))
        for row, history in enumerate(checked_histories(histories, n_items=len(vectors))):
            recent = history[-self.config.history_items :][::-1]
            queries[row] = (vectors[recent] / np.arange(1, len(recent) + 1)[:, None]).sum(axis=0)
        scores: FloatArray = unit(queries) @ vectors.T  # (batch, n_items)
        return scores + require_fitted(self._backoff, self.name)
