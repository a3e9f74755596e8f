"""Catalogue coverage: how much of the catalogue anybody is ever shown."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def catalogue_coverage(top: npt.NDArray[np.int64], n_items: int) -> float:
    """Share of the catalogue that is in at least one user's list.

    It grows with the number of users, so compare models on the same users only.

    Args:
        top: item rows, shape (n_users, k); -1 is an empty place.
        n_items: size of the catalogue.
    """
    assert n_items > 0, "an empty catalogue has no coverage"
    shown = np.unique(top[top >= 0])
    assert shown.size == 0 or int(shown[-1]) < n_items, f"item row {shown[-1]} in a catalogue of {n_items}"
    return float(shown.size / n_items)
