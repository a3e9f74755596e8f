"""Copies a finished adapter with its card to a model hub, or to a folder that stands for one."""

from __future__ import annotations

import shutil
from pathlib import Path

from llmrec.errors import StorageError

FOLDER = "file:"
"""Prefix of a folder as target."""
_LEFT_OUT = ("checkpoints", "logs", "work")  # they serve this machine alone; work holds what was written about users

_PATTERNS = [f"{start}{name}/*" for name in _LEFT_OUT for start in ("", "*/")]


def push(folder: Path, target: str) -> str:
    """Copy an adapter folder, without checkpoints, logs and the work of an exploration.

    Args:
        folder: what a recipe wrote.
        target: a hub id (NAME/REPOSITORY), which is created where it is missing, as a private one; or file:FOLDER.

    Returns:
        Where it is now.

    Raises:
        StorageError: the folder cannot be written, or the hub refused. The adapter itself is complete by then.
    """
    if target.startswith(FOLDER):
        return _copy(folder, Path(target.removeprefix(FOLDER)).expanduser())
    return _upload(folder, target)


def _copy(folder: Path, target: Path) -> str:
    if target.resolve().is_relative_to(folder.resolve()):
        raise StorageError(f"an adapter cannot be pushed into itself, got {str(target)!r}; name another folder")
    try:
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    except OSError as error:
        raise StorageError(f"{str(target)!r} cannot be written: {error}; {_kept(folder)}") from error
    return str(target)


def _upload(folder: Path, target: str) -> str:
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi()
    try:
        hub.create_repo(target, exist_ok=True, private=True)
        hub.upload_folder(repo_id=target, folder_path=folder, ignore_patterns=_PATTERNS)
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
        raise StorageError(
            f"the hub did not take {target!r}: {error}; {_kept(folder)}: log in, then run hf upload {target} {folder}"
        ) from error
    return target


def _kept(folder: Path) -> str:
    return f"the adapter is complete in {str(folder)!r}"
