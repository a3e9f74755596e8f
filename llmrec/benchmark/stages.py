"""Stages of a long job: each is timed and its result kept, so a killed job goes on with the first unfinished one."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmrec.benchmark.machine import peak_memory_mib
from llmrec.errors import CacheError


class Stages:
    """Runs stages and remembers what they returned.

    Args:
        folder: one JSON file per finished stage.
        settings: everything that results depend on; other settings make all stages run again.
        say: receives one line per stage.
    """

    def __init__(self, folder: Path, settings: Any, *, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self.log: list[dict[str, Any]] = []
        self._say = say
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a stage: computed now, or read from an earlier run with the same settings.

        Args:
            name: of the stage; its file is NAME.json.
            work: returns plain JSON values.
        """
        path = self.folder / f"{name}.json"
        stored = self._stored(path)
        if stored is None:
            self._say(f"[{name}] ...")
            started = time.monotonic()
            value = work()
            stored = {
                "key": self.key,
                "seconds": time.monotonic() - started,
                "peak_mib": peak_memory_mib() or 0.0,
                "value": value,
            }
            self._write(path, stored)
            self._say(f"[{name}] {stored['seconds']:.0f} s, peak memory {stored['peak_mib']:.0f} MiB")
        else:
            self._say(f"[{name}] done in an earlier run")
        self.log.append({"name": name, "seconds": round(stored["seconds"], 2), "peak_mib": round(stored["peak_mib"])})
        result: dict[str, Any] = stored["value"]
        return result

    def _stored(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        try:
            stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return stored if stored["key"] == self.key else None
        except (ValueError, KeyError, TypeError) as error:
            raise CacheError(f"the stage file {str(path)!r} is damaged ({error}); delete it and run again") from error

    def _write(self, path: Path, value: dict[str, Any]) -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        partial.replace(path)  # a kill leaves the old file or the new one, never half of one
