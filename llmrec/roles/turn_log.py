"""What a recommender's turn took: model calls, tool calls, corrections and seconds, for the journal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from llmrec.lm.protocol import Completion, ToolCall

if TYPE_CHECKING:
    from llmrec.tools.base import Tool

Step = Literal["understand", "plan", "tools", "prose"]


@dataclass
class TurnLog:
    """Counts of one turn; nodes and brains add to it. It goes to plain data and back, as graph state must."""

    calls_asked: int = 0
    """Tool calls that the model wrote, unreadable ones included."""
    calls_valid: int = 0
    """Calls that could be read, name a tool and have arguments of the right form."""
    calls_repaired: int = 0
    """Valid calls that were mended first."""
    calls_refused: int = 0
    """Calls that the tool refused: unknown values or titles, for example."""
    repairs: dict[str, int] = field(default_factory=dict)
    """What was mended -> how often."""
    corrections: list[str] = field(default_factory=list)
    """Conditions whose polarity the words of the message overruled."""
    votes: list[list[Any]] = field(default_factory=list)
    """Tools that were chosen by vote, each with its share of the samples."""
    model_calls: int = 0
    tokens_written: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """Step -> wall-clock seconds, waiting for the engine included."""

    @contextmanager
    def step(self, name: Step) -> Iterator[None]:
        """Time a step; several of one name add up."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def answered(self, completion: Completion) -> None:
        """Count an answer of the model."""
        self.model_calls += 1
        self.tokens_written += completion.n_tokens
        self.mended(completion.repairs)

    def mended(self, repairs: tuple[str, ...]) -> None:
        """Count repairs."""
        for name in repairs:
            self.repairs[name] = self.repairs.get(name, 0) + 1

    def plain(self) -> dict[str, Any]:
        """As plain data, seconds to the millisecond; votes where there were any."""
        return {
            "calls_asked": self.calls_asked,
            "calls_valid": self.calls_valid,
            "calls_repaired": self.calls_repaired,
            "calls_refused": self.calls_refused,
            "repairs": dict(self.repairs),
            "corrections": list(self.corrections),
            "model_calls": self.model_calls,
            "tokens_written": self.tokens_written,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        } | ({"votes": [list(vote) for vote in self.votes]} if self.votes else {})

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> TurnLog:
        """Back from plain data."""
        return cls(
            **{key: dict(value) if isinstance(value, Mapping) else value for key, value in plain.items()}
            | {"corrections": list(plain.get("corrections", ())), "votes": list(plain.get("votes", ()))}
        )


def is_valid(tools: Mapping[str, Tool], wanted: ToolCall) -> bool:
    """Whether a call names a tool and has arguments of the right form; the tool may still refuse their values."""
    tool = tools.get(wanted.name)
    if tool is None:
        return False
    try:
        tool.Arguments.model_validate(dict(wanted.arguments))
    except ValidationError:
        return False
    return True
