"""BM25 over item text, in the Okapi form that CALRec's ranking uses.

Two engines, one formula: `bm25s` (an eager sparse index, the default) and `rank-bm25` (the plain reference
`BM25Okapi`). bm25s knows BM25Okapi's term weights (its "atire" method) but not its idf: Okapi's
``log(N - df + 0.5) - log(df + 0.5)`` is negative for terms in more than half of the documents, and `rank-bm25`
replaces negative values by ``epsilon`` times the average idf. So the columns of the bm25s index are rescaled to exactly
that idf. What a test holds: scores of the two engines agree to 1e-9 for every query, hence the rankings agree up to
rounding ties.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError
from llmrec.metrics.ranking import top_k
from llmrec.retrieval.base import FloatArray

Engine = Literal["bm25s", "rank-bm25"]
_WORD = re.compile(r"\w+")


def tokenise(text: str) -> list[str]:
    """Lower-cased words without accents: "Amélie (2001)" gives ["amelie", "2001"]."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(c for c in decomposed if not unicodedata.combining(c)))


class Bm25Index:
    """An index over documents in row order.

    Args:
        documents: one text per item.
        engine: "bm25s", or "rank-bm25" for the reference implementation (slower).
        k1: saturation of repeated terms.
        b: strength of the length normalisation, 0 to 1.
        epsilon: negative idf values become this share of the average idf.

    Raises:
        ConfigError: no documents, or an unknown engine.
    """

    def __init__(
        self,
        documents: Sequence[str],
        *,
        engine: Engine = "bm25s",
        k1: float = 1.5,
        b: float = 0.75,
        epsilon: float = 0.25,
    ) -> None:
        if not documents:
            raise ConfigError("a BM25 index needs at least one document, got none")
        if engine not in ("bm25s", "rank-bm25"):
            raise ConfigError(f"engine must be 'bm25s' or 'rank-bm25', got {engine!r}")
        self.engine: Engine = engine
        self.k1, self.b, self.epsilon = k1, b, epsilon
        self.n_documents = len(documents)
        tokens = [tokenise(document) for document in documents]
        # Sorted, because the order of terms decides the order of floating-point sums.
        self.vocabulary = {term: i for i, term in enumerate(sorted({term for doc in tokens for term in doc}))}
        self.idf = okapi_idf(tokens, self.vocabulary, epsilon)
        self._reference: Any = None
        if self.vocabulary and engine == "rank-bm25":
            self._reference = _reference(tokens, k1, b, epsilon)
        elif self.vocabulary:
            self._build(tokens)

    def _build(self, tokens: Sequence[Sequence[str]]) -> None:
        import bm25s

        ids = [[self.vocabulary[term] for term in document] for document in tokens]
        index = bm25s.BM25(method="atire", idf_method="lucene", k1=self.k1, b=self.b, dtype="float64")
        index.index((ids, dict(self.vocabulary)), create_empty_token=False, show_progress=False)
        self._indices, self._indptr = index.scores["indices"], index.scores["indptr"]
        per_term = np.diff(self._indptr)  # documents of each term
        lucene = np.log1p((self.n_documents - per_term + 0.5) / (per_term + 0.5))  # never 0, so it can be divided out
        self._data = index.scores["data"] * np.repeat(self.idf / lucene, per_term)

    def scores(self, query: str) -> FloatArray:
        """Score of every document, shape (n_documents,). Repeated and unknown terms count as in BM25Okapi."""
        return self.scores_of_terms(tokenise(query))

    def scores_of_terms(self, terms: Sequence[str]) -> FloatArray:
        """As `scores`, for a query that is tokenised already."""
        known = sorted(self.vocabulary[term] for term in terms if term in self.vocabulary)
        if not known:
            return np.zeros(self.n_documents)
        if self._reference is not None:
            with np.errstate(invalid="ignore"):  # with b = 1 an empty document is 0 / 0
                return np.nan_to_num(np.asarray(self._reference.get_scores(list(terms)), dtype=np.float64), nan=0.0)
        spans = [slice(int(self._indptr[i]), int(self._indptr[i + 1])) for i in known]
        documents = np.concatenate([self._indices[span] for span in spans])
        weights = np.concatenate([self._data[span] for span in spans])
        return np.bincount(documents, weights=weights, minlength=self.n_documents).astype(np.float64)

    def score_batch(self, queries: Sequence[str]) -> FloatArray:
        """Scores of many queries, shape (n_queries, n_documents)."""
        scores = np.empty((len(queries), self.n_documents))
        for row, query in enumerate(queries):
            scores[row] = self.scores(query)
        return scores

    def top(self, query: str, n: int = 10) -> list[tuple[int, float]]:
        """The best documents that share a term with the query: (row, score), ties by row; at most `n`."""
        scores = self.scores(query)
        matched = np.where(self.matches(query), scores, -np.inf)
        rows = top_k(matched[None, :], n)[0]
        return [(int(row), float(scores[row])) for row in rows if row >= 0]

    def matches(self, query: str) -> npt.NDArray[np.bool_]:
        """Which documents share a term with the query, shape (n_documents,)."""
        terms = {term for term in tokenise(query) if term in self.vocabulary}
        if self._reference is not None:
            return np.array([not terms.isdisjoint(document) for document in self._reference.doc_freqs])
        found = np.zeros(self.n_documents, dtype=np.bool_)
        for column in (self.vocabulary[term] for term in terms):
            found[self._indices[self._indptr[column] : self._indptr[column + 1]]] = True
        return found

    def share_of_ideal(self, query: str) -> FloatArray:
        """Scores divided by the most any document could reach for this query, shape (n_documents,), within [0, 1].

        Unknown words count as missed with the highest idf, so a query of which the index knows one word scores low.
        """
        terms = set(tokenise(query))
        highest = float(self.idf.max(initial=0.0))
        weights = [self.idf[self.vocabulary[t]] if t in self.vocabulary else highest for t in terms]
        ideal = float(np.maximum(weights, 0.0).sum()) * (self.k1 + 1) if weights else 0.0
        if ideal <= 0:
            return np.zeros(self.n_documents)
        return np.clip(self.scores_of_terms(sorted(terms)) / ideal, 0.0, 1.0)


def okapi_idf(tokens: Sequence[Sequence[str]], vocabulary: dict[str, int], epsilon: float) -> FloatArray:
    """idf of BM25Okapi with its epsilon floor, shape (n_terms,)."""
    frequency: Counter[str] = Counter(term for document in tokens for term in set(document))
    n = len(tokens)
    idf = np.array([math.log(n - frequency[t] + 0.5) - math.log(frequency[t] + 0.5) for t in vocabulary])
    return np.where(idf < 0, epsilon * idf.mean(), idf) if idf.size else idf


def _reference(tokens: Sequence[Sequence[str]], k1: float, b: float, epsilon: float) -> Any:
    from rank_bm25 import BM25Okapi

    return BM25Okapi(tokens, k1=k1, b=b, epsilon=epsilon)
