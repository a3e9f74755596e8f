"""The private state of a simulated user, and how it moves. No recommender ever sees any of it.

State: satisfaction s, exposure e(topic) and through it fatigue f(topic), recent fatigue F, patience p of P, and what
the user is after today. Every constant is in `UserConfig`. [D: RecoWorld leaves the mindset open.]

    exposure      e <- max(0, r * e + [topic shown] - share of the catalogue with the topic)
    fatigue       f(topic) = 1 - exp(-max(0, e - free) / scale);  of an item: mean over its topics
    recent        F <- (1 - a) * F + a * f(item)
    satisfaction  s <- (1 - b) * s + b * worth(decision) * (1 - c * f(item))  (moved by what was asked for, if anything)
    patience      a skip costs 1, a regretted click more, a click gives some back
    disengagement d = w_F * F + w_s * (1 - s) + w_p * (1 - p / P), in [0, 1)

Fatigue comes from topics that are shown beyond their share of the catalogue, never from clicks as such: a click on
something fresh lowers d.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llmrec.data.catalogue import Catalogue
from llmrec.errors import ConfigError
from llmrec.roles.click_calibration import Calibration, read_calibration
from llmrec.roles.instruction import Predicate
from llmrec.roles.opinion import SKIP, disliked, log_odds
from llmrec.roles.persona import Taste


class UserConfig(BaseModel):
    """Constants of the simulated user. [D] throughout."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: str | None = "user"
    """LoRA adapter that plays the user: a name at the backbone, or (`llmrec simulate`) a folder; None is the bare
    backbone."""
    style: Literal["auto", "text", "chat"] = "auto"
    """How the model is asked. text: the raw text that user adapters are trained on; chat: messages, for chat models
    that nobody tuned; auto: text where the engine takes Lark grammars, else chat."""
    click_scale: float = Field(default=1.0, ge=0)
    """The model's log-odds of a click are multiplied by this ..."""
    click_offset: float = 0.0
    """... and this is added, so that they are right on an even mixture of taken and random items. `llmrec simulate` and
    the quickstart take both from the adapter's `calibration.json` unless they are set here. Untuned models are too sure
    and say yes too often; `llmrec.simulate.fidelity` measures both numbers for a model."""
    click_prior: float = Field(default=0.35, gt=0, lt=1)
    """Click rate over an even mixture of taken and random items. Training documents hold one half of each, so the
    log-odds of this prior (those of one half are 0) are added to the model's."""
    fatigue_weight: float = Field(default=1.5, ge=0)
    """Log-odds that a fully tiring item loses."""
    satisfaction_weight: float = Field(default=0.6, ge=0)
    """Log-odds per unit of satisfaction above or below its start."""
    target_weight: float = Field(default=0.7, ge=0)
    """Log-odds that an item gains with what the user is after today."""
    asked_weight: float = Field(default=0.6, ge=0)
    """Log-odds that an item gains by fulfilling the last instruction, and loses by not doing so."""
    satisfaction_start: float = Field(default=0.6, ge=0, le=1)
    satisfaction_rate: float = Field(default=0.15, gt=0, le=1)
    """b: weight of the newest item."""
    satisfaction_fatigue: float = Field(default=0.5, ge=0, le=1)
    """c: share of an item's worth that full fatigue takes away."""
    asked_worth: float = Field(default=0.15, ge=0, le=1)
    """Worth that an item gains by fulfilling the last instruction, and loses by not doing so."""
    worth: Mapping[str, float] = {"skip": 0.3, "1": 0.05, "2": 0.2, "3": 0.65, "4": 0.9, "5": 1.0, "yes": 0.85}
    """What a decision does for satisfaction, 0 to 1."""
    exposure_decay: float = Field(default=0.85, gt=0, lt=1)
    """r, per item."""
    exposure_free: float = Field(default=1.0, ge=0)
    """Exposure that tires nobody."""
    exposure_scale: float = Field(default=2.0, gt=0)
    recent_rate: float = Field(default=0.3, gt=0, le=1)
    """a: weight of the newest item in recent fatigue."""
    patience_low: float = Field(default=8.0, gt=0)
    """Each user's patience, in skipped items, is drawn evenly between this ..."""
    patience_high: float = Field(default=20.0, gt=0)
    """... and this."""
    patience_refund: float = Field(default=0.75, ge=0)
    """What a click gives back."""
    regret_cost: float = Field(default=1.5, ge=0)
    """What a click with low stars costs."""
    empty_cost: float = Field(default=5.0, ge=0)
    """What an empty slate costs."""
    second_chance_patience: float = Field(default=4.0, ge=0)
    """Patience that a user who has just asked for something has at least."""
    weight_fatigue: float = Field(default=0.35, ge=0)
    weight_dissatisfaction: float = Field(default=0.35, ge=0)
    weight_impatience: float = Field(default=0.30, ge=0)
    """Weights of the disengagement signal; they sum to 1."""
    threshold: float = Field(default=0.42, ge=0, le=1)
    """Disengagement from here on makes the user speak up after the slate; 0 always, 1 never."""
    second_chance: float = Field(default=0.8, ge=0, le=1)
    """Probability that a user who spoke up looks at one more slate."""
    rate_share: float = Field(default=0.3, ge=0, le=1)
    """Share of clicks that become a public rating in stars."""
    buy_share: float = Field(default=0.4, ge=0, le=1)
    """Share of clicks on products that become a purchase."""
    view_from: float = Field(default=0.35, ge=0, le=1)
    """An item with at least this click probability that is not clicked was looked at (view), below it was skipped."""
    free_words: bool = False
    """Instructions in the model's own words, for models that write well; else it chooses among written sentences."""
    say_temperature: float = Field(default=0.7, ge=0)
    """Sampling temperature of instructions."""
    say_tokens: int = Field(default=128, gt=0)
    """Longest instruction, JSON included."""

    @property
    def calibration(self) -> Calibration:
        """What is done to the model's log-odds of a click."""
        return Calibration(self.click_scale, self.click_offset)

    def calibrated_for(self, adapter_folder: Path | None) -> UserConfig:
        """With the correction kept beside the adapter, unless these settings name one.

        Args:
            adapter_folder: of the adapter that plays the user; None where it is not known.

        Raises:
            ConfigError: its `calibration.json` is damaged.
        """
        if adapter_folder is None or {"click_scale", "click_offset"} & self.model_fields_set:
            return self
        found = read_calibration(adapter_folder)
        return self.model_copy(update={"click_scale": found.scale, "click_offset": found.offset})

    def model_post_init(self, _context: object) -> None:
        """Check what concerns several fields."""
        total = self.weight_fatigue + self.weight_dissatisfaction + self.weight_impatience
        if abs(total - 1) > 1e-9:
            raise ConfigError(f"the three weights of disengagement must sum to 1, got {total!r}")
        if self.patience_high < self.patience_low:
            raise ConfigError(f"patience_high is below patience_low, got {self.patience_high!r}")


class Mindset(BaseModel):
    """One user's state at one moment. Private."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    satisfaction: float
    patience: float
    """Skips left; at 0 the user leaves without a word."""
    patience_start: float
    exposure: Mapping[str, float] = {}
    """Topic to exposure beyond its share of the catalogue."""
    recent_fatigue: float = 0.0
    target: tuple[Taste, ...] = ()
    """What the user is after today."""
    asked: Predicate | None = None
    """What the user asked for last."""

    def fatigue(self, topics: Sequence[str], config: UserConfig) -> float:
        """How tiring an item with these topics is, in [0, 1); 0 for an item without topics."""
        if not topics:
            return 0.0
        exposures = [max(0.0, self.exposure.get(topic, 0.0) - config.exposure_free) for topic in topics]
        return sum(1.0 - math.exp(-exposure / config.exposure_scale) for exposure in exposures) / len(topics)

    def disengagement(self, config: UserConfig) -> float:
        """d, in [0, 1)."""
        return (
            config.weight_fatigue * self.recent_fatigue
            + config.weight_dissatisfaction * (1.0 - self.satisfaction)
            + config.weight_impatience * (1.0 - self.patience / self.patience_start)
        )

    def speaks_up(self, config: UserConfig) -> bool:
        """Whether the user says what should change; threshold 0 is always, 1 never."""
        return config.threshold < 1.0 and self.disengagement(config) >= config.threshold

    @property
    def out_of_patience(self) -> bool:
        """Whether the user leaves at the next item."""
        return self.patience <= 0.0


class Look(BaseModel):
    """What matters about an item to a mindset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topics: tuple[str, ...] = ()
    on_target: bool = False
    """Has something that the user is after today."""
    as_asked: bool | None = None
    """Fulfils the last instruction; None when nothing checkable was asked."""


def start(target: Sequence[Taste], draws: np.random.Generator, config: UserConfig) -> Mindset:
    """The mindset at the beginning of a session."""
    patience = float(draws.uniform(config.patience_low, config.patience_high))
    return Mindset(
        satisfaction=config.satisfaction_start, patience=patience, patience_start=patience, target=tuple(target)
    )


def as_asked(mindset: Mindset, catalogue: Catalogue, item: int) -> bool | None:
    """Whether the item fulfils the last instruction; None when nothing checkable was asked."""
    return None if mindset.asked is None else mindset.asked.holds(catalogue, item)


def shift(mindset: Mindset, look: Look, config: UserConfig) -> float:
    """What prior and mindset add to the log-odds of a click."""
    asked = 0.0 if look.as_asked is None else config.asked_weight * (1 if look.as_asked else -1)
    return (
        log_odds(config.click_prior)
        - config.fatigue_weight * mindset.fatigue(look.topics, config)
        + config.satisfaction_weight * (mindset.satisfaction - config.satisfaction_start)
        + config.target_weight * look.on_target
        + asked
    )


def update(mindset: Mindset, look: Look, label: str, topic_share: Mapping[str, float], config: UserConfig) -> Mindset:
    """The mindset after a decision on an item (the update g of RecoWorld).

    Args:
        look: the item.
        label: the decision: ``skip``, ``yes`` or stars.
        topic_share: share of the catalogue that has each topic.
    """
    exposure = {
        topic: max(0.0, config.exposure_decay * before + (topic in look.topics) - topic_share.get(topic, 0.0))
        for topic, before in (dict.fromkeys(look.topics, 0.0) | dict(mindset.exposure)).items()
    }
    exposed = mindset.model_copy(update={"exposure": {topic: e for topic, e in exposure.items() if e > 0.0}})
    fatigue = exposed.fatigue(look.topics, config)
    worth = config.worth[label] * (1.0 - config.satisfaction_fatigue * fatigue)
    if look.as_asked is not None:
        worth += config.asked_worth if look.as_asked else -config.asked_worth
    rate = config.satisfaction_rate
    return exposed.model_copy(
        update={
            "recent_fatigue": (1.0 - config.recent_rate) * mindset.recent_fatigue + config.recent_rate * fatigue,
            "satisfaction": (1.0 - rate) * mindset.satisfaction + rate * min(max(worth, 0.0), 1.0),
            "patience": _moved(mindset, _patience_change(label, config)),
        }
    )


def after_nothing(mindset: Mindset, config: UserConfig) -> Mindset:
    """The mindset after an empty slate: waiting for nothing costs patience and satisfaction."""
    satisfaction = (1.0 - config.satisfaction_rate) * mindset.satisfaction
    return mindset.model_copy(update={"satisfaction": satisfaction, "patience": _moved(mindset, -config.empty_cost)})


def _moved(mindset: Mindset, change: float) -> float:
    return min(max(mindset.patience + change, 0.0), mindset.patience_start)


def _patience_change(label: str, config: UserConfig) -> float:
    if label == SKIP:
        return -1.0
    return -config.regret_cost if disliked(label) else config.patience_refund


def after_asking(mindset: Mindset, predicate: Predicate, config: UserConfig) -> Mindset:
    """The mindset of a user who has said what should change and waits for one more slate."""
    patience = max(mindset.patience, min(config.second_chance_patience, mindset.patience_start))
    return mindset.model_copy(update={"asked": predicate, "patience": patience})
