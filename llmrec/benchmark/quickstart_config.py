"""Settings of the quickstart: sizes of the model, of the data and of the samples. Files: eval/quickstart*.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt, ValidationError

from llmrec.assets import asset
from llmrec.errors import ConfigError
from llmrec.training.pretrain import NanoRecipe


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EvaluationSettings(_Settings):
    """Full-catalogue ranking of held-out items."""

    users: PositiveInt = 1000
    """Users drawn from the test split; all of them when there are fewer."""
    samples: PositiveInt = 16
    """Completions per user of the generative recommender."""
    temperature: NonNegativeFloat = 0.8
    models: tuple[str, ...] = ("popular", "knn", "bm25-lastitem", "calrec")


class FidelitySettings(_Settings):
    """Click decisions of the simulated user on held-out items."""

    users: PositiveInt = 1000


class SimulationSettings(_Settings):
    """Sessions of recommender and simulated user."""

    users: PositiveInt = 100
    """Sessions per policy."""
    max_rounds: PositiveInt = 6
    slate_size: PositiveInt = 5
    policies: tuple[str, ...] = ("agent", "popular", "knn")


class QuickstartConfig(_Settings):
    """All settings of one quickstart."""

    nano: NanoRecipe = NanoRecipe()
    adapters: dict[str, dict[str, Any]] = {"recommender": {}, "user": {}}
    """Overrides of finetune/NAME.yaml for each adapter that is trained."""
    evaluation: EvaluationSettings = EvaluationSettings()
    fidelity: FidelitySettings = FidelitySettings()
    simulation: SimulationSettings = SimulationSettings()


def load_config(path: Path | None, *, spec: str) -> QuickstartConfig:
    """Read a settings file; default is the shipped one for this dataset.

    Raises:
        ConfigError: the file is missing, not YAML, or a setting is unknown or wrong (all faults at once).
    """
    if path is None:
        path = asset("eval/quickstart.yaml" if spec == "films" else "eval/quickstart-real.yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"settings file {str(path)!r} cannot be read: {error}") from error
    try:
        return QuickstartConfig.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"settings file {str(path)!r} is not valid: {faults}") from error
