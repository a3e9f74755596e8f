"""Collaborative item vectors: which items stand near each other in training histories, without any text.

Co-occurrences within a window, ``1 / distance`` each and read both ways, become positive pointwise mutual information
with a smoothed context distribution, reduced by a truncated SVD: what word2vec does implicitly (Levy & Goldberg, Neural
word embedding as implicit matrix factorization, NeurIPS 2014; the exponent 0.75 is from Levy, Goldberg & Dagan, TACL
2015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmrec.errors import DataError
from llmrec.retrieval.encoders import unit
from llmrec.retrieval.item_knn import count_following

if TYPE_CHECKING:
    from llmrec.data.interactions import Interactions

_SMOOTHING = 0.75


def collaborative_vectors(
    train: Interactions, *, dimensions: int = 64, window: int = 10, seed: int = 0
) -> npt.NDArray[np.float32]:
    """Vectors of length 1, shape (n_items, dimensions); zeros for items without a neighbour in training.

    Args:
        train: training events alone; anything later would leak the targets.
        dimensions: at most n_items - 1 are made.
        window: largest distance in positions at which two items co-occur.
        seed: of the randomised SVD.

    Raises:
        DataError: no two items co-occur.
    """
    from sklearn.decomposition import TruncatedSVD

    matrix = ppmi(train, window=window)
    if matrix.nnz == 0:
        raise DataError("collaborative vectors need users with at least two items in training, got none")
    size = max(1, min(dimensions, matrix.shape[0] - 1))
    svd = TruncatedSVD(size, random_state=seed, n_iter=7)
    projected = svd.fit_transform(matrix)  # U S, (n_items, size)
    strength = np.sqrt(np.maximum(svd.singular_values_, 1e-12))
    return np.asarray(unit(projected / strength), dtype=np.float32)  # U S^(1/2), the symmetric square root


def ppmi(train: Interactions, *, window: int = 10) -> Any:
    """``max(0, log(C[a, b] * total / (row[a] * smoothed column[b])))`` of the symmetric counts C, scipy CSR.

    The smoothed column is ``col[b]^0.75`` scaled to the same total, which keeps rare items from the largest values.
    """
    import scipy.sparse

    following = count_following(train, window)
    counts = (following + following.T).tolil()
    counts.setdiag(0)  # repeats of one item say nothing about its neighbours
    coo = counts.tocsr().tocoo()
    coo.eliminate_zeros()
    total = float(coo.data.sum()) or 1.0
    marginal = np.bincount(coo.row, weights=coo.data, minlength=coo.shape[0])
    smoothed = marginal**_SMOOTHING
    smoothed *= total / (smoothed.sum() or 1.0)
    values = np.log(coo.data * total / (marginal[coo.row] * smoothed[coo.col]))
    kept = values > 0
    return scipy.sparse.csr_array((values[kept], (coo.row[kept], coo.col[kept])), shape=coo.shape)
