"""Matrix factorisation for implicit feedback by alternating least squares, through the library `implicit`.

Source: Hu, Koren & Volinsky, Collaborative filtering for implicit feedback datasets (ICDM 2008). A user's vector is
computed from the history at hand, so a new event counts without training again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from llmrec.errors import CacheError, MissingDependencyError
from llmrec.ranking.linear import user_items, weighted_histories
from llmrec.ranking.saved import Origin, origin_of, read_spec, write_spec
from llmrec.retrieval.base import FloatArray, IntArray, popularity_backoff, require_fitted

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split


class AlsConfig(BaseModel):
    """Settings of ALS."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: PositiveInt = 64
    """Of user and item vectors."""
    regularisation: PositiveFloat = 0.01
    alpha: PositiveFloat = 10.0
    """Confidence of a consumed item; that of every other is 1."""
    iterations: PositiveInt = 15
    recency: NonNegativeFloat = 0.0
    """The confidence of the j-th newest item of a history falls by ``j ** -recency`` when it is scored."""
    seed: int = 0
    """Of the first vectors."""


class AlsRecommender:
    """Scores items by the product of their vectors with the vector that explains the history best."""

    def __init__(self, *, config: AlsConfig | None = None, name: str = "als") -> None:
        self.name = name
        self.config = config or AlsConfig()
        self._items: FloatArray | None = None  # (n_items, width)
        self._counts: IntArray | None = None
        self.origin: Origin | None = None
        """What it was fitted on."""

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Factorise the training histories.

        Raises:
            MissingDependencyError: implicit is not installed.
        """
        self._items = _item_factors(user_items(split.train), self.config).astype(np.float64)
        self._counts = split.train.item_counts()
        self.origin = Origin.of(dataset, split)

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Products, shape (batch, n_items); popularity for an empty history.

        Raises:
            DataError: a history holds a row that the catalogue does not have.
        """
        items, counts = require_fitted(self._items, self.name), require_fitted(self._counts, self.name)
        query = weighted_histories(histories, n_items=len(items), recency=self.config.recency)
        gram = items.T @ items + self.config.regularisation * np.eye(items.shape[1])
        scores: FloatArray = np.empty((len(histories), len(items)))
        for row in range(len(histories)):
            part = slice(query.indptr[row], query.indptr[row + 1])
            own, confidence = items[query.indices[part]], self.config.alpha * query.data[part]
            # the user's half of a sweep, exactly: confidence of an item without event is 1, of one with event alpha
            user = np.linalg.solve(gram + (own.T * (confidence - 1)) @ own, own.T @ confidence)
            scores[row] = items @ user
        return scores + popularity_backoff(counts)

    def item_embeddings(self) -> npt.NDArray[np.float32]:
        """Item vectors, shape (n_items, width)."""
        return require_fitted(self._items, self.name).astype(np.float32)

    @property
    def n_parameters(self) -> int:
        """Numbers in the item vectors."""
        return require_fitted(self._items, self.name).size

    def save(self, folder: Path | str) -> None:
        """Write vectors (safetensors) and description (JSON).

        Raises:
            StorageError: the disk is full or refuses the write.
        """
        import torch

        from llmrec.ranking.tensors import write_weights

        tensors = {
            "items": torch.from_numpy(require_fitted(self._items, self.name)),
            "counts": torch.from_numpy(require_fitted(self._counts, self.name)),
        }
        write_weights(Path(folder), tensors)
        config = self.config.model_dump(mode="json")
        write_spec(Path(folder), "als", require_fitted(self.origin, self.name), name=self.name, config=config)

    @classmethod
    def load(cls, folder: Path | str, dataset: Dataset) -> AlsRecommender:
        """A fitted recommender as it was saved; `implicit` is not needed for it.

        Raises:
            CacheError: the folder is damaged, or its catalogue is not that of the dataset.
        """
        from llmrec.ranking.tensors import read_weights

        spec, tensors = read_spec(Path(folder), dataset), read_weights(Path(folder))
        try:
            loaded = cls(config=AlsConfig.model_validate(spec["config"]), name=spec["name"])
            loaded._items, loaded._counts = tensors["items"].numpy(), tensors["counts"].numpy()
            loaded.origin = origin_of(spec)
            if len(loaded._items) != len(dataset.catalogue) or len(loaded._counts) != len(dataset.catalogue):
                raise ValueError(f"{len(loaded._items)} rows for {len(dataset.catalogue)} items")
        except (KeyError, TypeError, ValueError) as error:
            raise CacheError(f"{folder} holds no usable als ({error}); save the recommender again") from error
        return loaded


def _item_factors(matrix: Any, config: AlsConfig) -> npt.NDArray[np.float32]:
    try:
        from implicit.cpu.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingDependencyError("implicit", needed_for="the recommender 'als'", extra="als") from error
    import scipy.sparse

    with threadpool_limits(1, "blas"):  # implicit has threads of its own, and warns of others
        model = AlternatingLeastSquares(
            factors=config.width,
            regularization=config.regularisation,
            alpha=config.alpha,
            iterations=config.iterations,
            random_state=config.seed,
        )
        model.fit(scipy.sparse.csr_matrix(matrix), show_progress=False)
    factors: npt.NDArray[np.float32] = model.item_factors
    return factors
