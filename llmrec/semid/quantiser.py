"""Quantisers by their settings: fit one, check that it did not collapse, and restore a fitted one from its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter, ValidationError

from llmrec.errors import ConfigError, ModelError
from llmrec.semid.balanced import BalancedConfig, fit_balanced
from llmrec.semid.base import Arrays, IntArray, Quantised, Quantiser
from llmrec.semid.hashed import HashedCodes, LshConfig, RandomConfig, fit_hashed
from llmrec.semid.kmeans import KmeansConfig, fit_kmeans
from llmrec.semid.residual import ResidualCodebooks
from llmrec.semid.rqvae import RqVaeConfig, RqVaeQuantiser
from llmrec.semid.rqvae_fit import fit_rqvae

AnyConfig = KmeansConfig | BalancedConfig | RqVaeConfig | LshConfig | RandomConfig
QuantiserConfig = Annotated[AnyConfig, Field(discriminator="kind")]
"""Settings of one of the quantisers, told apart by ``kind``."""
QuantiserKind = Literal["kmeans", "balanced", "rqvae", "lsh", "random"]

KINDS: tuple[QuantiserKind, ...] = get_args(QuantiserKind)
_ADAPTER: TypeAdapter[AnyConfig] = TypeAdapter(QuantiserConfig)


def quantiser_config(kind: str, **settings: Any) -> AnyConfig:
    """Settings by name.

    Raises:
        ConfigError: an unknown kind or setting, or a value out of range.
    """
    if kind not in KINDS:
        raise ConfigError(f"no quantiser is called {kind!r}; choose from {', '.join(KINDS)}")
    try:
        return _ADAPTER.validate_python({"kind": kind, **settings})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "settings"
        raise ConfigError(
            f"wrong setting {where!r} of the quantiser {kind!r}, got {first['input']!r}: {first['msg']}"
        ) from error


def quantise(
    vectors: npt.NDArray[Any],
    config: AnyConfig,
    *,
    seed: int = 0,
    collaborative: npt.NDArray[Any] | None = None,
    categories: npt.NDArray[np.int64] | None = None,
) -> Quantised:
    """Fit a quantiser and refuse a collapsed one.

    Args:
        vectors: shape (n, d).
        config: settings.
        seed: of every random draw.
        collaborative: vectors to align the codes with, shape (n, d2); for the RQ-VAE with ``alignment`` above 0.
        categories: label per item and level, shape (n, levels), -1 for none; for the RQ-VAE with ``category`` above 0.

    Raises:
        ConfigError: settings that cannot work with these vectors.
        DataError: the vectors are no finite matrix.
        ModelError: fewer codes of a level are in use than ``min_usage`` asks for.
    """
    if not isinstance(config, RqVaeConfig) and (collaborative is not None or categories is not None):
        raise ConfigError(
            f"only the quantiser 'rqvae' takes collaborative vectors or categories, got them for {config.kind!r}"
        )
    if isinstance(config, KmeansConfig):
        result = fit_kmeans(vectors, config, seed=seed)
    elif isinstance(config, BalancedConfig):
        result = fit_balanced(vectors, config, seed=seed)
    elif isinstance(config, LshConfig | RandomConfig):
        result = fit_hashed(vectors, config, seed=seed)
    else:
        result = fit_rqvae(vectors, config, seed=seed, collaborative=collaborative, categories=categories)
    check_usage(result.codes, config.levels, config.min_usage)
    return result


def usage(codes: IntArray, levels: tuple[int, ...]) -> list[float]:
    """Share of the codes of each level that at least one row has."""
    return [len(np.unique(codes[:, level])) / size for level, size in enumerate(levels)]


def check_usage(codes: IntArray, levels: tuple[int, ...], wanted: float) -> None:
    """Refuse a collapsed quantiser.

    Raises:
        ModelError: a level uses a smaller share of its codes than `wanted`.
    """
    for level, share in enumerate(usage(codes, levels)):
        if share < wanted:
            used = math.floor(share * levels[level] + 0.5)
            raise ModelError(
                f"the quantiser collapsed: level {level} uses {used} of {levels[level]} codes, wanted {wanted:.0%}; "
                "train longer, use fewer codes or more detailed vectors, or accept it with a lower min_usage"
            )


def restore(spec: Mapping[str, Any], arrays: Arrays) -> Quantiser:
    """A fitted quantiser from its spec and arrays.

    Raises:
        ConfigError: the spec is not one of a quantiser.
    """
    settings = dict(spec)
    config = quantiser_config(str(settings.pop("kind", None)), **settings)
    if isinstance(config, RqVaeConfig):
        return RqVaeQuantiser.restore(config, arrays)
    if isinstance(config, LshConfig | RandomConfig):
        return HashedCodes.restore(config, arrays)
    return ResidualCodebooks.restore(config, arrays)
