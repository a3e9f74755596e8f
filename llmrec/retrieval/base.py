"""The contract of everything that ranks the catalogue for a history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
T = TypeVar("T")

BACKOFF = 1e-9
"""Weight of the popularity tie-breaker, far below any difference of real scores."""


@runtime_checkable
class Recommender(Protocol):
    """Scores every item of the catalogue."""

    name: str

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Learn from the training part of the split alone."""
        ...

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Score the catalogue for each history.

        Args:
            histories: item rows, oldest first, one array per user.
            users: user numbers, for recommenders that use them.
            seed: of anything drawn; a draw depends on the seed and the user or history, never on the batch.

        Returns:
            Shape (batch, n_items), higher is better; ``-inf`` or ``nan`` is unscored. History items need not be
            removed: whoever cuts a list does that.
        """
        ...


@runtime_checkable
class FilteredRecommender(Recommender, Protocol):
    """One that searches, and would spend the few places of its search on items that are dropped afterwards."""

    async def score_among(
        self,
        histories: Sequence[IntArray],
        *,
        allowed: Sequence[npt.NDArray[np.bool_]],
        users: Sequence[int] | None = None,
        seed: int = 0,
    ) -> FloatArray:
        """`score` among some items of the catalogue; the others are ``-inf``.

        Args:
            allowed: which items, for each history, shape (n_items,) each.
        """
        ...


def popularity_backoff(item_counts: npt.NDArray[np.int64]) -> FloatArray:
    """Tiny popularity scores, shape (n_items,): they order items that have equal scores, unreached ones above all."""
    return item_counts.astype(np.float64) * (BACKOFF / max(1, int(item_counts.max(initial=0))))


def require_fitted(value: T | None, name: str) -> T:
    """The fitted state of a recommender.

    Raises:
        ConfigError: `fit` was not called.
    """
    if value is None:
        raise ConfigError(f"the recommender {name!r} is not fitted; call fit(dataset, split) first")
    return value


def checked_histories(histories: Sequence[IntArray], *, n_items: int, max_length: int | None = None) -> list[IntArray]:
    """The newest `max_length` items of each history; None takes all.

    Raises:
        DataError: a history names an item row that the catalogue does not have.
    """
    checked = []
    for history in histories:
        rows = np.asarray(history, dtype=np.int64)
        wrong = rows[(rows < 0) | (rows >= n_items)]
        if len(wrong):
            raise DataError(
                f"a history holds an unknown item, got row {int(wrong[0])}; this catalogue has the rows 0 to "
                f"{n_items - 1}: drop the item, or fit on the catalogue that has it"
            )
        checked.append(rows if max_length is None else rows[-max_length:])
    return checked
