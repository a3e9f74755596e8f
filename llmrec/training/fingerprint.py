"""A digest of what decides how training texts look, so that no model outlives the form it was trained on."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from llmrec.assets import asset

_PACKAGE = Path(__file__).resolve().parents[1]
_TEXT_CODE = (
    "data/catalogue.py",
    "prompting.py",
    "lm/nano.py",
    "retrieval/calrec.py",
    "roles",
    "training",
    "training/calrec/data.py",  # the shares of several domains
    "tools",
)
"""What pre-training texts come from; of a folder the files that lie directly in it."""


@cache
def text_digest() -> str:
    """16 hex digits over prompt templates, recipes, agent settings, and the code that writes training texts."""
    files = [path for root in _TEXT_CODE for path in _python_files(_PACKAGE / root)]
    for folder, pattern in (("prompts", "**/*.jinja"), ("finetune", "*.yaml"), ("agents", "*/agent.yaml")):
        files += sorted(asset(folder).glob(pattern))
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\x1f" + path.read_bytes() + b"\x1e")
    return digest.hexdigest()[:16]


def _python_files(path: Path) -> list[Path]:
    return sorted(path.glob("*.py")) if path.is_dir() else [path]
