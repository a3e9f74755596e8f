"""What semantic ids are worth before a model is trained on them: use of codes, collisions, purity, what is lost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmrec.seeding import rng
from llmrec.semid.base import IntArray, Quantiser, Vectors
from llmrec.semid.categories import NO_LABEL, category_attribute, category_paths
from llmrec.semid.codes import SemanticIds

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue

_PERMUTATIONS = 5  # random orders behind the floor of purity


@dataclass(frozen=True)
class LevelReport:
    """One level of the quantiser."""

    codes: int
    """Size of the level."""
    usage: float
    """Share of the codes that some item has."""
    entropy: float
    """Of the codes over items, in nats."""
    entropy_share: float
    """Entropy as a share of its maximum, ``log(codes)``."""
    prefixes: int
    """Number of different prefixes up to this level."""
    variance_left: float | None
    """Share of the vectors' variance that the prefix does not explain; None where it was not measured."""
    purity: float | None
    """Share of items that have the commonest category of their prefix; None without categories."""
    purity_floor: float | None
    """The same after items were shuffled over the ids."""


@dataclass(frozen=True)
class SemanticIdReport:
    """Facts about semantic ids."""

    n_items: int
    levels: tuple[LevelReport, ...]
    collision_codes: int
    """Size of the collision level."""
    collision_groups: int
    """Prefixes that several items share."""
    largest_group: int
    share_nonzero: float
    """Share of items whose collision code is not 0."""
    category: str | None
    """Attribute behind the purity: an item's first value that not every item has."""
    vectors: str
    """Spec of the item vectors, "given" where the caller brought them."""
    quantiser: str
    fingerprint: str

    def lines(self) -> list[str]:
        """For people, one line each."""
        head = [
            f"{self.n_items} items, vectors {self.vectors}, quantiser {self.quantiser}, fingerprint {self.fingerprint}",
            f"collisions: {self.collision_groups} groups, the largest of {self.largest_group}; "
            f"{self.share_nonzero:.2%} of the items have a nonzero last code ({self.collision_codes} codes there)",
        ]
        return head + [f"level {n}: {_level_line(level, self.category)}" for n, level in enumerate(self.levels)]


def _level_line(level: LevelReport, category: str | None) -> str:
    text = (
        f"{level.usage:.1%} of {level.codes} codes in use, entropy {level.entropy:.3f} nats "
        f"({level.entropy_share:.1%} of the most), {level.prefixes} prefixes"
    )
    if level.variance_left is not None:
        text += f", {level.variance_left:.1%} of the variance left"
    if level.purity is not None:
        text += f", purity of {category} {level.purity:.3f} (shuffled {level.purity_floor:.3f})"
    return text


def report(
    ids: SemanticIds, catalogue: Catalogue | None = None, *, category: str | None = None, seed: int = 0
) -> SemanticIdReport:
    """Measure semantic ids.

    Args:
        ids: of any origin.
        catalogue: for purity; must be the one that the ids were made for. None leaves purity out.
        category: attribute for purity; default one with a usual name (categories, genres).
        seed: of the shuffles behind the floor.

    Raises:
        CacheError: the ids belong to another catalogue.
        DataError: there is no such category attribute.
    """
    labels = None
    if catalogue is not None:
        ids.check(catalogue)
        category = category_attribute(catalogue, category)
        labels = None if category is None else category_paths(catalogue, category, 1)[:, 0]
    groups = group_sizes(ids)
    variance: list[float] = list(ids.facts.get("variance_left", []))
    levels = []
    for level in range(ids.depth - 1):
        entropy = code_entropy(ids.codes[:, level])
        nodes = np.unique(ids.codes[:, : level + 1], axis=0, return_inverse=True)[1].reshape(-1)
        levels.append(
            LevelReport(
                codes=ids.sizes[level],
                usage=len(np.unique(ids.codes[:, level])) / ids.sizes[level],
                entropy=entropy,
                entropy_share=entropy / math.log(ids.sizes[level]),
                prefixes=int(nodes.max()) + 1,
                variance_left=variance[level] if level < len(variance) else None,
                purity=None if labels is None else purity(nodes, labels),
                purity_floor=None if labels is None else _purity_floor(nodes, labels, seed),
            )
        )
    return SemanticIdReport(
        n_items=len(ids),
        levels=tuple(levels),
        collision_codes=ids.sizes[-1],
        collision_groups=int((groups > 1).sum()),
        largest_group=int(groups.max()),
        share_nonzero=float((ids.codes[:, -1] > 0).mean()),
        category=None if labels is None else category,
        vectors="given" if ids.encoder is None else ids.encoder.spec,
        quantiser="given" if ids.quantiser is None else str(ids.quantiser.spec()["kind"]),
        fingerprint=ids.fingerprint,
    )


def group_sizes(ids: SemanticIds) -> IntArray:
    """Number of items per quantiser prefix, shape (n_prefixes,)."""
    return np.asarray(np.unique(ids.codes[:, :-1], axis=0, return_counts=True)[1], dtype=np.int64)


def code_entropy(codes: IntArray) -> float:
    """Entropy of codes over items, in nats."""
    shares = np.unique(codes, return_counts=True)[1] / len(codes)
    return float(-(shares * np.log(shares)).sum()) + 0.0


def purity(nodes: IntArray, labels: IntArray) -> float:
    """Share of labelled items that carry the commonest label of their group, 0 to 1.

    Args:
        nodes: group of each item, shape (n,).
        labels: label of each item, shape (n,), -1 for none: those items are not counted.
    """
    known = labels != NO_LABEL
    nodes, labels = nodes[known], labels[known]
    if len(nodes) == 0:
        return float("nan")
    span = int(labels.max()) + 1
    pairs, counts = np.unique(nodes * span + labels, return_counts=True)
    best = np.zeros(int(nodes.max()) + 1, dtype=np.int64)
    np.maximum.at(best, pairs // span, counts)
    return float(best.sum() / len(nodes))


def _purity_floor(nodes: IntArray, labels: IntArray, seed: int) -> float:
    draws = rng(seed, "purity-floor")
    return float(np.mean([purity(nodes, draws.permutation(labels)) for _ in range(_PERMUTATIONS)]))


def variance_left(quantiser: Quantiser, vectors: Vectors, codes: IntArray) -> list[float]:
    """Share of the vectors' variance that prefixes of 1, 2, ... codes do not explain.

    ``sum ||x - decode(prefix)||^2 / sum ||x - mean||^2``: 1 is no better than the mean of all vectors, 0 is exact.
    """
    total = float(((vectors - vectors.mean(axis=0, dtype=np.float64)) ** 2).sum())
    left: list[float] = []
    for length in range(1, codes.shape[1] + 1):
        rest = vectors.astype(np.float64) - quantiser.decode(codes[:, :length])
        left.append(float((rest**2).sum() / total) if total else 0.0)
    return left
