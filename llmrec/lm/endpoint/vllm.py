"""What vLLM's server can beyond the OpenAI API: every kind of constraint, exact scores, LoRA adapters as models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmrec.errors import ModelError
from llmrec.lm.endpoint import wire
from llmrec.lm.endpoint.client import Client
from llmrec.lm.protocol import Constraint, ConstraintKind, Message, Sampling

_NEUTRAL = {"top_k": -1, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
"""The server takes the model's own defaults otherwise (generation_config.json)."""


class Vllm:
    """The dialect of vLLM's server."""

    name = "vllm"
    constraints: frozenset[ConstraintKind] = frozenset({"choice", "json_schema", "lark"})
    refuses_to_cut = True
    one_after_another = False
    scores = True

    def sampling(self, sampling: Sampling, seed: int, *, chat: bool) -> dict[str, Any]:
        """Request fields of one sample."""
        fields: dict[str, Any] = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": seed,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            **_NEUTRAL,
        }
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        return fields | ({"logprobs": True, "top_logprobs": 1} if chat else {"logprobs": 1})

    def constraint(self, constraint: Constraint, *, chat: bool, tools: bool) -> dict[str, Any]:
        """Request fields of a constraint; with one, calls are read from the text and not by the server's parser."""
        value: Any = constraint.value
        if constraint.kind == "choice":
            value = wire.options_of(value)
        kinds = {"json_schema": "json", "choice": "choice", "lark": "grammar"}
        fields: dict[str, Any] = {"structured_outputs": {kinds[constraint.kind]: value}}
        return fields | ({"tool_choice": "none", "exclude_tools_when_tool_choice_none": False} if tools else {})

    def wraps(self, constraint: Constraint | None) -> bool:
        """Whether `unwrap` changes answers."""
        return False

    def unwrap(self, text: str, constraint: Constraint | None) -> str:
        """The text of a constrained answer."""
        return text

    def adapter(self, model: str, adapter: str | None) -> dict[str, Any]:
        """Request fields that choose model and adapter: an adapter is a model of its own."""
        return {"model": adapter or model}

    async def count(
        self, client: Client, model: str, prompt: str | Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> int:
        """Tokens of a prompt."""
        return len(await self._prompt_tokens(client, model, prompt, tools))

    async def score(
        self,
        client: Client,
        model: str,
        prompt: str | Sequence[Message],
        continuations: Sequence[str],
        adapter: str | None,
    ) -> list[float]:
        """Exact log-probabilities: one request for each continuation."""
        start = await self._prompt_tokens(client, model, prompt, ())
        if not start:
            raise ModelError("the prompt is empty: there is nothing to continue")
        scores: list[float] = []
        for text in continuations:
            tokens = await self._tokens(client, model, text, start=False) if text else []
            scores.append(await self._score(client, adapter or model, start, tokens) if tokens else 0.0)
        return scores

    async def _score(self, client: Client, model: str, start: Sequence[int], tokens: Sequence[int]) -> float:
        body = {"model": model, "prompt": [*start, *tokens], "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 1}
        answer = await client.complete("completions", body, max_tokens=1)
        try:
            places = answer["choices"][0]["prompt_logprobs"][-len(tokens) :]
            return math.fsum(float(place[str(token)]["logprob"]) for place, token in zip(places, tokens, strict=True))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelError(f"the server gave no prompt log-probabilities ({error!r}); update vLLM") from error

    async def _prompt_tokens(
        self, client: Client, model: str, prompt: str | Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> list[int]:
        if isinstance(prompt, str):
            return await self._tokens(client, model, prompt, start=True)
        body: dict[str, Any] = {
            "model": model,
            "messages": wire.messages_for_wire(prompt),
            "add_generation_prompt": True,
        }
        if tools:
            body["tools"] = [dict(tool) for tool in tools]
        return await self._ask_tokens(client, body)

    async def _tokens(self, client: Client, model: str, text: str, *, start: bool) -> list[int]:
        return await self._ask_tokens(client, {"model": model, "prompt": text, "add_special_tokens": start})

    async def _ask_tokens(self, client: Client, body: Mapping[str, Any]) -> list[int]:
        return wire.tokens_of(await client.ask("/tokenize", body))
