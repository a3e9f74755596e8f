"""Settings of the small generator."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from llmrec.ranking.fit import FitConfig
from llmrec.ranking.sequences import AugmentConfig
from llmrec.semid.base import Levels
from llmrec.semid.beam import BeamSettings
from llmrec.semid.quantiser import QuantiserKind


class GenerativeFit(FitConfig):
    """Settings of the training; its defaults suit a decoder of about one million parameters."""

    epochs: PositiveInt = 50
    sequences_per_batch: PositiveInt = 256
    """Windows of a step, on average."""
    learning_rate: PositiveFloat = 2e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = 0.05
    clip_norm: PositiveFloat = 1.0
    validation_users: PositiveInt = 1000
    """Users of the validation sample, each decoded by beam search."""


class DecodeConfig(BaseModel):
    """How items are found for a history."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beams: PositiveInt = 50
    """Hypotheses of the beam search, and most items that get a score."""
    exclude_history: bool = True
    """Whether items of the history are never written, so that beams are not spent on them."""
    temperature: NonNegativeFloat = 0.0
    """Above 0, items are drawn without replacement (see `llmrec.semid.beam`): more variety, fewer hits."""
    per_prefix: PositiveInt | None = None
    """Most hypotheses with the same first `prefix_depth` codes; None does not limit them."""
    prefix_depth: PositiveInt = 1
    cold_share: float | None = Field(default=None, ge=0, le=1)
    """Share of the first `list_length` places for items without training events, 0 for none; None lets them compete
    with the others (TIGER's epsilon). Not together with a temperature: two searches draw by scales of their own."""
    list_length: PositiveInt = 10

    @model_validator(mode="after")
    def _one_scale(self) -> DecodeConfig:
        if self.cold_share is not None and self.temperature > 0:
            raise ValueError(
                f"cold_share and a temperature do not go together, got {self.cold_share} and {self.temperature}: the "
                "order of warm and cold items would not be drawn; leave one out"
            )
        return self

    def settings(self) -> BeamSettings:
        """For the search."""
        return BeamSettings(
            beams=self.beams,
            k=self.beams,
            temperature=self.temperature,
            per_prefix=self.per_prefix,
            prefix_depth=self.prefix_depth,
        )


class GenerativeConfig(BaseModel):
    """Settings of ids, network, training and decoding."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: str | None = None
    """Folder of ready semantic ids; `vectors`, `quantiser` and `levels` are then not read."""
    vectors: str = "tfidf"
    """Item vectors that the ids are made from (see `llmrec.retrieval.item_vectors`)."""
    quantiser: QuantiserKind = "kmeans"
    levels: Levels | None = None
    """Number of codes per level; None takes three levels of 256, fewer for a small catalogue."""
    width: PositiveInt = 128
    """Of states and token vectors."""
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    """Twice this divides the width."""
    expansion: PositiveFloat = 3.0
    """Width of the feed-forward part over `width`."""
    max_length: PositiveInt = 20
    """Newest items of a history that are read."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Of token vectors and of what each part of a block adds."""
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of attention weights."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a target spread over the codes of its level."""
    level_weights: tuple[PositiveFloat, ...] | None = None
    """Weight of each level in the loss, the collision level last; None weighs them equally."""
    device: str = "auto"
    """"auto", "cpu" or "cuda"."""
    dtype: str = "auto"
    """Number type of the matrix products in training: "auto" is measured on the machine; weights are float32."""
    validation_beams: PositiveInt = 20
    """Of the beam search that judges the training."""
    fit: GenerativeFit = GenerativeFit()
    augment: AugmentConfig = AugmentConfig()
    decode: DecodeConfig = DecodeConfig()

    @model_validator(mode="after")
    def _workable(self) -> GenerativeConfig:
        if self.width % (2 * self.heads):
            raise ValueError(f"twice the heads must divide width, got {self.heads} heads for width {self.width}")
        if self.fit.negatives is not None:
            raise ValueError(
                f"the softmax over codes is never sampled, got negatives={self.fit.negatives}; leave it out"
            )
        if self.augment.item_mask:
            raise ValueError(f"codes are not masked, got item_mask={self.augment.item_mask}; use item_drop")
        return self
