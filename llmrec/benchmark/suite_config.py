"""Settings of a benchmark suite: data sets, recommenders and their settings, seeds. Files: eval/suites/*.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError, model_validator

from llmrec.errors import ConfigError

Order = Literal["file", "shuffled"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RowConfig(_Settings):
    """One line of the table."""

    model: str
    """Name in `llmrec.ranking.registry`."""
    config: dict[str, Any] = {}
    """Its settings; what is not named keeps its default."""
    parts: tuple[str, ...] = ()
    """Lines that a blend is made of; they stand above it."""
    uses: tuple[str, ...] = ()
    """Lines above it whose saved folders its settings name, as ``{LINE}``."""
    item_vectors: str | None = None
    """Vectors for a recommender that takes them (`llmrec.retrieval.item_vectors`), such as "minilm"."""
    seeded: bool = True
    """Whether it draws anything; what does not is run with the first seed only."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Lines that must have run before it."""
        return (*self.parts, *self.uses)


class DatasetConfig(_Settings):
    """One data set."""

    spec: str
    """Dataset spec; ``{data}`` stands for the folder given on the command line."""
    orders: tuple[Order, ...] = ("file",)
    """"shuffled" draws the order inside ties anew (`llmrec.data.ties`), for files that are sorted inside a day."""
    k_core: int = 0
    rows: dict[str, RowConfig]


class SuiteConfig(_Settings):
    """A suite."""

    seeds: tuple[int, ...] = (0, 1, 2)
    shuffled_seeds: PositiveInt = 1
    """How many of the seeds are run on the shuffled order, which is a control."""
    ks: tuple[PositiveInt, ...] = (1, 5, 10)
    main: tuple[str, ...] = ("recall@10", "ndcg@10")
    """Metrics of the printed table."""
    datasets: dict[str, DatasetConfig]

    @model_validator(mode="after")
    def _measured(self) -> SuiteConfig:
        known = [*(f"{name}@{k}" for k in self.ks for name in ("recall", "ndcg")), "mrr"]
        if unknown := [name for name in self.main if name not in known]:
            raise ValueError(f"main names {unknown[0]!r}, which is not measured with these ks: {', '.join(known)}")
        return self


def load_suite(path: Path) -> SuiteConfig:
    """Read a suite.

    Raises:
        ConfigError: the file is missing, not YAML, or a setting is unknown or wrong (all faults at once).
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"suite {str(path)!r} cannot be read: {error}") from error
    try:
        suite = SuiteConfig.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"suite {str(path)!r} is not valid: {faults}") from error
    for name, dataset in suite.datasets.items():
        _check_parts(name, dataset)
    return suite


def _check_parts(name: str, dataset: DatasetConfig) -> None:
    above: set[str] = set()
    for label, row in dataset.rows.items():
        if "," in label:
            raise ConfigError(f"{name}: the name of a line holds no comma, which separates names, got {label!r}")
        missing = [line for line in row.needs if line not in above]
        if missing:
            raise ConfigError(
                f"{name}: the line {label!r} needs {missing[0]!r}, which does not stand above it; "
                f"lines above are {', '.join(sorted(above)) or 'none'}"
            )
        above.add(label)
