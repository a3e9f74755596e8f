"""The recipe of the simulated user: `finetune/user.yaml`."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from llmrec.training.recipe import MixRecipe

CalibrationKind = Literal["platt", "temperature", "none"]


class UserRecipe(MixRecipe):
    """Behaviour cloning of decisions and written reasons, then calibration of the decisions."""

    script: Literal["user.py"] = "user.py"
    talks: str | None = None
    """Folder of ReDial (dialogues_*.jsonl.gz, movies.jsonl.gz), for examples of kind talks."""
    session_gap_s: PositiveFloat = 1800.0
    """Seconds without an event after which a user has left, for examples of kind leaves."""
    calibration: CalibrationKind = "platt"
    """How decision probabilities are put right: temperature fits one number, platt two."""
    calibration_users: NonNegativeInt = 300
    """Validation users for the fit; as many others measure it. Fewer where there are fewer; 0 leaves it out."""
    bins: PositiveInt = 10
    """Of the reliability plot and of the expected calibration error."""
