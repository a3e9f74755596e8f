"""A prefix table as a folder: `table.safetensors` with the arrays, `table.json` with what they belong to."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load
from safetensors.numpy import save as dump

from llmrec.errors import CacheError, StorageError
from llmrec.semid.prefix_table import PrefixTable

VERSION = 2
SPEC, _ARRAYS = "table.json", "table.safetensors"
_NAMES = ("indptr", "token", "lo", "hi", "items")


def save_table(table: PrefixTable, folder: Path) -> None:
    """Write a table; the folder is made if need be.

    Raises:
        StorageError: it cannot be written.
    """
    arrays = dump({name: np.ascontiguousarray(getattr(table, name)) for name in _NAMES})
    spec = {
        "version": VERSION,
        "arrays_sha256": hashlib.sha256(arrays).hexdigest(),
        "n_items": table.n_items,
        "n_nodes": table.n_nodes,
        "level_starts": list(table.level_starts),
        "catalogue_hash": table.catalogue_hash,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPEC).unlink(missing_ok=True)  # a kill from here on leaves no table rather than a mixed one
        partial = folder / f"{_ARRAYS}.partial"
        partial.write_bytes(arrays)
        os.replace(partial, folder / _ARRAYS)
        (folder / SPEC).write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the prefix table cannot be written to {str(folder)!r}: {error}") from error


def load_table(folder: Path, *, catalogue_hash: str | None = None) -> PrefixTable:
    """Read a table.

    Args:
        folder: where `save_table` wrote it.
        catalogue_hash: content hash of the catalogue in use; None does not compare.

    Raises:
        CacheError: the folder holds no table, a damaged one, one of another version or of another catalogue.
    """
    try:
        spec: dict[str, Any] = json.loads((folder / SPEC).read_text(encoding="utf-8"))
        version = spec["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"no readable prefix table in {str(folder)!r} ({error}); build it again") from error
    if version != VERSION:
        raise CacheError(f"the prefix table in {str(folder)!r} has version {version!r}, not {VERSION}; build it again")
    if catalogue_hash is not None and spec.get("catalogue_hash") != catalogue_hash:
        raise CacheError(
            f"the prefix table in {str(folder)!r} was built for the catalogue {spec.get('catalogue_hash')!r}, the one "
            f"in use is {catalogue_hash!r}; build it again"
        )
    try:
        content = (folder / _ARRAYS).read_bytes()
        if hashlib.sha256(content).hexdigest() != spec["arrays_sha256"]:
            raise ValueError("the arrays are not those that table.json describes")
        arrays = load(content)
        table = PrefixTable(
            **{name: arrays[name] for name in _NAMES},
            level_starts=tuple(int(start) for start in spec["level_starts"]),
            catalogue_hash=str(spec["catalogue_hash"]),
        )
        fits = _fits(table, spec)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CacheError(f"the prefix table in {str(folder)!r} is damaged ({error}); build it again") from error
    if not fits:
        raise CacheError(f"the prefix table in {str(folder)!r} is damaged: arrays of wrong sizes; build it again")
    return table


def _fits(table: PrefixTable, spec: dict[str, Any]) -> bool:
    sizes = (len(table.indptr) - 1, len(table.token), len(table.lo), len(table.hi), table.level_starts[-1])
    return (
        set(sizes) == {spec["n_nodes"]}
        and table.n_items == spec["n_items"]
        and int(table.indptr[-1]) == table.n_nodes
        and all(part.dtype == np.int32 for part in (table.indptr, table.token, table.lo, table.hi, table.items))
    )
