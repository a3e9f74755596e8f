"""Finds what a person edits (prompts, agents, recipes, suites), in a checkout or inside an installed wheel."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from llmrec.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent
_ROOTS = (_PACKAGE.parent, _PACKAGE / "_assets")


def asset(relative: str) -> Path:
    """Path of a shipped file or folder, such as ``prompts/user/decide.jinja``.

    Raises:
        ConfigError: there is no such asset, neither beside the package (checkout) nor inside it (wheel).
    """
    for root in _ROOTS:
        path = root / relative
        if path.exists():
            return path
    raise ConfigError(f"no shipped file got {relative!r}; looked in {', '.join(map(str, _ROOTS))}")


def cache_dir() -> Path:
    """Folder for caches: $LLMREC_CACHE, else the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("LLMREC_CACHE") or platformdirs.user_cache_dir("llmrec"))


def load_file(path: Path, *, name: str) -> ModuleType:
    """Run a Python file of a run folder (finetune/, agents/) as a module that no import reaches.

    Raises:
        ConfigError: there is no such file, or it cannot be run.
    """
    spec = importlib.util.spec_from_file_location(name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(f"no Python file, got {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # postponed annotations of dataclasses and state classes are looked up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module
