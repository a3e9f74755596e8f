"""Downloads, against a server on this machine: whole, broken off, resumed, wrong."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmrec.data import download
from llmrec.data.download import SOURCES, Source, fetch, source
from llmrec.errors import ConfigError, DataError, StorageError

CONTENT = bytes(range(256)) * 2_000


@dataclass
class Server:
    """What the server does and has seen."""

    url: str = ""
    break_after: int | None = None
    """Close the connection after this many bytes, once."""
    ranges: bool = True
    asked: list[str | None] = field(default_factory=list)


class _Http(ThreadingHTTPServer):
    """A server that knows its settings."""

    def __init__(self, settings: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.settings = settings


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Http)
        server = self.server.settings
        asked = self.headers.get("Range")
        server.asked.append(asked)
        match = re.fullmatch(r"bytes=(\d+)-", asked or "") if server.ranges else None
        start = int(match[1]) if match else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.break_after is not None:
            body, server.break_after = body[: server.break_after], None
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    settings = Server()
    http = _Http(settings)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    settings.url = f"http://127.0.0.1:{http.server_address[1]}/data/small.zip"
    yield settings
    http.shutdown()
    http.server_close()
    thread.join()


def _source(server: Server) -> Source:
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    return Source("small", "movielens", server.url, md5, len(CONTENT), "terms")


def test_whole_file_with_progress(server: Server, tmp_path: Path) -> None:
    steps: list[float] = []
    path = fetch(_source(server), tmp_path / "new", advance=steps.append)
    assert path == tmp_path / "new" / "small.zip"
    assert path.read_bytes() == CONTENT
    assert sum(steps) == len(CONTENT)
    assert server.asked == [None]


def test_a_broken_download_is_resumed(server: Server, tmp_path: Path) -> None:
    server.break_after = 200_000
    with pytest.raises(DataError, match="run the command again to go on"):
        fetch(_source(server), tmp_path)
    assert (tmp_path / "small.zip.part").stat().st_size == 200_000
    steps: list[float] = []
    path = fetch(_source(server), tmp_path, advance=steps.append)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=200000-"]
    assert sum(steps) == len(CONTENT)
    assert not (tmp_path / "small.zip.part").exists()


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "small.zip.part").write_bytes(CONTENT[:1000])
    assert fetch(_source(server), tmp_path).read_bytes() == CONTENT


def test_a_complete_partial_file_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "small.zip.part").write_bytes(CONTENT)
    assert fetch(_source(server), tmp_path).read_bytes() == CONTENT


def test_what_is_there_and_right_is_not_fetched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "small.zip").write_bytes(CONTENT)
    fetch(_source(server), tmp_path)
    assert server.asked == []


def test_wrong_checksum_deletes_the_file(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"wrong checksum, got \w{32}, expected 0+; deleted"):
        fetch(replace(_source(server), md5="0" * 32), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_page_and_closed_port(server: Server, tmp_path: Path) -> None:
    nowhere = replace(_source(server), url="http://127.0.0.1:9/small.zip")
    with pytest.raises(DataError, match=r"cannot fetch http://127.0.0.1:9/small.zip: .*refused"):
        fetch(nowhere, tmp_path)


def test_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_args: object, **_settings: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", full)
    with pytest.raises(StorageError, match="the disk is full"):
        fetch(_source(server), tmp_path)


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="no download named 'netflix'; known: movielens-1m"):
        source("netflix")


def test_golden_official_address() -> None:
    known = SOURCES["movielens-1m"]
    assert known.url == "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
    assert known.md5 == "c4d9eecfca2ab87c1945afe126590906"
    assert "Harper and Konstan" in known.licence
    assert download.SOURCES is SOURCES
