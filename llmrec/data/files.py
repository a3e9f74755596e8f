"""Where a source reads from: a folder or a zip archive, plain files or gzip, seen as one set of named files."""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from llmrec.errors import DataError

_CHUNK = 1 << 22


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    name: str
    """Name shown in messages."""
    path: Path
    """The file itself, or the archive that it is in."""
    member: str | None = None
    """Name inside the archive."""

    @property
    def suffix(self) -> str:
        """Last suffix without ``.gz``, such as ".csv"."""
        return PurePosixPath(self.name.removesuffix(".gz")).suffix.lower()

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The bytes, decompressed.

        Raises:
            DataError: the file cannot be read, or its compressed data is damaged or cut off.
        """
        try:
            with self._raw() as raw:
                if self.name.endswith(".gz"):
                    with gzip.open(raw, "rb") as unpacked:
                        yield io.BufferedReader(unpacked, _CHUNK)
                else:
                    yield raw
        except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise DataError(f"{self.name} is damaged or incomplete ({error}); fetch it again") from error
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from error

    @contextmanager
    def _raw(self) -> Iterator[BinaryIO]:
        if self.member is None:
            with self.path.open("rb") as file:
                yield file
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            yield io.BufferedReader(file, _CHUNK)  # type: ignore[type-var]

    def size(self) -> int:
        """Bytes on disk (packed)."""
        return self.path.stat().st_size


class FileSet:
    """The files of a folder or of a zip archive.

    Args:
        path: folder (with the files in it, or in its only sub-folder) or ``.zip``.

    Raises:
        DataError: there is no such path, or the archive is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise DataError(f"no such folder or archive, got {str(path)!r}; give the folder that holds the data files")
        self.files: tuple[SourceFile, ...] = _archive(path) if path.is_file() else _folder(path)

    def find(self, *names: str) -> SourceFile | None:
        """The first file with one of these names, with or without ``.gz``."""
        by_name = {file.name: file for file in self.files}
        for name in names:
            for candidate in (name, f"{name}.gz"):
                if candidate in by_name:
                    return by_name[candidate]
        return None

    def first(self, accept: Callable[[SourceFile], bool]) -> SourceFile | None:
        """The first file that satisfies `accept`, by name."""
        return next((file for file in self.files if accept(file)), None)

    def names(self) -> list[str]:
        """Names of all files, at most twelve."""
        return [file.name for file in self.files[:12]]


def content_key(files: list[SourceFile]) -> str:
    """Hash of the content of files, in order (32 hex digits)."""
    digest = hashlib.sha256()
    for path in dict.fromkeys(file.path for file in files):
        digest.update(path.name.encode() + b"\x1e")
        try:
            with path.open("rb") as raw:
                digest.update(hashlib.file_digest(raw, "sha256").digest())
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()[:32]


def _folder(path: Path) -> tuple[SourceFile, ...]:
    entries = sorted(path.iterdir())
    if not any(entry.is_file() for entry in entries):
        inner = [entry for entry in entries if entry.is_dir()]
        if len(inner) == 1:
            return _folder(inner[0])
    return tuple(SourceFile(entry.name, entry) for entry in entries if entry.is_file())


def _archive(path: Path) -> tuple[SourceFile, ...]:
    if path.suffix.lower() != ".zip":
        raise DataError(
            f"expected a folder or a .zip archive, got the file {str(path)!r}; give the folder that holds it"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(name for name in archive.namelist() if not name.endswith("/"))
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is not a complete zip archive ({error}); fetch it again") from error
    members = [name for name in members if not name.startswith("__MACOSX")]
    return tuple(SourceFile(PurePosixPath(name).name, path, name) for name in members)
