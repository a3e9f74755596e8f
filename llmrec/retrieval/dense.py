"""Dense retrieval: sentence embeddings of a named model, or TF-IDF reduced by SVD when none is named.

The choice is the caller's and `DenseIndex.describe` says which is in use; a named model that cannot be loaded is an
error, never a reason to use the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveInt

from llmrec.errors import ConfigError, MissingDependencyError, ModelNotFoundError
from llmrec.metrics.ranking import top_k
from llmrec.retrieval.base import FloatArray, IntArray, popularity_backoff, require_fitted

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split


class DenseConfig(BaseModel):
    """Settings of dense retrieval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    """A sentence-transformers model (hub id or folder); None is TF-IDF with SVD, which needs no download."""
    dimensions: PositiveInt = 128
    """Size of the SVD embedding; a sentence model brings its own."""
    history_items: PositiveInt = 5
    """Newest items of a history that form the query, the j-th from the end with weight 1/j."""
    seed: int = 0
    """Of the randomised SVD."""


class Encoder(Protocol):
    """Turns texts into vectors of length 1 (or 0 for a text without known words)."""

    def describe(self) -> str:
        """One line for reports."""
        ...

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Shape (n_texts, dimensions)."""
        ...


class TfidfSvdEncoder:
    """Latent semantic analysis fitted on the documents (Deerwester et al., 1990)."""

    def __init__(self, documents: Sequence[str], *, dimensions: int, seed: int) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        from llmrec.retrieval.bm25 import tokenise

        self._tfidf = TfidfVectorizer(tokenizer=tokenise, lowercase=False, token_pattern=None, sublinear_tf=True)
        try:
            matrix = self._tfidf.fit_transform(documents)
        except ValueError as error:
            raise ConfigError("dense retrieval needs documents with words, got none") from error
        # The randomised SVD needs fewer components than both sides of the matrix.
        self.dimensions = max(1, min(dimensions, min(matrix.shape) - 1))
        self._svd = TruncatedSVD(self.dimensions, random_state=seed).fit(matrix) if min(matrix.shape) > 1 else None

    def describe(self) -> str:
        """Says that no sentence model is in use."""
        return f"TF-IDF + SVD, {self.dimensions} dimensions (no sentence model named)"

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Shape (n_texts, dimensions), rows of length 1."""
        matrix = self._tfidf.transform(texts)
        return _unit(matrix.toarray() if self._svd is None else self._svd.transform(matrix))


class SentenceEncoder:
    """A sentence-transformers model.

    Raises:
        MissingDependencyError: sentence-transformers is not installed.
        ModelNotFoundError: the model cannot be loaded.
    """

    def __init__(self, model: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            needed_for = f"the dense model {model!r}"
            raise MissingDependencyError("sentence-transformers", needed_for=needed_for, extra="dense") from error
        try:
            self._model: Any = SentenceTransformer(model)
        except (OSError, ValueError) as error:
            raise ModelNotFoundError(f"cannot load the sentence model, got {model!r}: {error}") from error
        self._name = model

    def describe(self) -> str:
        """Names the model."""
        return f"sentence model {self._name}"

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Shape (n_texts, dimensions), rows of length 1."""
        return _unit(np.asarray(self._model.encode(list(texts), show_progress_bar=False), dtype=np.float64))


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
        for row, history in enumerate(histories):
            recent = history[-self.config.history_items :][::-1]
            queries[row] = (vectors[recent] / np.arange(1, len(recent) + 1)[:, None]).sum(axis=0)
        scores: FloatArray = _unit(queries) @ vectors.T  # (batch, n_items)
        return scores + require_fitted(self._backoff, self.name)


def _unit(vectors: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), dtype=np.float64)
