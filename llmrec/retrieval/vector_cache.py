"""Vectors of texts, kept in the cache under the hash of (texts, encoder): a sentence model reads a catalogue once.

A damaged file is an error that names it, never a silent second reading.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from llmrec.assets import cache_dir
from llmrec.data.arrow import storage_errors
from llmrec.errors import CacheError

Vectors = npt.NDArray[np.float32]
_FORMAT = "1"


async def cached(texts: Sequence[str], identity: str, make: Callable[[], Awaitable[npt.NDArray[Any]]]) -> Vectors:
    """Vectors of these texts by this encoder, from the cache where they are, else made and kept.

    Args:
        texts: one per item.
        identity: of the encoder; equal identities give equal vectors.
        make: computes them, shape (n_texts, dimensions).

    Raises:
        CacheError: the cached file is damaged.
        StorageError: the disk is full or refuses the write.
    """
    path = cache_dir() / "vectors" / f"{key(texts, identity)}.safetensors"
    if path.exists():
        return _read(path, len(texts))
    vectors = np.ascontiguousarray(await make(), dtype=np.float32)
    _write(path, vectors)
    return vectors


def key(texts: Sequence[str], identity: str) -> str:
    """Name of the cached file: 40 hex digits."""
    digest = hashlib.sha256(f"{_FORMAT}\x1e{identity}\x1e{len(texts)}".encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(f"\x1f{len(encoded)}\x1f".encode())
        digest.update(encoded)
    return digest.hexdigest()[:40]


def _read(path: Path, n_texts: int) -> Vectors:
    try:
        arrays = load(path.read_bytes())
        vectors, checksum = arrays["vectors"], bytes(arrays["sha256"])
        if len(vectors) != n_texts or hashlib.sha256(vectors.tobytes()).digest() != checksum:
            raise ValueError("another checksum")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CacheError(
            f"the cached vectors {str(path)!r} are damaged ({error}); delete that file and run the command again"
        ) from error
    return np.asarray(vectors, dtype=np.float32)


def _write(path: Path, vectors: Vectors) -> None:
    checksum = np.frombuffer(hashlib.sha256(vectors.tobytes()).digest(), dtype=np.uint8)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=".", suffix=path.name, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(save({"vectors": vectors, "sha256": checksum}))
            os.replace(partial, path)
        finally:
            Path(partial).unlink(missing_ok=True)
