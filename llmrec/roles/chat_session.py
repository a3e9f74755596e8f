"""One chat with a recommender graph whose checkpointer keeps the turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmrec.data.catalogue import Catalogue
from llmrec.roles.observation import Reply
from llmrec.roles.recommender import reply_of
from llmrec.tools.base import ToolEvent


class ChatSession:
    """A thread of the graph.

    Args:
        graph: a recommender graph compiled with a checkpointer.
        thread: id of the chat; an id that exists is resumed.
        history: item ids the user took before; kept with the thread, so a resumed chat need not give them again.
        seed: of the chat's phrasing and sampling.
    """

    def __init__(
        self, graph: Any, catalogue: Catalogue, *, thread: str, history: Sequence[str] = (), seed: int = 0
    ) -> None:
        self._graph = graph
        self._catalogue = catalogue
        self._settings: dict[str, Any] = {"configurable": {"thread_id": thread}}
        self._history = list(history)
        self._seed = seed
        self.thread = thread

    async def say(self, message: str) -> Reply:
        """One turn.

        Raises:
            ModelError: the model or its engine failed; the turn is not kept.
        """
        given: dict[str, Any] = {"message": message, "observation": None, "seed": self._seed}
        if self._history:
            given["history"] = self._history
        return reply_of(await self._graph.ainvoke(given, self._settings))

    async def turns(self) -> list[dict[str, Any]]:
        """Finished turns, oldest first."""
        state = await self._graph.aget_state(self._settings)
        return list(state.values.get("turns", []))

    async def undo(self) -> str | None:
        """Forget the last turn. Returns its message, None when there is none."""
        turns = await self.turns()
        if not turns:
            return None
        await self._graph.aupdate_state(self._settings, {"turns": turns[:-1]}, as_node="check")
        return str(turns[-1]["message"])

    async def plain(self) -> list[dict[str, Any]]:
        """Finished turns for JSON, items by id and title."""
        return [self._plain(turn) for turn in await self.turns()]

    def _plain(self, turn: dict[str, Any]) -> dict[str, Any]:
        catalogue = self._catalogue
        slate = [
            {"item_id": str(catalogue.item_ids[row]), "title": catalogue.display(row), "reason": reason}
            for row, reason in zip(turn["slate"], turn["reasons"], strict=True)
        ]
        kept = {key: turn[key] for key in ("message", "prose", "notes", "events", "request")}
        return {**kept, "slate": slate, "record": turn.get("record", {})}


def event_line(event: ToolEvent) -> str:
    """A tool call in one line: "search genres=Comedy: 0 -> 57 candidates"."""
    shown = [
        str(part) for value in event.arguments.values() for part in (value if isinstance(value, list) else [value])
    ]
    called = " ".join([event.name, *(f"[{part}]" for part in shown)])
    if event.error:
        return f"{called}: {event.error}"
    return f"{called}: {event.n_before} -> {event.n_after} candidates" + (f" ({event.note})" if event.note else "")
