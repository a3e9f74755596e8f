"""An engine that writes nothing: it keeps the prompts that it is asked with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.lm.protocol import Capabilities, Completion, Constraint, Message, Sampling

_SHOWN = re.compile(r"^Shown: (.*) -> (skip|yes|[1-5])$", re.MULTILINE)
_SURE, _NEVER = 0.0, -60.0


class Listener:
    """Stands in for a language model while prompts are compared.

    Args:
        labels: what it answers to the first, second, ... call of `score`: all its probability lies there.
    """

    name = "listener"
    capabilities = Capabilities(frozenset({"generate", "score"}), frozenset({"lark"}))

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self.labels = list(labels)
        self.prompts: list[str] = []

    async def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: Sampling = Sampling(),
        tools: Sequence[Mapping[str, Any]] = (),
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Keep the prompt; the completion is empty."""
        self.prompts.append(str(prompt))
        return [Completion("", 0.0, 0, "stop")]

    async def score(
        self, prompt: str | Sequence[Message], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[float]:
        """Keep the prompt; be sure of the next label."""
        wanted = self.labels[len(self.prompts)] if len(self.prompts) < len(self.labels) else None
        self.prompts.append(str(prompt))
        return [_SURE if text.strip() == wanted else _NEVER for text in continuations]

    async def embed(self, texts: Sequence[str], *, adapter: str | None = None) -> npt.NDArray[np.float32]:
        """Nothing, shape (n_texts, 0)."""
        return np.zeros((len(texts), 0), dtype=np.float32)


def shown_lines(text: str) -> list[tuple[str, str]]:
    """(item text, label) of every decision in a text of the simulated user."""
    return [(match[1], match[2]) for match in _SHOWN.finditer(text)]
