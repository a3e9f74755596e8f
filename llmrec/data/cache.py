"""The cache of loaded datasets: one folder per content hash with Arrow files and a sealed description.

A folder is written under another name and renamed when it is complete, so a killed run leaves no half cache behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmrec.data.arrow import open_table, storage_errors, write_table
from llmrec.errors import CacheError

_META = "meta.json"
_FULL_CHECK = 64 << 20  # files up to this size are hashed at every opening; of larger ones the size is checked


def store(folder: Path, tables: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write tables and description.

    Raises:
        StorageError: the disk is full or refuses the write; nothing stays behind.
    """
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with storage_errors(folder):
            _fill(partial, tables, meta)
            try:
                os.replace(partial, folder)
            except OSError:  # another process was faster; its content is the same by construction of the key
                if not (folder / _META).exists():
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(partial: Path, tables: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    files = {}
    for name, table in tables.items():
        path = partial / f"{name}.arrow"
        write_table(table, path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    body = {"files": files, **meta}
    (partial / _META).write_text(json.dumps({"seal": _seal(body), **body}, indent=1), encoding="utf-8")


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Memory-mapped tables by name, and the description; None when there is no such cache.

    Raises:
        CacheError: the folder is damaged.
    """
    if not folder.exists():
        return None
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        seal = meta.pop("seal")
        if seal != _seal(meta):
            raise damaged(folder, f"{_META} was changed")
        tables = {}
        for name, expected in meta["files"].items():
            _verify(folder / name, expected, folder)
            tables[name.removesuffix(".arrow")] = open_table(folder / name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise damaged(folder, str(error) or type(error).__name__) from error
    return tables, meta


def damaged(folder: Path, why: str) -> CacheError:
    """The error for a cache that cannot be used, with the remedy."""
    return CacheError(f"the cached dataset {folder} is damaged ({why}); delete that folder and run the command again")


def _verify(path: Path, expected: Mapping[str, Any], folder: Path) -> None:
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise damaged(folder, f"{path.name} has {size} bytes instead of {expected['bytes']}")
    if size <= _FULL_CHECK and _sha256(path) != expected["sha256"]:
        raise damaged(folder, f"{path.name} has another checksum")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
