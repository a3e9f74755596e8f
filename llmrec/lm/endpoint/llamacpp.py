"""What llama.cpp's server can beyond the OpenAI API: GBNF grammars, exact scores, LoRA adapters per request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmrec.errors import ModelError, UnsupportedError
from llmrec.lm.endpoint import wire
from llmrec.lm.endpoint.client import Client
from llmrec.lm.endpoint.tokentree import TokenTree
from llmrec.lm.protocol import Constraint, ConstraintKind, Message, Sampling

_NEUTRAL = {
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "dynatemp_range": 0.0,
    "mirostat": 0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
}
"""The server cuts and bends the distribution by default; these values leave it as the model has it."""

_TOP = 32  # alternatives asked for first; a token that is not among them is asked for by itself
_ALL = 1 << 24  # more than any vocabulary
_FORCE = 1e4  # added to a logit so that this token is drawn; reported log-probabilities are those before it


class LlamaCpp:
    """The dialect of llama.cpp's server.

    Args:
        adapters: LoRA adapters of the server, name -> id.
    """

    name = "llama.cpp"
    constraints: frozenset[ConstraintKind] = frozenset({"choice", "json_schema"})
    refuses_to_cut = False
    scores = True
    one_after_another = True  # a prompt that one slot has read is free for the next sample, but not for other slots

    def __init__(self, adapters: Mapping[str, int]) -> None:
        self._adapters = dict(adapters)
        # With adapters the server may take a prompt up from its cache that was read with another adapter.
        self._cache = not adapters

    def sampling(self, sampling: Sampling, seed: int, *, chat: bool) -> dict[str, Any]:
        """Request fields of one sample."""
        fields: dict[str, Any] = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": seed % (2**32 - 1),  # the largest number means a random seed there
            "cache_prompt": self._cache,
            **_NEUTRAL,
        }
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        return fields | ({"logprobs": True, "top_logprobs": 1} if chat else {"logprobs": 1})

    def constraint(self, constraint: Constraint, *, chat: bool, tools: bool) -> dict[str, Any]:
        """Request fields of a constraint."""
        if constraint.kind == "json_schema":
            if chat:
                return {"response_format": wire.json_schema_format(constraint.value)}
            return {"json_schema": constraint.value}
        if constraint.kind == "choice":
            if tools:
                raise UnsupportedError(
                    "llama.cpp takes no choice together with tools; leave the tools out of this call"
                )
            return {"grammar": choice_grammar(wire.options_of(constraint.value))}
        raise UnsupportedError(
            "llama.cpp does not read Lark grammars; use a json_schema or choice constraint, or a vLLM or local engine"
        )

    def wraps(self, constraint: Constraint | None) -> bool:
        """Whether `unwrap` changes answers."""
        return False

    def unwrap(self, text: str, constraint: Constraint | None) -> str:
        """The text of a constrained answer."""
        return text

    def adapter(self, model: str, adapter: str | None) -> dict[str, Any]:
        """Request fields that choose model and adapter."""
        scales = [{"id": number, "scale": float(name == adapter)} for name, number in self._adapters.items()]
        return {"model": model} | ({"lora": scales} if scales else {})

    async def count(
        self, client: Client, model: str, prompt: str | Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> int:
        """Tokens of a prompt."""
        return len(await self._prompt_tokens(client, prompt, tools))

    async def score(
        self,
        client: Client,
        model: str,
        prompt: str | Sequence[Message],
        continuations: Sequence[str],
        adapter: str | None,
    ) -> list[float]:
        """Exact log-probabilities: one request for each different prefix of the continuations."""
        start = await self._prompt_tokens(client, prompt, ())
        if not start:
            raise ModelError("the prompt is empty: there is nothing to continue")
        tree = TokenTree([await self._tokens(client, text, start=False) for text in continuations])
        common = self.adapter(model, adapter)
        for prefix, wanted in tree.questions():
            tree.answer(prefix, await self._next_logprobs(client, common, [*start, *prefix], wanted))
        return tree.totals()

    async def _prompt_tokens(
        self, client: Client, prompt: str | Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> list[int]:
        if not isinstance(prompt, str):
            body: dict[str, Any] = {"messages": wire.messages_for_wire(prompt)}
            rendered = await client.ask("/apply-template", body | ({"tools": list(tools)} if tools else {}))
            text = rendered.get("prompt")
            if not isinstance(text, str):
                raise ModelError("the server's /apply-template gave no prompt; update llama.cpp")
            prompt = text
        return await self._tokens(client, prompt, start=True)

    async def _tokens(self, client: Client, text: str, *, start: bool) -> list[int]:
        if not text and not start:
            return []
        body = {"content": text, "add_special": start, "parse_special": True}
        return wire.tokens_of(await client.ask("/tokenize", body))

    async def _next_logprobs(
        self, client: Client, common: Mapping[str, Any], tokens: Sequence[int], wanted: Sequence[int]
    ) -> dict[int, float]:
        """Log-probabilities of some next tokens.

        The server reports the drawn token and the likeliest ones, but nothing when the drawn one is a part of a
        character. So a wanted token is forced to be drawn, and for a part of a character another one with all
        alternatives reported.
        """
        body = {**common, "prompt": list(tokens)}
        found = await self._ask_next(client, body, forced=wanted[0], n_top=_TOP)
        for token in wanted:
            if token not in found:
                found |= await self._ask_next(client, body, forced=token, n_top=1)
            if token not in found:
                letter = next(iter(await self._tokens(client, "a", start=False)), wanted[0])
                found |= await self._ask_next(client, body, forced=letter, n_top=_ALL)
            if token not in found:
                raise ModelError(f"the server gives no log-probability of token {token}; update llama.cpp")
        return {token: found[token] for token in wanted}

    async def _ask_next(self, client: Client, body: Mapping[str, Any], *, forced: int, n_top: int) -> dict[int, float]:
        fields = {"n_predict": 1, "temperature": 0.0, "cache_prompt": self._cache, "post_sampling_probs": False}
        choice = {"n_probs": n_top, "logit_bias": [[forced, _FORCE]]}
        answer = await client.complete("/completion", {**body, **fields, **choice}, max_tokens=1)
        try:
            return {
                int(entry["id"]): float(entry["logprob"])
                for place in answer.get("completion_probabilities") or ()
                for entry in (place, *place["top_logprobs"])
            }
        except (KeyError, ValueError, TypeError) as error:
            raise ModelError(f"the server's log-probabilities cannot be read ({error!r}); update llama.cpp") from error


def choice_grammar(options: Sequence[str]) -> str:
    """GBNF of one of some texts."""
    return "root ::= " + " | ".join(json.dumps(option, ensure_ascii=False) for option in options)
