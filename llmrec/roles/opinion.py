"""The language model's opinion about one shown item, and the arithmetic of turning it into a decision."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmrec.errors import ModelError
from llmrec.lm.protocol import LanguageModel
from llmrec.roles.persona import DISLIKED_STARS, LIKED_STARS

SKIP, YES = "skip", "yes"
STARS = ("1", "2", "3", "4", "5")


def labels(has_ratings: bool) -> tuple[str, ...]:
    """The possible decisions: skip, or stars; skip or yes where the dataset has no ratings."""
    return (SKIP, *STARS) if has_ratings else (SKIP, YES)


def continuations(has_ratings: bool) -> tuple[str, ...]:
    """The decisions as they continue a prompt."""
    return tuple(f" {label}" for label in labels(has_ratings))


@dataclass(frozen=True)
class Opinion:
    """The model's distribution over decisions on one item, before prior and mindset."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def click(self) -> float:
        """P(not skip), kept inside (0, 1) so that its log-odds exist."""
        return min(max(1.0 - self.probabilities[0], 1e-6), 1.0 - 1e-6)

    @property
    def expected_stars(self) -> float | None:
        """Mean stars given a click; None without ratings."""
        if len(self.labels) == 2:
            return None
        weights = self.probabilities[1:]
        return sum(int(s) * w for s, w in zip(self.labels[1:], weights, strict=True)) / max(sum(weights), 1e-300)

    def draw(self, click: float, uniform_click: float, uniform_stars: float) -> str:
        """A label: skip unless `uniform_click` is below the click probability, then stars by the model's own shares."""
        if uniform_click >= click:
            return SKIP
        weights = self.probabilities[1:]
        left = uniform_stars * sum(weights)
        for label, weight in zip(self.labels[1:], weights, strict=True):
            left -= weight
            if left < 0:
                return label
        return self.labels[-1]


async def opinion(lm: LanguageModel, prompt: str, *, has_ratings: bool, adapter: str | None = "user") -> Opinion:
    """Ask the model about the item at the end of the prompt: one `score` call.

    Raises:
        ModelError: the model gave no finite log-probability.
    """
    scores = await lm.score(prompt, continuations(has_ratings), adapter=adapter)
    if not all(math.isfinite(score) for score in scores):
        raise ModelError(f"the model {lm.name!r} gave decisions no finite log-probability, got {scores!r}")
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    return Opinion(labels(has_ratings), tuple(weight / sum(weights) for weight in weights))


def log_odds(probability: float) -> float:
    """Natural log-odds of a probability inside (0, 1)."""
    return math.log(probability / (1.0 - probability))


def sigmoid(value: float) -> float:
    """Inverse of `log_odds`."""
    return 1.0 / (1.0 + math.exp(-value)) if value >= 0 else math.exp(value) / (1.0 + math.exp(value))


def liked(label: str) -> bool:
    """Whether a decision says that the user wants more of this."""
    return label == YES or (label in STARS and int(label) >= LIKED_STARS)


def disliked(label: str) -> bool:
    """Whether a decision is a click that the user regretted."""
    return label in STARS and int(label) <= DISLIKED_STARS
