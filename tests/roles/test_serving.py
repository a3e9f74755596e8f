"""Which brain a backbone spec gives, and clear errors where there is none."""

from __future__ import annotations

import pytest

from llmrec.errors import ConfigError, LlmrecError
from llmrec.roles.recommender import RecommenderConfig
from llmrec.roles.serving import chat_model, parts


def test_no_backbone_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMREC_BACKBONE", raising=False)
    with pytest.raises(ConfigError, match="LLMREC_BACKBONE"):
        parts(RecommenderConfig())


def test_chat_model_needs_a_provider() -> None:
    with pytest.raises(ConfigError, match="chat:PROVIDER:MODEL"):
        chat_model("gpt-5")


def test_unknown_provider_is_named() -> None:
    with pytest.raises(ConfigError, match="nobody"):
        chat_model("nobody:model")


def test_missing_provider_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "langchain_ollama", None)
    with pytest.raises(LlmrecError, match="pip install langchain-ollama"):
        chat_model("ollama:qwen3")
