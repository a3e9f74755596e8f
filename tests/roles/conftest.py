"""The small films, and a tiny random model that has never seen a request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmrec.testing.tools import small_resources
from llmrec.tools.resources import Resources

if TYPE_CHECKING:
    from llmrec.lm.local import LocalLM


@pytest.fixture(scope="session")
def resources() -> Resources:
    return small_resources()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from llmrec.testing.models import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_lm(tiny_folder: Path) -> LocalLM:
    from llmrec.lm.local import LocalLM

    return LocalLM.from_folder(tiny_folder, dtype="float32", device="cpu")
