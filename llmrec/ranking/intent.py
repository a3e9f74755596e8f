"""Diversifying by intent: a page for a user of whom one is not sure what they came for.

Places are filled one after the other. An item is worth its quality times the chance that it meets the intent, given
that the user has taken nothing of what stands above it; so after some items for the likely intent the page turns to
another.

Source: Diversifying by Intent in Recommender Systems (KDD 2025, arXiv 2405.12327). Its model of intents is a network
trained on logs; here intents are the values of an item attribute, and their prior is the mix in the user's history.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat

from llmrec.errors import ConfigError
from llmrec.ranking.categories import ItemCategories
from llmrec.ranking.rerank import RerankContext, Scale, by_relevance, scaled
from llmrec.retrieval.base import FloatArray, IntArray


class IntentConfig(BaseModel):
    """Settings of the page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gamma: NonNegativeFloat = 1.0
    """Weight of the intents against the quality; 0 changes nothing."""
    take_rate: float = Field(default=0.5, gt=0, lt=1)
    """Chance that the best candidate is taken by a user whose intent it serves; the others' chances fall with their
    quality. The higher, the sooner the page turns to other intents."""
    smoothing: PositiveFloat = 5.0
    """Number of items of the catalogue's own mix that are added to the history, so that no intent is ruled out."""
    half_life: PositiveFloat | None = None
    """Age, in items, at which an item of the history counts half; None counts all alike."""
    scale: Scale = "minmax"
    """How scores become qualities in [0, 1]; "given" expects such."""


class Page(NamedTuple):
    """Filled places."""

    order: IntArray
    """Candidates by place, shape (m,)."""
    posteriors: FloatArray
    """What the intent is believed to be once nothing down to this place was taken, shape (m, n_intents)."""


class IntentReranker:
    """Builds pages by intent; an item serves the intents of its own values.

    Args:
        categories: values of every item.
        config: settings.
        name: in tables.
    """

    def __init__(self, categories: ItemCategories, *, config: IntentConfig | None = None, name: str = "intent") -> None:
        self.categories = categories
        self.config = config or IntentConfig()
        self.name = name

    def rerank(self, items: npt.ArrayLike, scores: npt.ArrayLike, context: RerankContext, k: int) -> IntArray:
        """The new first places (see `Reranker.rerank`).

        Raises:
            ConfigError: scale is "given", and a score is outside [0, 1].
        """
        config = self.config
        rows, values = by_relevance(items, scores, k)
        if config.scale == "given" and len(outside := values[~((values >= 0) & (values <= 1))]):
            raise ConfigError(
                f"scale 'given' takes scores in [0, 1], got {float(outside[0])!r}; set scale to 'minmax' or 'rank'"
            )
        prior = self.categories.profile(context.history, smoothing=config.smoothing, half_life=config.half_life)
        assert prior is not None, "smoothing is positive, so there is always a prior"
        quality = scaled(values, config.scale)
        page = build_page(
            quality, config.take_rate * quality, self.categories.members(rows) > 0, prior, gamma=config.gamma, k=k
        )
        return rows[page.order]


def build_page(
    quality: npt.ArrayLike,
    take: npt.ArrayLike,
    serves: npt.ArrayLike,
    prior: npt.ArrayLike,
    *,
    gamma: float,
    k: int,
) -> Page:
    """Fill k places greedily by ``quality * P(taken) ** gamma``; ties go to the higher quality, then to the earlier.

    The belief follows from Bayes: a user who passes over an item is less likely to have come for what it serves,
    ``P(v | passed) ~ P(v) * (1 - take)`` for the intents that it serves, ``P(v)`` for the others.

    Args:
        quality: of each candidate, in [0, 1] or any larger, shape (n,).
        take: chance that a user takes the candidate whose intent it serves, in [0, 1), shape (n,).
        serves: which intents a candidate serves, shape (n, n_intents).
        prior: belief before the first place, shape (n_intents,); sums to 1.
        gamma: weight of the intents.
        k: places.

    Raises:
        ConfigError: a quality is negative or a chance is outside [0, 1).
    """
    worth, chance = np.asarray(quality, dtype=np.float64), np.asarray(take, dtype=np.float64)
    served, belief = np.asarray(serves, dtype=np.bool_), np.asarray(prior, dtype=np.float64)
    for name, values, high in (("qualities", worth, np.inf), ("chances", chance, 1.0)):
        wrong = values[~((values >= 0) & (values < high))]
        if len(wrong):
            raise ConfigError(
                f"{name} must be in [0, {high}), got {float(wrong[0])!r}; set scale to 'minmax' or 'rank'"
            )
    best_first = np.argsort(-worth, kind="stable")
    left = np.ones(len(worth), dtype=np.bool_)
    order: list[int] = []
    posteriors: list[FloatArray] = []
    for _ in range(min(k, len(worth))):
        values = worth * (chance * (served @ belief)) ** gamma  # (n,)
        ranked = np.where(left, values, -1.0)[best_first]
        chosen = int(best_first[np.argmax(ranked)])
        left[chosen] = False
        belief = np.where(served[chosen], belief * (1.0 - chance[chosen]), belief)
        belief = belief / belief.sum()
        order.append(chosen)
        posteriors.append(belief)
    width = served.shape[1]
    return Page(np.array(order, dtype=np.int64), np.array(posteriors, dtype=np.float64).reshape(-1, width))
