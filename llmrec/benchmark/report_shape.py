"""What a report is made of. Every part may be absent; a part that is there must have this shape.

The parts are what the other modules return as plain JSON: `Evaluation.to_json`, `Fidelity.to_json`, `summarise_run`,
`Session.model_dump`, the reports of training. Fields that are not named here pass through to report.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from llmrec.errors import ConfigError
from llmrec.simulate.session import Session

_SIGNIFICANT = 6  # digits; more than any sample here can carry


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Bounds(_Part):
    """A number with its confidence interval; a number without one has no bounds."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class Dataset(_Part):
    """What was recommended to whom."""

    spec: str
    name: str
    n_items: int
    n_users: int
    n_interactions: int


class Training(_Part):
    """One trained model: the backbone (`llmrec.training.pretrain`) or an adapter (`finetune/sft.py`)."""

    parameters: int | None = None
    tokens: int | None = None
    n_train: int | None = None
    n_validation: int | None = None
    best: float | None = None
    """Lowest validation loss in nats per token."""
    seconds: float | None = None
    hardware: str | None = None
    curve: list[dict[str, float | None]] = []
    """Rows with step and loss, or step and validation_loss; tokens where known."""


class Paired(_Part):
    """Differences to one recommender, user by user."""

    against: str
    models: dict[str, dict[str, Bounds]]


class Evaluation(_Part):
    """`llmrec.benchmark.protocol.Evaluation.to_json`."""

    dataset: str
    protocol: str
    stage: str = "test"
    n: int
    seed: int
    models: dict[str, dict[str, Bounds]]
    paired: Paired | None = None
    seconds: dict[str, dict[str, float]] = {}
    failed: dict[str, dict[str, Any]] = {}
    notes: dict[str, str] = {}


class Clicks(_Part):
    """`llmrec.metrics.classification.ClickMetrics.to_json`."""

    n: int
    positives: int
    failed: int = 0
    accuracy: Bounds
    always_click: Bounds
    never_click: Bounds
    over_always: Bounds | None = None
    over_never: Bounds | None = None
    log_loss: Bounds | None = None
    base_rate_log_loss: Bounds | None = None
    auc: Bounds | None = None


class Fidelity(_Part):
    """`llmrec.simulate.fidelity.Fidelity.to_json`."""

    model: Clicks
    popularity: Clicks | None = None
    over_popularity: Bounds | None = None


class Compliance(_Part):
    """Share of the slate that fulfils an instruction, before it was given and after."""

    n: int = 0
    before: Bounds | None = None
    after: Bounds | None = None


class Policy(_Part):
    """One policy of `llmrec.simulate.metrics.summarise_run`."""

    n: int
    failed: int = 0
    rounds: Bounds | None = None
    rounds_distribution: dict[str, int] = {}
    items: Bounds | None = None
    clicks: Bounds | None = None
    click_rate: Bounds | None = None
    actions: dict[str, int] = {}
    instruction_rate: Bounds | None = None
    instructions: dict[str, int] = {}
    unwritten_instructions: int = 0
    compliance: Compliance | None = None
    compliance_by_class: dict[str, dict[str, float]] = {}
    endings: dict[str, int] = {}
    out_of_catalogue: int = 0
    satisfaction_at_end: Bounds | None = None
    first_slate_ndcg: Bounds | None = None
    seconds_per_session: float | None = None


class Comparison(_Part):
    """Mean of a measure under the first policy minus the second, paired by user (`llmrec.simulate.metrics.compare`)."""

    first: str
    second: str
    measure: str
    value: float
    low: float
    high: float


class Simulation(_Part):
    """All policies of a run."""

    policies: dict[str, Policy]
    comparisons: list[Comparison] = []


class Catalogued(_Part):
    """The count of shown items that are not in the catalogue, and the proof that the check can find some."""

    count: int
    checked: int
    planted_caught: bool


class StageTime(_Part):
    """One stage of the job."""

    name: str
    seconds: float
    peak_mib: float | None = None
    """Peak memory of the job up to the end of the stage."""


class Results(BaseModel):
    """Everything that `llmrec quickstart` found out."""

    model_config = ConfigDict(extra="allow", frozen=True)

    llmrec: str | None = None
    """Version of this package."""
    command: str | None = None
    seed: int | None = None
    dataset: Dataset | None = None
    machine: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    backbone: Training | None = None
    adapters: dict[str, Training] = {}
    evaluation: Evaluation | None = None
    fidelity: Fidelity | None = None
    simulation: Simulation | None = None
    transcripts: list[Session] = []
    """Sessions as the journal keeps them."""
    out_of_catalogue: Catalogued | None = None
    stages: list[StageTime] = []
    total_seconds: float | None = None
    peak_mib: float | None = None


def plain(value: Any) -> Any:
    """Reduce a value to what JSON knows, floats to six significant digits; what is not finite becomes null."""
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {_text(str(key)): plain(element) for key, element in value.items()}
    if hasattr(value, "tolist"):  # numpy
        return plain(value.tolist())
    if isinstance(value, float):
        return _rounded(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str | Path):
        return _text(str(value))
    if isinstance(value, Iterable):
        return [plain(element) for element in value]
    return _text(str(value))


def check(results: Mapping[str, Any]) -> tuple[dict[str, Any], Results]:
    """Plain values for report.json, and the same checked against `Results`.

    Raises:
        ConfigError: a part has another shape; the message names the first fault.
    """
    values: dict[str, Any] = plain(results)
    try:
        return values, Results.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"the results of the report are not as expected at {where}: {first['msg']}, got {first['input']!r:.100} "
            f"({error.error_count()} faults in all; see llmrec/benchmark/report_shape.py)"
        ) from error


def _rounded(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    return value if value.is_integer() else float(f"{value:.{_SIGNIFICANT}g}")


def _text(value: str) -> str:
    """Half of a surrogate pair cannot be written as UTF-8."""
    return value.encode("utf-8", "replace").decode("utf-8")
