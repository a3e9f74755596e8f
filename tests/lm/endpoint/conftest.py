"""Fake servers, and an environment without a key."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lm.endpoint.server import Fake, Running


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off in hundredths of a second."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)


@pytest.fixture
def llamacpp() -> Iterator[Fake]:
    with Running("llamacpp") as fake:
        yield fake


@pytest.fixture
def vllm() -> Iterator[Fake]:
    with Running("vllm") as fake:
        yield fake


@pytest.fixture
def openai_server() -> Iterator[Fake]:
    with Running("openai") as fake:
        yield fake
