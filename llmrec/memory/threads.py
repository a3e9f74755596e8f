"""Where chats are kept: LangGraph's SQLite checkpointer in one file, one thread per chat."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llmrec.assets import cache_dir
from llmrec.errors import StorageError


def default_path() -> Path:
    """The file in which chats are kept unless told otherwise."""
    return cache_dir() / "chats.sqlite3"


@asynccontextmanager
async def open_threads(path: Path) -> AsyncIterator[Any]:
    """A checkpointer over a SQLite file, created when it does not exist.

    Raises:
        StorageError: the file cannot be opened or is no SQLite database.
    """
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
            await saver.setup()
            yield saver
    except (sqlite3.Error, OSError) as error:
        raise StorageError(
            f"the chats in {path} cannot be read or written: {error}; give another file or free space"
        ) from error
