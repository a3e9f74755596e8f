"""Waiting for coroutines from synchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Wait for a coroutine, in a thread of its own: the caller may itself stand below a running event loop."""
    with ThreadPoolExecutor(1, thread_name_prefix="llmrec-run") as thread:
        return thread.submit(asyncio.run, work).result()
