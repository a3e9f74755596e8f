"""The contract of a language model: three verbs, awaitable, with an adapter name.

Every engine implements `LanguageModel`. Many sessions share one engine: they await calls concurrently, and the engine
batches them. What an engine cannot do it says in `Capabilities`; asking for it raises `UnsupportedError`; there is no
silent fallback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Verb = Literal["generate", "score", "embed"]
ConstraintKind = Literal["choice", "json_schema", "lark"]
Message = Mapping[str, Any]
"""A chat message in OpenAI form: role, content, and optionally tool_calls (arguments as an object) or name."""


@dataclass(frozen=True)
class Sampling:
    """How to sample. Draws depend on (seed, sample index) alone, never on the batch or on other calls."""

    max_tokens: int = 64
    """Upper bound on new tokens per sample."""
    temperature: float = 1.0
    """0 is greedy."""
    n: int = 1
    """Number of samples for the prompt."""
    stop: tuple[str, ...] = ()
    """Texts at which a sample ends; they are not part of the returned text."""
    seed: int = 0
    """Seed of this call."""


@dataclass(frozen=True)
class Constraint:
    """A grammar that the output must follow.

    `choice`: value is a sequence of texts. `json_schema`: value is a JSON schema. `lark`: value is a Lark grammar
    (llguidance dialect).
    """

    kind: ConstraintKind
    value: Any


@dataclass(frozen=True)
class ToolCall:
    """One parsed tool call."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Completion:
    """One sample."""

    text: str
    """Decoded new text without special tokens, stop text and tool-call markup."""
    logprob: float
    """Sum over generated tokens, the end token included, at temperature 1 and before any constraint."""
    n_tokens: int
    finish_reason: Literal["stop", "length"]
    tool_calls: tuple[ToolCall, ...] = ()
    raw: str = ""
    """Decoded new text with markup."""
    repairs: tuple[str, ...] = ()
    """What was mended so that tool calls could be read, one name each (see `llmrec.lm.repair`); () is as written."""


@dataclass(frozen=True)
class Piece:
    """A piece of a streamed sample."""

    text: str
    """New text, markup included."""
    completion: Completion | None = None
    """The whole sample, on the last piece."""


@dataclass(frozen=True)
class Capabilities:
    """What an engine supports."""

    verbs: frozenset[Verb]
    constraints: frozenset[ConstraintKind] = field(default_factory=frozenset)
    adapters: tuple[str, ...] = ()
    """Names of the adapters that are loaded."""


@runtime_checkable
class LanguageModel(Protocol):
    """One language model with named adapters."""

    @property
    def name(self) -> str:
        """Identifies model and weights; part of every record/replay key."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """Verbs, constraints and adapters that it has."""
        ...

    async def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: Sampling = Sampling(),
        tools: Sequence[Mapping[str, Any]] = (),
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Sample `sampling.n` completions.

        Args:
            prompt: raw text (continued as it is), or chat messages (rendered with the model's chat template).
            tools: OpenAI function schemas, shown to the model through its chat template; only with messages.
            constraint: grammar of the new text.
            adapter: LoRA adapter by name; None is the bare backbone.

        Raises:
            UnsupportedError: the engine lacks the constraint or adapter.
            PromptTooLong: the prompt does not fit the context.
            ModelError: the engine failed.
        """
        ...

    async def score(
        self, prompt: str | Sequence[Message], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[float]:
        """Summed log-probability of each continuation after the prompt, at temperature 1.

        After chat messages a continuation is the beginning of the assistant's answer.
        """
        ...

    async def embed(self, texts: Sequence[str], *, adapter: str | None = None) -> npt.NDArray[np.float32]:
        """Mean-pooled last-layer states, shape (n_texts, hidden), float32."""
        ...
