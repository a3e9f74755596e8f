"""The recipe of the generative recommender with contrastive terms and two stages: `finetune/calrec.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from llmrec.training.recipe import Recipe

Stage = Literal["I", "II"]


class ObjectiveSettings(BaseModel):
    """Weights of the three losses (CALRec, arXiv 2405.02429); constants are those that others report of the paper."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    alpha: float = Field(default=0.125, ge=0, lt=1)
    """Weight of the target-target term; 0 leaves it out."""
    beta: float = Field(default=0.025, ge=0, lt=1)
    """Weight of the user-target term; 0 leaves it out. Public code has -0.025, which would push users away from their
    own targets."""
    temperature: PositiveFloat = 0.5
    """Of the softmax over cosines."""
    axis: Literal["users", "targets"] = "users"
    """The softmax runs over the users of the batch for one target, or over the targets for one user."""
    mask_duplicates: bool = False
    """Leave rows with the same target text out of each other's negatives."""

    @model_validator(mode="after")
    def _share(self) -> ObjectiveSettings:
        if self.alpha + self.beta >= 1:
            raise ValueError(f"alpha + beta must leave the next-item loss a share, got {self.alpha} + {self.beta}")
        return self


class ValidationSettings(BaseModel):
    """What is measured on the way, on validation targets (the last item but one of a user)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    users: PositiveInt = 100
    """Users whose catalogue is ranked; more: a surer choice, and slower in proportion."""
    samples: PositiveInt = 8
    """Completions per user."""
    temperature: NonNegativeFloat = 0.5
    max_tokens: PositiveInt = 50
    """Longest completion in tokens."""
    examples: PositiveInt = 200
    """Examples whose losses are watched."""


class CalrecRecipe(Recipe):
    """Three losses, two stages."""

    script: Literal["calrec.py"] = "calrec.py"
    role: str = "recommender"
    stages: Literal["I", "II", "both"] = "II"
    """I: all domains together; II: `dataset` alone; both: I, then II from what I left."""
    domains: tuple[str, ...] = ()
    """Data sets of stage I, as specs."""
    exponent: NonNegativeFloat = 0.3
    """A domain is drawn in proportion to its number of users to this power: 0 draws all alike, 1 by size."""
    start: str | None = None
    """Adapter folder to go on from, such as a stage I's; None begins anew. Full tuning goes on from `backbone`."""
    tuning: Literal["lora", "full", "domain"] = "lora"
    """Which weights are trained. lora: an adapter's; a second stage goes on with that of the first. full: all, as in
    the paper. domain: the adapter of stage I stays fixed and the target gets one of its own on top (MLoRA)."""
    domain_temperature: PositiveFloat = 16.0
    """With `tuning: domain`, the rank of a domain's adapter is the model's width over this, at least 1."""
    examples: PositiveInt = 2000
    """Training examples of each stage."""
    stage_one_examples: PositiveInt | None = None
    """Training examples of stage I; None is as many as in stage II."""
    targets: Literal["any", "last"] = "any"
    """What is learnt of a user: a random training event, or the last."""
    objective: ObjectiveSettings = ObjectiveSettings()
    micro_batch: PositiveInt | None = None
    """Rows in memory at once (GradCache): all rows of the batch stay negatives, for a second forward pass."""
    padding_side: Literal["left", "right"] = "left"
    """Left computes logits for few places; the losses are the same."""
    select: Literal["ndcg", "loss"] = "ndcg"
    """Which checkpoint is kept: best validation NDCG@10 of the recommender itself, or lowest loss."""
    validation: ValidationSettings = ValidationSettings()

    @model_validator(mode="after")
    def _consistent(self) -> CalrecRecipe:
        if self.stages != "II" and not self.domains:
            raise ValueError("stage I needs domains: name data sets, such as domains=[films, 'movielens:DIR']")
        if self.gradient_accumulation != 1:
            raise ValueError("gradient_accumulation loses negatives; leave it at 1 and set micro_batch")
        if self.micro_batch is not None and self.micro_batch > self.batch_size:
            raise ValueError(f"micro_batch must be at most batch_size ({self.batch_size}), got {self.micro_batch}")
        if self.micro_batch is not None and not self.contrasts:
            raise ValueError("micro_batch keeps negatives, and without alpha and beta there are none; lower batch_size")
        if self.contrasts and self.batch_size < 2:
            raise ValueError("contrastive terms need batch_size of 2 or more: other rows are the negatives")
        if self.tuning == "full" and self.quantise != "none":
            raise ValueError("weights in four bits cannot be trained; set tuning=lora or quantise=none")
        if self.tuning == "domain" and self.stages != "both" and self.start is None:
            raise ValueError("a domain's adapter stands on a shared one; set stages=both, or start to a stage I's")
        if self.tuning == "domain" and self.quantise != "none":
            raise ValueError("the shared adapter cannot go into weights in four bits; set tuning=lora or quantise=none")
        if self.tuning == "full" and self.start is not None:
            raise ValueError("full tuning starts from backbone; name the folder there and leave start out")
        return self

    @property
    def contrasts(self) -> bool:
        """Whether a contrastive term counts."""
        return self.objective.alpha > 0 or self.objective.beta > 0

    @property
    def stage_names(self) -> tuple[Stage, ...]:
        """Stages in order."""
        return ("I", "II") if self.stages == "both" else (self.stages,)

    def specs(self, stage: Stage) -> tuple[str, ...]:
        """Data sets of a stage."""
        return self.domains if stage == "I" else (self.dataset,)

    def n_examples(self, stage: Stage) -> int:
        """Training examples of a stage."""
        return self.stage_one_examples or self.examples if stage == "I" else self.examples


def without_folders(recipe: CalrecRecipe) -> CalrecRecipe:
    """The recipe with names in place of folders of this machine: cards and records travel."""
    named = [
        f"{kind}:{Path(path).name}" if path else kind for kind, _, path in (s.partition(":") for s in recipe.domains)
    ]
    start = None if recipe.start is None else Path(recipe.start).name
    return recipe.model_copy(update={"domains": tuple(named), "start": start})
