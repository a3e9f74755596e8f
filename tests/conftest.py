"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real research data ($LLMREC_DATA, default ``../shared/data``); the test is skipped without it."""
    folder = Path(os.environ.get("LLMREC_DATA") or _ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent (set LLMREC_DATA to the folder that has it)")
    return folder


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests never read or write the cache of the person who runs them."""
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path_factory.getbasetemp() / "llmrec-cache"))
