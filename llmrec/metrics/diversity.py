"""What a list is like beside being right: how different its items are, how far its mix is from the user's own.

Sources: Ziegler et al., Improving recommendation lists through topic diversification (WWW 2005), for the diversity
inside a list; Steck, Calibrated recommendations (RecSys 2018), for the divergence.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def intra_list_diversity(similarity: npt.ArrayLike) -> float:
    """Mean of one minus the similarity over all pairs of a list; ``nan`` for a list without a pair.

    Args:
        similarity: of the list's items with each other, symmetric, shape (n, n).
    """
    matrix = np.asarray(similarity, dtype=np.float64)
    assert matrix.shape == (len(matrix), len(matrix)), f"similarity must be (n, n), got {matrix.shape}"
    above = np.triu_indices(len(matrix), k=1)
    return float(1.0 - matrix[above].mean()) if len(above[0]) else float("nan")


def miscalibration(wanted: npt.ArrayLike, shown: npt.ArrayLike, *, mixing: float = 0.01) -> FloatArray:
    """Kullback-Leibler divergence (nats) of what a list shows from what its user is used to; 0 is calibrated.

    Args:
        wanted: distribution over categories in the history, shape (n_categories,).
        shown: distributions in the lists, shape (..., n_categories).
        mixing: share of `wanted` that is mixed into `shown`, in (0, 1], so that a category that is not shown costs
            much but not infinitely much (the paper's alpha).

    Returns:
        Shape (...).
    """
    p = np.asarray(wanted, dtype=np.float64)
    q = (1.0 - mixing) * np.asarray(shown, dtype=np.float64) + mixing * p
    present = p > 0  # 0 log 0 is 0
    return np.asarray((p[present] * np.log(p[present] / q[..., present])).sum(axis=-1), dtype=np.float64)
