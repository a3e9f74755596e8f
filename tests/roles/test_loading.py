from __future__ import annotations

from pathlib import Path

import pytest

from llmrec.errors import ConfigError
from llmrec.roles.loading import load_agent
from llmrec.roles.recommender import RecommenderConfig
from llmrec.roles.serving import parts

GRAPH = """from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int = 3


def build(config):
    return config.n
"""


def folder(tmp_path: Path, graph: str, settings: str | None = None) -> Path:
    (tmp_path / "graph.py").write_text(graph, encoding="utf-8")
    if settings is not None:
        (tmp_path / "agent.yaml").write_text(settings, encoding="utf-8")
    return tmp_path


def test_the_shipped_recommender_loads_by_name() -> None:
    agent = load_agent("recommender", n=7)
    assert agent.name == "recommender"
    assert agent.config == RecommenderConfig(n=7)


def test_a_folder_of_ones_own_loads_by_path(tmp_path: Path) -> None:
    agent = load_agent(folder(tmp_path, GRAPH, "n: 4\n"))
    assert agent.build(agent.config) == 4
    assert load_agent(tmp_path, n=5).config.n == 5


def test_settings_are_optional(tmp_path: Path) -> None:
    assert load_agent(folder(tmp_path, "def build(): return 1\n")).build() == 1


@pytest.mark.parametrize(
    ("graph", "settings", "message"),
    [
        (GRAPH, "m: 4\n", "m: extra inputs are not permitted"),
        (GRAPH, "n: many\n", "n: input should be a valid integer.*got 'many'"),
        (GRAPH, "n: [\n", "not valid YAML"),
        (GRAPH, "- n\n", "key: value"),
        ("x = 1\n", None, "no function build"),
        ("def build(:\n", None, "SyntaxError"),
        ("import a_module_that_is_not_there\n", None, "ModuleNotFoundError"),
        ("def build(): return 1\n", "n: 1\n", "the settings are none"),
    ],
)
def test_broken_folders_are_user_errors(tmp_path: Path, graph: str, settings: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_agent(folder(tmp_path, graph, settings))


@pytest.mark.parametrize("name", ["recomender", "no/such/folder"])
def test_an_unknown_agent_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load_agent(name)


def test_no_backbone_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMREC_BACKBONE", raising=False)
    with pytest.raises(ConfigError, match=r"--backbone.*LLMREC_BACKBONE"):
        parts(RecommenderConfig())
