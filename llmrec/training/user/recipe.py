"""The recipe of the simulated user: `finetune/user.yaml`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from llmrec.training.recipe import MixRecipe

CalibrationKind = Literal["platt", "temperature", "none"]
LOG_KINDS = ("leaves", "talks")
"""Kinds of examples beside those of `llmrec.training.corpus`."""


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

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """Also those that come from logs which not every dataset has."""
        return (*super().kinds(), *LOG_KINDS)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if (self.talks is None) == ("talks" in self.data):
            raise ValueError(
                f"examples of kind 'talks' and the setting talks (a folder of ReDial) need each other, got "
                f"data={self.data!r} and talks={self.talks!r}"
            )
        if self.calibration_users and not self.validation_examples:
            raise ValueError(
                f"decisions are calibrated on validation users: set validation_examples to 1 or more, or "
                f"calibration_users=0, got validation_examples=0 and calibration_users={self.calibration_users}"
            )
        return self
