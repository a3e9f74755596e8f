"""Loads a run folder of `agents/` by path: its settings, checked, and its `build` function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from llmrec.assets import asset, load_file
from llmrec.errors import ConfigError


class NoSettings(BaseModel):
    """For agents without settings: agent.yaml must be empty or absent."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Agent:
    """A loaded run folder."""

    name: str
    folder: Path
    config: Any
    """agent.yaml, validated by the class `Config` of graph.py."""
    build: Callable[..., Any]
    """Compiles the graph; what it takes is up to the agent."""


def load_agent(name_or_path: str | Path, **changes: Any) -> Agent:
    """Load ``agents/NAME`` or a folder.

    Args:
        name_or_path: name of a shipped agent, or the path of a folder with graph.py.
        changes: settings that replace those of agent.yaml.

    Raises:
        ConfigError: there is no such agent, graph.py has no `build`, or agent.yaml is wrong.
    """
    folder = _folder(name_or_path)
    module = load_file(folder / "graph.py", name=f"llmrec_agent_{folder.name}")
    build = getattr(module, "build", None)
    if not callable(build):
        raise ConfigError(f"{folder / 'graph.py'} has no function build; it must return a compiled graph")
    settings = getattr(module, "Config", NoSettings)
    return Agent(folder.name, folder, read_settings(folder / "agent.yaml", settings, **changes), build)


def read_settings(path: Path, settings: type[BaseModel], **changes: Any) -> Any:
    """Settings from a YAML file, all problems in one message.

    Raises:
        ConfigError: the file is no YAML mapping, or a key or value is wrong.
    """
    import yaml

    given: Any = {}
    if path.exists():
        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{path} must hold settings as key: value lines, got {type(given).__name__}")
    try:
        return settings.model_validate({**given, **changes})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, p['loc']))}: {p['msg'].lower()}, got {p['input']!r}" for p in error.errors()
        )
        raise ConfigError(
            f"{path}: {problems}; the settings are {', '.join(settings.model_fields) or 'none'}"
        ) from error


def _folder(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if (path / "graph.py").is_file():
        return path.resolve()
    if path.name != str(name_or_path):
        raise ConfigError(f"no agent in {str(name_or_path)!r}; expected a folder with graph.py")
    agents = asset("agents")
    folder = agents / path.name
    if not (folder / "graph.py").is_file():
        known = sorted(one.parent.name for one in agents.glob("*/graph.py"))
        raise ConfigError(
            f"no agent {str(name_or_path)!r}; the agents are {', '.join(known)}, or give a folder with graph.py"
        )
    return folder
