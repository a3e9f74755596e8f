"""The recipe of profiles: `finetune/lettingo.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from llmrec.training.lettingo.explore import ExploreSettings, WriterSettings
from llmrec.training.lettingo.pairs import Pair, graded, ordered, positives, shuffled_preferences
from llmrec.training.lettingo.prompts import ItemFields, Style
from llmrec.training.lettingo.styles import STYLES
from llmrec.training.lettingo.windows import GroupSettings, LabelSettings, WindowSettings
from llmrec.training.recipe import PathOrName, Recipe


class PredictorSettings(BaseModel):
    """Who judges profiles. The paper never trains it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: PathOrName | None = None
    """Any backbone spec whose engine scores; None is the recipe's own."""
    adapter: PathOrName | None = None
    """LoRA folder; "start" is the adapter that is trained for it on the users of the start."""
    style: Style = "chat"


class StartSettings(BaseModel):
    """Adapters that a small model starts from: it cannot write or read profiles untaught. [D]"""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    writer_examples: PositiveInt = 3000
    """Profiles by rules that the writer learns from."""
    predictor_examples: PositiveInt = 4000
    """Windows with a profile by rules, or none, that the predictor learns from."""
    validation_examples: PositiveInt = 150
    styles: dict[str, PositiveFloat] = Field(default_factory=lambda: dict.fromkeys(STYLES, 1.0), min_length=1)
    """Styles of profiles (llmrec.training.lettingo.styles) and how often each comes, relative."""
    blank: float = Field(default=0.2, ge=0, le=1)
    """Share of the predictor's examples without a profile, so that none is nothing new to it."""
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 4
    """Rows of max_tokens tokens; whole examples are packed into rows, none sees another."""
    learning_rate: PositiveFloat = 2e-3


class CurriculumSettings(BaseModel):
    """Curri-DPO: pairs from easy to hard in stages."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    stages: PositiveInt = 3
    """The paper has three."""
    tie: NonNegativeFloat = 0.02
    """Pairs whose gap is not above this are ties, and left out. Nats. [D]"""
    reference: Literal["previous", "start"] = "previous"
    """Reference of a stage: the policy of the stage before (the paper's best), or what the first stage started from."""
    order: Literal["easy_first", "shuffled", "hard_first"] = "easy_first"
    """Of the same stages. The paper has easy_first; shuffled (any other order, drawn from the seed) and hard_first are
    controls, which must not do better."""


class DpoSettings(BaseModel):
    """The preference objective (Rafailov et al., NeurIPS 2023, arXiv 2305.18290, equation 7)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Literal["dpo", "sft"] = "dpo"
    """sft learns the right profiles alone: the baseline."""
    beta: PositiveFloat = 0.1
    """Higher stays closer to the reference."""
    sft_weight: NonNegativeFloat = 0.0
    """Weight of the log-likelihood of the chosen profile beside the preference loss; raise it if that falls."""
    shuffled: bool = False
    """The control: chosen and rejected at random, which must not improve anything."""
    validation_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the users with pairs whose pairs are watched and not learnt."""


class LettingoRecipe(Recipe):
    """Explore, evaluate, align."""

    script: Literal["lettingo.py"] = "lettingo.py"
    work: PathOrName | None = None
    """Folder of start adapters, profiles and verdicts; None is output/work. Runs that share it ask nothing twice."""
    labels: LabelSettings = LabelSettings()
    windows: WindowSettings = WindowSettings()
    users: GroupSettings = GroupSettings()
    item_fields: ItemFields = ItemFields()
    start: StartSettings | None = None
    """None for a chat model."""
    writers: tuple[WriterSettings, ...] = Field(default=(WriterSettings(name="own"),), min_length=1)
    predictor: PredictorSettings = PredictorSettings()
    explore: ExploreSettings = ExploreSettings()
    policy_style: Style = "chat"
    """How the trained writer is asked."""
    dpo: DpoSettings = DpoSettings()
    curriculum: bool = False
    """In stages from easy to hard (Curri-DPO); otherwise all pairs at once."""
    curriculum_settings: CurriculumSettings = CurriculumSettings()

    @property
    def work_folder(self) -> Path:
        """Where start adapters, profiles and verdicts are."""
        return Path(self.work) if self.work else Path(self.output) / "work"

    @model_validator(mode="after")
    def _consistent(self) -> LettingoRecipe:
        wants_start = [writer.name for writer in self.writers if writer.adapter == "start"]
        if self.predictor.adapter == "start":
            wants_start.append("predictor")
        if self.start is None and wants_start:
            raise ValueError(f"{', '.join(wants_start)}: adapter 'start' needs the settings under start")
        if self.start is not None and not self.users.start:
            raise ValueError("start needs users of its own: set users.start above 0")
        if self.start is not None and (unknown := set(self.start.styles) - set(STYLES)):
            raise ValueError(f"unknown styles {', '.join(sorted(unknown))}; styles: {', '.join(STYLES)}")
        if self.curriculum and self.dpo.method == "sft":
            raise ValueError("a curriculum is one of pairs, and method sft has none: set curriculum: false")
        names = [writer.name for writer in self.writers]
        if len(set(names)) < len(names):
            raise ValueError(f"writers need different names, got {names}")
        return self


T = TypeVar("T", WriterSettings, PredictorSettings)


def stages_of(recipe: LettingoRecipe, pairs: Sequence[Pair]) -> list[list[Pair]]:
    """What is learnt, stage by stage: all at once, right profiles alone, or from easy to hard.

    Raises:
        DataError: too few pairs for the stages of a curriculum.
    """
    if recipe.dpo.method == "sft":
        return [positives(pairs)]
    stages = [list(pairs)]
    if recipe.curriculum:
        settings = recipe.curriculum_settings
        stages = ordered(graded(pairs, stages=settings.stages, tie=settings.tie), settings.order, seed=recipe.seed)
    if recipe.dpo.shuffled:  # after grading, which would leave out every swapped pair
        mixed = iter(shuffled_preferences([pair for stage in stages for pair in stage], seed=recipe.seed))
        stages = [[next(mixed) for _ in stage] for stage in stages]
    return stages


def named(recipe: LettingoRecipe) -> LettingoRecipe:
    """The recipe with names in place of folders of this machine: cards and records travel."""

    def short(value: str | None) -> str | None:
        return Path(value).name if value and Path(value).is_dir() else value

    def of(settings: T) -> T:
        return settings.model_copy(update={"backbone": short(settings.backbone), "adapter": short(settings.adapter)})

    writers = tuple(of(writer) for writer in recipe.writers)
    return recipe.model_copy(update={"work": None, "writers": writers, "predictor": of(recipe.predictor)})
