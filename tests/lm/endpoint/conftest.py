"""Fake servers, and an environment without a key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lm.endpoint.server import Fake, Running


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


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
