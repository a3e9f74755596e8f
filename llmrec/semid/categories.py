"""Category labels of items, for the report and for quantisers that respect a category tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmrec.errors import DataError
from llmrec.semid.base import IntArray

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue

NO_LABEL = -1
_PREFERRED = ("categories", "genres", "category", "genre")


def category_attribute(catalogue: Catalogue, wanted: str | None = None) -> str | None:
    """The attribute that holds categories: the one asked for, else one with a usual name; None where there is none.

    Raises:
        DataError: there is no such attribute, or it is a number or free text.
    """
    if wanted is None:
        usual = [name for name in _PREFERRED if name in catalogue.attribute_names]
        wanted = next((name for name in usual if catalogue.kind(name) in ("category", "categories")), None)
    if wanted is not None:
        catalogue.vocabulary(wanted)
    return wanted


def category_paths(catalogue: Catalogue, attribute: str, depth: int) -> IntArray:
    """Number of each item's category path of 1 to `depth` values, shape (n_items, depth); -1 where it has none.

    An item's values are read in their order, as a path from the root ("Beauty", "Skin Care", "Face"); values that every
    item has, such as the root of the whole catalogue, are left out. A path that is shorter than its depth has no label
    there.

    Raises:
        DataError: no attribute of that name holds categories, or none tells items apart.
    """
    universal = {value for value, count in catalogue.vocabulary(attribute).items() if count >= len(catalogue)}
    numbers: dict[tuple[str, ...], int] = {}
    labels = np.full((len(catalogue), depth), NO_LABEL, dtype=np.int64)
    for row in range(len(catalogue)):
        path = tuple(str(value) for value in catalogue.values(row, attribute) if str(value) not in universal)
        for length in range(1, min(depth, len(path)) + 1):
            labels[row, length - 1] = numbers.setdefault(path[:length], len(numbers))
    if not numbers:
        raise DataError(f"the attribute {attribute!r} tells no items apart; name another category attribute")
    return labels
