"""What differs between servers that speak the OpenAI API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmrec.lm.endpoint.client import Client
from llmrec.lm.protocol import Constraint, ConstraintKind, Message, Sampling


class Dialect(Protocol):
    """One kind of server."""

    @property
    def name(self) -> str:
        """As in `EndpointSettings.dialect`."""
        ...

    @property
    def constraints(self) -> frozenset[ConstraintKind]:
        """Constraints that the server can hold."""
        ...

    @property
    def one_after_another(self) -> bool:
        """Whether samples of one prompt should follow each other, for the sake of the prompt cache."""
        ...

    @property
    def scores(self) -> bool:
        """Whether `score` can be answered, where the server generates at all."""
        ...

    @property
    def refuses_to_cut(self) -> bool:
        """Whether a call is refused whose prompt and `max_tokens` together pass the context."""
        ...

    def sampling(self, sampling: Sampling, seed: int, *, chat: bool) -> dict[str, Any]:
        """Request fields of one sample; whatever the server would do to the distribution is switched off."""
        ...

    def constraint(self, constraint: Constraint, *, chat: bool, tools: bool) -> dict[str, Any]:
        """Request fields of a constraint.

        Raises:
            UnsupportedError: the server cannot hold it.
            ConfigError: its value is wrong.
        """
        ...

    def wraps(self, constraint: Constraint | None) -> bool:
        """Whether answers under this constraint have something written around them."""
        ...

    def unwrap(self, text: str, constraint: Constraint | None) -> str:
        """The text of a constrained answer, without what the server's API made the model write around it."""
        ...

    def adapter(self, model: str, adapter: str | None) -> dict[str, Any]:
        """Request fields that choose model and adapter."""
        ...

    async def count(
        self, client: Client, model: str, prompt: str | Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> int:
        """Tokens of a prompt.

        Raises:
            UnsupportedError: the server does not tell.
        """
        ...

    async def score(
        self,
        client: Client,
        model: str,
        prompt: str | Sequence[Message],
        continuations: Sequence[str],
        adapter: str | None,
    ) -> list[float]:
        """Exact summed log-probabilities (see `LanguageModel.score`).

        Raises:
            UnsupportedError: the server does not give what they need.
        """
        ...
