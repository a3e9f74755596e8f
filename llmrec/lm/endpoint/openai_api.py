"""The plain OpenAI API: OpenAI itself, and servers of which nothing more is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmrec.errors import ModelError, UnsupportedError
from llmrec.lm.endpoint import wire
from llmrec.lm.endpoint.client import Client
from llmrec.lm.protocol import Constraint, ConstraintKind, Message, Sampling

_MOST_STOPS = 4  # more are refused by the API; the rest is cut here
_TOP_CHAT, _TOP_TEXT = 20, 5  # most alternatives that the API gives
_REMEDY = "use a llama.cpp or vLLM server, or a local engine"


class OpenAIApi:
    """The dialect that all servers share.

    Args:
        official: whether it is OpenAI's own service, which renamed `max_tokens`.
        logprobs: whether to ask for log-probabilities.
    """

    name = "openai"
    constraints: frozenset[ConstraintKind] = frozenset({"choice", "json_schema"})
    refuses_to_cut = False
    one_after_another = False

    def __init__(self, *, official: bool, logprobs: bool) -> None:
        self._official, self._logprobs = official, logprobs

    @property
    def scores(self) -> bool:
        """Whether it may be asked for log-probabilities."""
        return self._logprobs

    def sampling(self, sampling: Sampling, seed: int, *, chat: bool) -> dict[str, Any]:
        """Request fields of one sample; samplers that the API does not know (top_k, min_p) cannot be switched off."""
        fields: dict[str, Any] = {
            self._limit(chat): sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": seed,
        }
        if sampling.stop:
            fields["stop"] = list(sampling.stop[:_MOST_STOPS])
        if self._logprobs:
            fields |= {"logprobs": True} if chat else {"logprobs": 1}
        return fields

    def _limit(self, chat: bool) -> str:
        return "max_completion_tokens" if chat and self._official else "max_tokens"

    def constraint(self, constraint: Constraint, *, chat: bool, tools: bool) -> dict[str, Any]:
        """Request fields of a constraint."""
        if constraint.kind == "lark":
            raise UnsupportedError(f"the OpenAI API has no Lark grammars; use a json_schema or choice, or {_REMEDY}")
        if not chat:
            raise UnsupportedError(
                f"the OpenAI API constrains answers to chat messages only; pass messages, or {_REMEDY}"
            )
        schema = constraint.value
        if constraint.kind == "choice":
            schema = wire.choice_schema(wire.options_of(schema))
        return {"response_format": wire.json_schema_format(schema)}

    def wraps(self, constraint: Constraint | None) -> bool:
        """Whether `unwrap` changes answers."""
        return constraint is not None and constraint.kind == "choice"

    def unwrap(self, text: str, constraint: Constraint | None) -> str:
        """The chosen text of a choice, which the API can only give inside an object."""
        if not self.wraps(constraint):
            return text
        try:
            return str(json.loads(text)[wire.ANSWER])
        except (ValueError, KeyError, TypeError):
            return text  # cut by max_tokens (finish reason "length"): as it is

    def adapter(self, model: str, adapter: str | None) -> dict[str, Any]:
        """Request fields that choose the model."""
        return {"model": model}

    async def count(
        self, client: Client, model: str, prompt: str | Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> int:
        """Not told by the API."""
        raise UnsupportedError(f"the OpenAI API does not count a prompt's tokens; {_REMEDY}")

    async def score(
        self,
        client: Client,
        model: str,
        prompt: str | Sequence[Message],
        continuations: Sequence[str],
        adapter: str | None,
    ) -> list[float]:
        """Log-probabilities of continuations of one token, as far as the API tells them."""
        if not any(continuations):
            return [0.0] * len(continuations)
        if not self._logprobs:
            raise UnsupportedError(f"log-probabilities are switched off (logprobs: false in the settings); {_REMEDY}")
        known = await self._first_tokens(client, model, prompt)
        for text in continuations:
            if text and text not in known:
                raise UnsupportedError(
                    f"the continuation {text!r} is not among the {len(known)} first tokens whose log-probabilities the "
                    f"server tells; score continuations of one likely token, or {_REMEDY}"
                )
        return [known[text] if text else 0.0 for text in continuations]

    async def _first_tokens(self, client: Client, model: str, prompt: str | Sequence[Message]) -> dict[str, float]:
        """Log-probabilities of the likeliest first tokens, by their text."""
        chat = not isinstance(prompt, str)
        body: dict[str, Any] = {"model": model, "temperature": 1.0, "top_p": 1.0, self._limit(chat): 1}
        if isinstance(prompt, str):
            body |= {"prompt": prompt, "logprobs": _TOP_TEXT}
        else:
            body |= {"messages": wire.messages_for_wire(prompt), "logprobs": True, "top_logprobs": _TOP_CHAT}
        answer = await client.complete("chat/completions" if chat else "completions", body, max_tokens=1)
        try:
            found = answer["choices"][0].get("logprobs")
            if not found:
                raise UnsupportedError(f"the server gives no log-probabilities; {_REMEDY}")
            if found.get("content") is not None:
                (place,) = found["content"]
                return {str(entry["token"]): float(entry["logprob"]) for entry in (place, *place["top_logprobs"])}
            chosen = {str(found["tokens"][0]): float(found["token_logprobs"][0])}
            return chosen | {str(token): float(value) for token, value in found["top_logprobs"][0].items()}
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"the server's log-probabilities cannot be read ({error!r}); {_REMEDY}") from error
