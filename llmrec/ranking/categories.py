"""Which values of a category attribute the items have, and which mix of them a history holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse

from llmrec.errors import DataError
from llmrec.retrieval.base import FloatArray, IntArray

if TYPE_CHECKING:
    import numpy.typing as npt

    from llmrec.data.catalogue import Catalogue

NONE = "(none)"
"""Stands for the missing value: items without the attribute are a kind of their own, not items of no kind."""


class ItemCategories:
    """The values of each item as a sparse matrix.

    Args:
        values: values of each item, by row; repeats count once.
        name: of the attribute, for messages.
    """

    def __init__(self, values: Sequence[Sequence[str]], *, name: str = "categories") -> None:
        known = sorted({value for own in values for value in own})
        if not known:
            raise DataError(f"the attribute {name!r} has no value on any of {len(values)} items; name another one")
        self.name = name
        self.n_known = len(known)
        """Number of values without `NONE`, which comes last where an item needs it."""
        column = {value: place for place, value in enumerate(known)}
        columns = [sorted({column[value] for value in own}) or [len(known)] for own in values]
        lengths = np.array([len(own) for own in columns])
        some_lack = any(not own for own in values)
        self.names: tuple[str, ...] = (*known, NONE) if some_lack else tuple(known)
        self._matrix = scipy.sparse.csr_array(
            (np.ones(lengths.sum()), np.concatenate(columns), np.concatenate([[0], np.cumsum(lengths)])),
            shape=(len(values), len(self.names)),
        )
        self._overall: FloatArray = (self._matrix.T @ (1.0 / lengths)) / len(values)

    @classmethod
    def from_catalogue(cls, catalogue: Catalogue, attribute: str) -> ItemCategories:
        """The values of an attribute.

        Raises:
            DataError: no such attribute, or it is a number or free text.
        """
        catalogue.vocabulary(attribute)  # refuses what is no category
        values: list[list[str]] = []
        for value in catalogue.table.column(attribute).to_pylist():
            own = value if isinstance(value, list) else [value]
            values.append([str(single) for single in own if single not in (None, "")])
        return cls(values, name=attribute)

    def __len__(self) -> int:
        return int(self._matrix.shape[0])

    def members(self, rows: npt.ArrayLike) -> FloatArray:
        """1 where an item has the value, else 0, shape (n, n_values)."""
        found: FloatArray = self._matrix[np.asarray(rows, dtype=np.int64)].toarray()
        return found

    def shares(self, rows: npt.ArrayLike) -> FloatArray:
        """An item's values with equal parts of one, shape (n, n_values)."""
        found = self.members(rows)
        shares: FloatArray = found / found.sum(axis=1, keepdims=True)
        return shares

    def profile(
        self, history: IntArray, *, smoothing: float = 0.0, half_life: float | None = None
    ) -> FloatArray | None:
        """Distribution over the values in a history, shape (n_values,).

        Args:
            history: item rows, oldest first.
            smoothing: number of items of the catalogue's own mix that are added.
            half_life: age, in items, at which an item counts half; None counts all alike.

        Returns:
            None for an empty history without smoothing, which has no distribution.
        """
        age = np.arange(len(history))[::-1]
        weights = np.ones(len(history)) if half_life is None else 0.5 ** (age / half_life)
        mass = weights @ self.shares(history) + smoothing * self._overall  # (n_values,)
        total = float(mass.sum())
        return mass / total if total > 0 else None
