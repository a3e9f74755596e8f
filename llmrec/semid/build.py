"""From item vectors to semantic ids."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmrec.errors import DataError
from llmrec.semid.base import EncoderState, check_vectors
from llmrec.semid.codes import SemanticIds
from llmrec.semid.kmeans import KmeansConfig
from llmrec.semid.quantiser import QuantiserConfig, quantise
from llmrec.semid.report import variance_left

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue


def build_ids(
    catalogue: Catalogue,
    vectors: npt.NDArray[Any],
    *,
    config: QuantiserConfig | None = None,
    seed: int = 0,
    counts: npt.NDArray[np.int64] | None = None,
    collision_size: int | None = None,
    encoder: EncoderState | None = None,
    note: str = "",
    collaborative: npt.NDArray[Any] | None = None,
    categories: npt.NDArray[np.int64] | None = None,
) -> SemanticIds:
    """Quantise item vectors and number collisions.

    Args:
        catalogue: the items.
        vectors: shape (n_items, d).
        config: of a quantiser; default residual k-means, 3 x 256.
        seed: of every random draw.
        counts: training events per item, shape (n_items,): order inside a collision group.
        collision_size: codes of the collision level; see `SemanticIds.from_prefixes`.
        encoder: where the vectors came from, kept for new items.
        note: one line about the vectors, kept for reports.
        collaborative: see `llmrec.semid.quantiser.quantise`.
        categories: likewise.

    Raises:
        ConfigError: settings that cannot work with this catalogue.
        DataError: the vectors do not fit the catalogue.
        ModelError: the quantiser collapsed.
    """
    matrix = check_vectors(vectors)
    if len(matrix) != len(catalogue):
        raise DataError(f"the catalogue has {len(catalogue)} items, got vectors of {len(matrix)}; give one for each")
    config = config or KmeansConfig()
    start = time.perf_counter()
    result = quantise(matrix, config, seed=seed, collaborative=collaborative, categories=categories)
    facts = {
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 3),
        "vectors": note,
        "variance_left": variance_left(result.quantiser, matrix, result.codes),
        "fit": result.facts,
    }
    return SemanticIds.from_prefixes(
        result.codes,
        config.levels,
        catalogue_hash=catalogue.content_hash,
        counts=counts,
        collision_size=collision_size,
        quantiser=result.quantiser,
        encoder=encoder,
        facts=facts,
    )
