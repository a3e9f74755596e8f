from __future__ import annotations

import pytest

from llmrec.testing.tools import small_resources
from llmrec.tools.resources import Resources


@pytest.fixture(scope="session")
def resources() -> Resources:
    return small_resources()
