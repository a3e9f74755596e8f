"""Answers of models as lines of JSON, so that a killed run asks nothing twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from llmrec.errors import CacheError, StorageError

T = TypeVar("T")


class CallLog:
    """A file that maps what was asked to what was answered; one line each, appended as soon as it is known.

    A torn last line (the process was killed while it wrote) is cut off.

    Args:
        path: JSONL file; made when the first answer comes.

    Raises:
        CacheError: a line before the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        if path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def add(self, key: str, answer: Any) -> None:
        """Keep an answer.

        Raises:
            StorageError: it cannot be written.
        """
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise StorageError(f"{str(self._path)!r} cannot be written: {error.strerror or error}") from error
        self._known[key] = answer

    def _read(self) -> None:
        text = self._path.read_bytes()
        whole, newline, torn = text.rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if newline else [], start=1):
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = entry["answer"]
            except (ValueError, KeyError, TypeError) as error:
                raise CacheError(
                    f"line {number} of {str(self._path)!r} is damaged; delete the line to ask it again"
                ) from error
        if torn:
            with self._path.open("rb+") as stream:
                stream.truncate(len(whole) + len(newline))


def call_key(*parts: object) -> str:
    """32 hex digits that stand for everything a call depends on."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


async def answer_all(
    log: CallLog,
    keys: Sequence[str],
    ask: Callable[[Sequence[int]], Awaitable[Sequence[Any]]],
    *,
    at_once: int,
) -> list[Any]:
    """The answer to every key, those in the log without asking.

    Args:
        log: where answers are kept.
        keys: of the calls; equal keys are asked once.
        ask: answers the calls at these places of `keys`.
        at_once: calls between two writes; what a kill costs at most.
    """
    places = {key: place for place, key in reversed(list(enumerate(keys))) if key not in log}
    missing = sorted(places.values())
    for start in range(0, len(missing), at_once):
        chunk = missing[start : start + at_once]
        for place, answer in zip(chunk, await ask(chunk), strict=True):
            log.add(keys[place], answer)
    return [log[key] for key in keys]
