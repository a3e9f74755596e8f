"""Fetches public datasets from their official addresses: resumed when broken off, checked against a checksum."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmrec.data.arrow import storage_errors
from llmrec.errors import ConfigError, DataError

_CHUNK = 1 << 16
_TIMEOUT_S = 60
_PARTIAL, _UNSATISFIABLE = 206, 416


@dataclass(frozen=True)
class Source:
    """A file that can be downloaded."""

    name: str
    kind: str
    """Spec prefix that reads it."""
    url: str
    md5: str
    n_bytes: int
    """Size, for the progress bar."""
    licence: str


SOURCES = {
    "movielens-1m": Source(
        name="movielens-1m",
        kind="movielens",
        url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        md5="c4d9eecfca2ab87c1945afe126590906",
        n_bytes=5_917_549,
        licence=(
            "MovieLens 1M, GroupLens Research, University of Minnesota. Terms: no claim of endorsement by the "
            "university or GroupLens; acknowledge the data set in publications (Harper and Konstan 2015, doi "
            "10.1145/2827872); no redistribution without separate permission; no commercial use without permission "
            "of GroupLens. The full text is the file README in the archive."
        ),
    )
}


def source(name: str) -> Source:
    """A known download.

    Raises:
        ConfigError: no such name.
    """
    if name not in SOURCES:
        raise ConfigError(f"no download named {name!r}; known: {', '.join(SOURCES)}")
    return SOURCES[name]


def fetch(wanted: Source, out: Path, *, advance: Callable[[float], None] = lambda _: None) -> Path:
    """Download into a folder; a file that is already there and right is not fetched again.

    A broken download leaves ``NAME.part`` behind, and the next call asks for the rest only.

    Args:
        wanted: what to fetch.
        out: folder, made when absent.
        advance: told the number of bytes of each step.

    Raises:
        DataError: the server cannot be reached, or the file has another checksum (it is then deleted).
        StorageError: the disk is full.
    """
    target = out / wanted.url.rsplit("/", 1)[-1]
    with storage_errors(target):
        out.mkdir(parents=True, exist_ok=True)
    if target.exists() and _md5(target) == wanted.md5:
        advance(target.stat().st_size)
        return target
    partial = target.with_name(f"{target.name}.part")
    try:
        _transfer(wanted.url, partial, advance)
    except (http.client.HTTPException, urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"cannot fetch {wanted.url}: {error}; run the command again to go on, or fetch the file by hand"
        ) from error
    found = _md5(partial)
    if found != wanted.md5:
        partial.unlink()
        raise DataError(f"{wanted.url}: wrong checksum, got {found}, expected {wanted.md5}; deleted, fetch it again")
    with storage_errors(target):
        partial.replace(target)
    return target


def _transfer(url: str, partial: Path, advance: Callable[[float], None]) -> None:
    """Append what is missing to the partial file."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            resumed = have > 0 and answer.status == _PARTIAL
            advance(have if resumed else 0)
            expected = answer.length
            received = _write(answer, partial, advance, append=resumed)
    except urllib.error.HTTPError as error:
        if error.code == _UNSATISFIABLE and have:  # nothing is missing; the checksum decides
            return
        raise
    if expected is not None and received < expected:
        raise http.client.IncompleteRead(b"", expected - received)


def _write(answer: http.client.HTTPResponse, partial: Path, advance: Callable[[float], None], *, append: bool) -> int:
    received = 0
    with storage_errors(partial):
        file = partial.open("ab" if append else "wb")
    with file:
        while chunk := answer.read(_CHUNK):
            with storage_errors(partial):
                file.write(chunk)
            received += len(chunk)
            advance(len(chunk))
        with storage_errors(partial):
            file.flush()
    return received


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
