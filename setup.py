"""Build step: copies what a person edits (prompts, agents, recipes, suites) into the wheel.

In a checkout and in an editable install `llmrec.assets` finds these folders beside the package, so nothing is copied.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
ASSETS = {
    "prompts": ("*.jinja",),
    "agents": ("*.py", "*.yaml", "*.md"),
    "finetune": ("*.py", "*.yaml"),
    "eval": ("*.yaml",),
}
"""Top-level folder -> patterns of the files that are shipped as ``llmrec/_assets/<folder>``."""


def asset_files() -> list[Path]:
    """Shipped files, relative to the root of the repository."""
    wanted = [(folder, pattern) for folder, patterns in ASSETS.items() for pattern in patterns]
    found = {path for folder, pattern in wanted for path in (ROOT / folder).rglob(pattern)}
    return sorted(path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts)


class BuildWithAssets(build_py):
    """The ordinary step, then the copies."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for relative in asset_files():
            target = Path(self.build_lib) / "llmrec" / "_assets" / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / relative, target)


setup(cmdclass={"build_py": BuildWithAssets})
