"""EASE: item-item weights by linear regression with a zero diagonal, in closed form.

The inverse of one regularised Gram matrix is the whole method, ``B = I - P diag(P)^-1`` with ``P = (X^T X + r I)^-1``,
so it is a few lines over LAPACK here: the library that offers it would take other packages of the installation back to
versions before their last major one.

Source: Steck, Embarrassingly shallow autoencoders for sparse data (WWW 2019, arXiv 1905.03375). The recency weights are
an addition; with 0, their default, it is the method as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from llmrec.errors import CacheError, ConfigError
from llmrec.ranking.saved import Origin, origin_of, read_spec, write_spec
from llmrec.retrieval.base import FloatArray, IntArray, checked_histories, popularity_backoff, require_fitted

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.interactions import Interactions
    from llmrec.data.splits import Split

_ROWS = 1024  # of the matrix, handled at once where a copy of all of it would be as large again


class EaseConfig(BaseModel):
    """Settings of EASE."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    regularisation: PositiveFloat = 200.0
    """Added to the diagonal of the Gram matrix; more for sparser data."""
    recency: NonNegativeFloat = 0.0
    """The j-th newest item of a history weighs ``j ** -recency`` when it is scored; 0 ignores the order."""
    max_items: PositiveInt = 30_000
    """Largest catalogue: the matrix takes 4 bytes times its square, the inverse time with its cube."""


class EaseRecommender:
    """Scores items by the summed weights from the items of the history; popularity orders those that none reaches."""

    def __init__(self, *, config: EaseConfig | None = None, name: str = "ease") -> None:
        self.name = name
        self.config = config or EaseConfig()
        self._weights: npt.NDArray[np.float32] | None = None  # (n_items, n_items): row = item already consumed
        self._counts: IntArray | None = None
        self.origin: Origin | None = None
        """What it was fitted on."""

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Invert the Gram matrix of the training histories.

        Raises:
            ConfigError: the catalogue is larger than `max_items`.
        """
        n_items = len(dataset.catalogue)
        if n_items > self.config.max_items:
            raise ConfigError(
                f"EASE needs a dense matrix of the catalogue squared, {4 * n_items**2 / 2**30:.0f} GiB for {n_items} "
                f"items, got max_items {self.config.max_items!r}; raise it if that fits, or take 'als' or 'knn'"
            )
        self._weights = ease_weights(user_items(split.train), self.config.regularisation)
        self._counts = split.train.item_counts()
        self.origin = Origin.of(dataset, split)

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Summed weights, shape (batch, n_items).

        Raises:
            DataError: a history holds a row that the catalogue does not have.
        """
        weights, counts = require_fitted(self._weights, self.name), require_fitted(self._counts, self.name)
        query = weighted_histories(histories, n_items=len(weights), recency=self.config.recency)
        scores: FloatArray = np.empty((len(histories), len(weights)))
        for row in range(len(histories)):  # one by one: a row must not depend on its batch
            part = slice(query.indptr[row], query.indptr[row + 1])
            scores[row] = query.data[part] @ weights[query.indices[part]].astype(np.float64)
        return scores + popularity_backoff(counts)

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return require_fitted(self._weights, self.name).size

    def save(self, folder: Path | str) -> None:
        """Write weights (safetensors) and description (JSON).

        Raises:
            StorageError: the disk is full or refuses the write.
        """
        import torch

        from llmrec.ranking.tensors import write_weights

        tensors = {
            "weights": torch.from_numpy(require_fitted(self._weights, self.name)),
            "counts": torch.from_numpy(require_fitted(self._counts, self.name)),
        }
        write_weights(Path(folder), tensors)
        write_spec(
            Path(folder),
            "ease",
            require_fitted(self.origin, self.name),
            name=self.name,
            config=self.config.model_dump(mode="json"),
        )

    @classmethod
    def load(cls, folder: Path | str, dataset: Dataset) -> EaseRecommender:
        """A fitted recommender as it was saved.

        Raises:
            CacheError: the folder is damaged, or its catalogue is not that of the dataset.
        """
        from llmrec.ranking.tensors import read_weights

        spec, tensors = read_spec(Path(folder), dataset), read_weights(Path(folder))
        try:
            loaded = cls(config=EaseConfig.model_validate(spec["config"]), name=spec["name"])
            loaded._weights, loaded._counts = tensors["weights"].numpy(), tensors["counts"].numpy()
            loaded.origin = origin_of(spec)
            if len(loaded._weights) != len(dataset.catalogue) or len(loaded._counts) != len(dataset.catalogue):
                raise ValueError(f"{len(loaded._weights)} rows for {len(dataset.catalogue)} items")
        except (KeyError, TypeError, ValueError) as error:
            raise CacheError(f"{folder} holds no usable ease ({error}); save the recommender again") from error
        return loaded


def ease_weights(matrix: Any, regularisation: float) -> npt.NDArray[np.float32]:
    """Item-item weights.

    Args:
        matrix: users by items, sparse, shape (n_users, n_items).
        regularisation: added to the diagonal of the Gram matrix; positive, so that an inverse exists.

    Returns:
        float32, shape (n_items, n_items), diagonal 0; column j predicts item j.

    Raises:
        ConfigError: the regularisation is too small for float32.
    """
    from scipy.linalg.lapack import spotrf, spotri

    gram = np.asfortranarray((matrix.T @ matrix).toarray(), dtype=np.float32)
    np.fill_diagonal(gram, gram.diagonal() + np.float32(regularisation))
    factor, failed = spotrf(gram, lower=1, overwrite_a=1)
    if failed:  # positive definite in exact arithmetic, not in 24 bits
        raise ConfigError(
            f"EASE's matrix cannot be inverted in float32 with regularisation {regularisation!r}; raise it, to 500 say"
        )
    inverse, _ = spotri(factor, lower=1, overwrite_c=1)  # its lower half
    n = len(inverse)
    for start in range(0, n, _ROWS):
        block = slice(start, start + _ROWS)
        corner = inverse[block, block]
        inverse[block, block] = np.tril(corner) + np.tril(corner, -1).T
        inverse[block, start + _ROWS :] = inverse[start + _ROWS :, block].T
    diagonal = inverse.diagonal().copy()
    inverse /= -diagonal  # column j by P[j, j]
    np.fill_diagonal(inverse, 0.0)
    return np.ascontiguousarray(inverse, dtype=np.float32)


def user_items(interactions: Interactions) -> Any:
    """Who consumed what: scipy CSR array of ones, float32, shape (n_users, n_items); repeats count once."""
    import scipy.sparse

    shape = (interactions.n_users, interactions.n_items)
    ones = np.ones(len(interactions), dtype=np.float32)
    # copies: summing duplicates sorts the arrays in place, and these are the histories themselves
    matrix = scipy.sparse.csr_array((ones, interactions.items.copy(), interactions.offsets.copy()), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def weighted_histories(histories: Sequence[IntArray], *, n_items: int, recency: float) -> Any:
    """Histories as a sparse matrix: the j-th newest item weighs ``j ** -recency``; a repeat keeps its newest weight.

    Returns:
        scipy CSR array, float64, shape (batch, n_items).

    Raises:
        DataError: a history holds a row that the catalogue does not have.
    """
    import scipy.sparse

    columns: list[IntArray] = []
    weights: list[FloatArray] = []
    for history in checked_histories(histories, n_items=n_items, max_length=max(map(len, histories), default=0) or 1):
        items, newest = np.unique(history[::-1], return_index=True)
        columns.append(items)
        weights.append(((newest + 1.0) ** -recency).astype(np.float64))
    ends = np.concatenate([[0], np.cumsum([len(items) for items in columns])]).astype(np.int64)
    data, indices = np.concatenate([np.empty(0), *weights]), np.concatenate([np.empty(0, dtype=np.int64), *columns])
    return scipy.sparse.csr_array((data, indices, ends), shape=(len(histories), n_items))
