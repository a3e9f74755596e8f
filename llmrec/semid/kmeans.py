"""Residual k-means: one k-means per level, in seconds for a catalogue of ten thousand items, and it cannot collapse.

The simplest quantiser of semantic ids; an open rebuild of TIGER uses it in place of the RQ-VAE (snap-research/GRID).
Clusters come from scikit-learn: k-means++ and Lloyd's iterations, empty clusters moved.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from llmrec.errors import ConfigError
from llmrec.seeding import derive, rng
from llmrec.semid.base import IntArray, Levels, Quantised, Vectors
from llmrec.semid.residual import nearest, quantise_residually


class KmeansConfig(BaseModel):
    """Settings of residual k-means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["kmeans"] = "kmeans"
    levels: Levels = (256, 256, 256)
    """Number of codes per level, at least 2 each."""
    normalise: bool = True
    """Divide what is left over by its length before each level, so that codes are used more evenly."""
    iterations: PositiveInt = 30
    """Upper bound of Lloyd's iterations per level."""
    max_points: PositiveInt = 100_000
    """Vectors drawn for fitting a level of a larger catalogue; all are encoded."""
    min_usage: float = Field(default=0.8, ge=0, le=1)
    """Share of the codes of each level that must be in use; less is an error. 0 accepts everything."""


def fit_kmeans(vectors: npt.NDArray[Any], config: KmeansConfig, *, seed: int = 0) -> Quantised:
    """Fit residual k-means.

    Args:
        vectors: shape (n, d).
        config: settings.
        seed: of the first centres.

    Raises:
        ConfigError: more codes than vectors, or than different residuals at some level.
        DataError: the vectors are no finite matrix.
    """

    def fit_level(residual: Vectors, n_codes: int, level: int) -> tuple[IntArray, Vectors]:
        points = residual
        if len(points) > config.max_points:
            chosen = rng(seed, "kmeans-sample", level).choice(
                len(points), max(config.max_points, n_codes), replace=False
            )
            points = points[np.sort(chosen)]
        check_distinct(points, n_codes, level)
        centres = cluster(points, n_codes, iterations=config.iterations, seed=derive(seed, "kmeans", level))
        return nearest(residual, centres), centres

    return quantise_residually(vectors, config.levels, config, fit_level, normalise=config.normalise)


def cluster(points: Vectors, n_codes: int, *, iterations: int, seed: int) -> Vectors:
    """Centres of k-means, shape (n_codes, d).

    Args:
        points: shape (n, d), with at least `n_codes` different rows.
        n_codes: number of clusters.
        iterations: upper bound of Lloyd's iterations.
        seed: of k-means++.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    # Several threads add up centres in the order in which they finish, which changes the last bits from run to run.
    with threadpool_limits(limits=1, user_api="openmp"):
        fitted = KMeans(n_codes, n_init=1, max_iter=iterations, random_state=seed % 2**32).fit(points)
    return np.ascontiguousarray(fitted.cluster_centers_, dtype=np.float32)


def check_distinct(points: Vectors, n_codes: int, level: int) -> None:
    """Refuse a level with more codes than different vectors.

    Raises:
        ConfigError: codes would be left over.
    """
    rows = np.ascontiguousarray(points + np.float32(0.0))  # -0.0 and 0.0 are one value
    distinct = len(np.unique(rows.view(np.dtype((np.void, rows.strides[0])))))
    if distinct < n_codes:
        raise ConfigError(
            f"level {level} has {n_codes} codes, but only {distinct} different vectors are left to tell apart; "
            "use fewer codes or levels, or vectors with more detail"
        )
