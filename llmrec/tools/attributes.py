"""Attribute values turned into row masks, so that a condition over a whole catalogue is one array operation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.data.catalogue import Catalogue
from llmrec.tools.wishes import Condition, Wish

BoolArray = npt.NDArray[np.bool_]


class AttributeIndex:
    """Inverted index over the attributes of a catalogue; each attribute is read once, when it is first asked for."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._postings: dict[str, dict[str, list[int]]] = {}
        self._numbers: dict[str, npt.NDArray[np.float64]] = {}

    def mask(self, wish: Wish) -> BoolArray:
        """Items that have the value, shape (n_items,)."""
        if wish.value is None:
            numbers = self.numbers(wish.attribute)
            low = -np.inf if wish.low is None else wish.low
            high = np.inf if wish.high is None else wish.high
            return np.asarray((numbers >= low) & (numbers <= high))  # NaN (missing) compares false
        found = np.zeros(len(self.catalogue), dtype=np.bool_)
        found[self.postings(wish.attribute).get(wish.value, [])] = True
        return found

    def allowed(self, conditions: list[Condition]) -> BoolArray:
        """Items that satisfy every condition, shape (n_items,)."""
        allowed = np.ones(len(self.catalogue), dtype=np.bool_)
        for wish, exclude in conditions:
            allowed &= ~self.mask(wish) if exclude else self.mask(wish)
        return allowed

    def rarity(self, wish: Wish) -> float:
        """How much it says that an item has the value: log(n_items / items that have it), at least a little above 0."""
        return math.log((len(self.catalogue) + 1) / (1 + int(self.mask(wish).sum()))) + 0.01

    def numbers(self, attribute: str) -> npt.NDArray[np.float64]:
        """Values of a numeric attribute, NaN where missing, shape (n_items,)."""
        if attribute not in self._numbers:
            column = self._column(attribute)
            self._numbers[attribute] = np.array([np.nan if value is None else float(value) for value in column])
        return self._numbers[attribute]

    def postings(self, attribute: str) -> dict[str, list[int]]:
        """Rows that have each value."""
        if attribute not in self._postings:
            postings: dict[str, list[int]] = {}
            for row, value in enumerate(self._column(attribute)):
                for single in value if isinstance(value, list) else [value]:
                    if single not in (None, ""):
                        postings.setdefault(str(single), []).append(row)
            self._postings[attribute] = postings
        return self._postings[attribute]

    def _column(self, attribute: str) -> list[Any]:
        return list(self.catalogue.table.column(attribute).to_pylist())
