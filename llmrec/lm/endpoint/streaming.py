"""A sample that arrives in pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmrec.errors import ModelError
from llmrec.lm.endpoint import wire


class Growing:
    """Collects the chunks of a streamed answer.

    Args:
        stops: stop texts; text that may be the beginning of one is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._hold = max((len(stop) for stop in stops), default=1) - 1
        self._content = ""
        self._calls: dict[int, tuple[str, str]] = {}
        self._logprobs: list[float] = []
        self._reason: str | None = None
        self._n_tokens: int | None = None
        self.sent = 0
        """Characters of the raw text that were given out."""

    def feed(self, chunk: Mapping[str, Any]) -> str:
        """Take a chunk; returns the prose that may be shown now.

        Raises:
            ModelError: the chunk has not the API's form.
        """
        try:
            self._take(chunk)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ModelError(f"a piece of the server's stream cannot be read ({error!r}); look at its log") from error
        safe, cut = wire.cut_at_stop(self._content, self._stops)
        ready = len(safe) if cut or self._reason else len(safe) - self._hold
        text = safe[self.sent : max(ready, self.sent)]
        self.sent += len(text)
        return text

    def _take(self, chunk: Mapping[str, Any]) -> None:
        told = wire.n_new(chunk.get("usage"))
        self._n_tokens = self._n_tokens if told is None else told
        if not chunk.get("choices"):
            return  # the last chunk has the usage alone
        choice = chunk["choices"][0]
        delta = choice.get("delta")
        self._content += (choice.get("text") if delta is None else delta.get("content")) or ""
        for call in (delta or {}).get("tool_calls") or ():
            self._take_call(call)
        self._logprobs += wire.entries(choice.get("logprobs")) or ()
        self._reason = choice.get("finish_reason") or self._reason

    def _take_call(self, call: Mapping[str, Any]) -> None:
        index, function = int(call["index"]), call.get("function") or {}
        name, arguments = self._calls.get(index, ("", ""))
        self._calls[index] = (
            name + (function.get("name") or ""),
            arguments + (function.get("arguments") or ""),
        )

    def sample(self) -> wire.Sample:
        """The whole answer; whether it came to an end is for `wire.completion` to say."""
        calls = tuple((name, arguments or "{}") for _, (name, arguments) in sorted(self._calls.items()))
        return wire.Sample(self._content, calls, self._reason, tuple(self._logprobs) or None, self._n_tokens)
