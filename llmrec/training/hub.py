"""Copies a finished adapter with its card to a model hub, or to a folder that stands for one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from glob import escape
from pathlib import Path

from llmrec.errors import StorageError

FOLDER = "file:"
"""Prefix of a folder as target."""
ABOUT_USERS = ("profiles.jsonl", "verdicts.jsonl")
"""Logs of an exploration (`llmrec.training.lettingo.stages`). A folder that has one is its work, whatever its name."""
_LEFT_OUT = ("checkpoints", "logs", "work")  # they serve this machine alone; work holds what was written about users


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
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=_ignored(folder))
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
        hub.upload_folder(repo_id=target, folder_path=folder, ignore_patterns=_patterns(folder))
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
        raise StorageError(
            f"the hub did not take {target!r}: {error}; {_kept(folder)}: log in, then run hf upload {target} {folder}"
        ) from error
    return target


def _works(folder: Path) -> set[Path]:
    """Folders inside this one that hold what an exploration wrote about users."""
    return {path.parent for name in ABOUT_USERS for path in folder.rglob(name)} - {folder}


def _ignored(folder: Path) -> Callable[[str, list[str]], set[str]]:
    """For `shutil.copytree`."""
    named, works = shutil.ignore_patterns(*_LEFT_OUT, *ABOUT_USERS), _works(folder)
    return lambda inside, names: named(inside, names) | {name for name in names if Path(inside, name) in works}


def _patterns(folder: Path) -> list[str]:
    """For the hub, whose patterns are of whole paths, and whose * takes a / as well."""
    named = [f"{start}{name}/*" for name in _LEFT_OUT for start in ("", "*/")]
    files = [f"{start}{name}" for name in ABOUT_USERS for start in ("", "*/")]
    return [*named, *files, *(f"{escape(work.relative_to(folder).as_posix())}/*" for work in sorted(_works(folder)))]


def _kept(folder: Path) -> str:
    return f"the adapter is complete in {str(folder)!r}"
