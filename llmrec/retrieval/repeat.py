"""Repetition as a baseline: the items of the history again, newest first (the "last item" heuristics of CALRec).

Where items are ranked that the user had already, these are hard to beat on shops; where the protocol leaves history
items out, nothing but the filling remains of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from llmrec.retrieval.base import FloatArray, IntArray, require_fitted
from llmrec.retrieval.lastitem import LastItemRecommender

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split

Form = Literal["last", "history", "filled"]


class RepeatRecommender:
    """Ranks what the user had.

    Args:
        form: "last", the newest item alone; "history", every item once, newest first; "filled", the same, and behind
            it all other items by BM25 with the text of the newest, then by popularity.
        name: in tables; default by form.
    """

    def __init__(self, *, form: Form = "filled", name: str | None = None) -> None:
        self.form: Form = form
        self.name = name or f"repeat-{form}"
        self._filler = LastItemRecommender()
        self._n_items: int | None = None

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Index what fills the list."""
        self._n_items = len(dataset.catalogue)
        if self.form == "filled":
            self._filler.fit(dataset, split)

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Scores, shape (batch, n_items); -inf for what is neither repeated nor filled in."""
        n_items = require_fitted(self._n_items, self.name)
        if self.form == "filled":
            scores = await self._filler.score(histories, users=users, seed=seed)
        else:
            scores = np.full((len(histories), n_items), -np.inf)
        for row, history in enumerate(histories):
            newest_first = list(dict.fromkeys(int(item) for item in history[::-1]))
            repeated = newest_first[:1] if self.form == "last" else newest_first
            floor = float(scores[row].max()) if self.form == "filled" else 0.0
            scores[row, repeated] = floor + np.arange(len(repeated), 0, -1)
        return scores
