"""`VllmLM`: a model behind vLLM's engine, for GPUs (and CPUs, where vLLM was built for them)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError, ModelError, PromptTooLong, UnsupportedError
from llmrec.lm import toolcalls
from llmrec.lm.adapters import check_adapter, content_hash
from llmrec.lm.codec import TokenCodec
from llmrec.lm.constraints import GrammarCompiler
from llmrec.lm.protocol import Capabilities, Completion, Constraint, Message, Piece, Sampling
from llmrec.lm.vllm_host import EngineHost, EngineRequest
from llmrec.lm.vllm_setup import engine_arguments, load_text, read_settings, require_vllm
from llmrec.seeding import derive

_WARMEST = 2.0  # vLLM refuses higher temperatures


@dataclass(frozen=True)
class _Order:
    """A checked call of `generate`."""

    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    constraint: Constraint | None
    adapter: str | None
    tools: tuple[Mapping[str, Any], ...]


class VllmLM:
    """A language model behind vLLM (see `llmrec.lm.protocol.LanguageModel`).

    vLLM batches concurrent calls and shares the key-value cache of equal prompt beginnings. A sample's draws depend on
    the call's seed and the sample's index; arithmetic depends on the batch in the last digits. The log-probability of
    a constrained answer, and every score, cost one more reading of the prompt.

    The engine runs in a child process, which is started afresh: a script that loads it needs
    `if __name__ == "__main__":`.

    Args:
        host: the running engine.
        tokenizer: the model's fast tokenizer.
        ends: object with the model's `config` and `generation_config`.
        name: identifies model and weights.
        digests: adapter name -> content hash of its folder.
    """

    def __init__(
        self, host: EngineHost, tokenizer: Any, ends: Any, *, name: str, digests: Mapping[str, str] | None = None
    ) -> None:
        self._host, self._base_name = host, name
        self._digests = dict(digests or {})
        self.context: int = int(host.model_config.max_model_len)
        self._n_vocabulary = int(host.model_config.get_vocab_size())
        self._codec = TokenCodec(ends, tokenizer, n_vocabulary=self._n_vocabulary, name=name)
        self._grammars: GrammarCompiler | None = None

    @classmethod
    def from_spec(
        cls,
        spec: str | Path,
        *,
        adapters: Mapping[str, Path] | None = None,
        seed: int = 0,
        device: str = "auto",
        dtype: str = "auto",
    ) -> VllmLM:
        """Start an engine.

        Args:
            spec: a Hugging Face folder, a hub id, or a YAML file of `VllmSettings`.
            adapters: name -> LoRA folder.
            seed: of the engine; draws come from the seed of each call alone.
            device: "auto", or the one that the installed vLLM was built for.
            dtype: "auto" (measured on a CPU, the model's own on a GPU), or a number type's name.

        Raises:
            MissingDependencyError: vLLM is not installed.
            ModelNotFoundError: the model, its tokenizer or an adapter is missing.
            ConfigError: a setting or an adapter does not suit vLLM or the model.
            ModelError: the engine did not start.
        """
        settings = read_settings(spec)
        folders = {name: Path(folder) for name, folder in (adapters or {}).items()}
        require_vllm()
        text = load_text(settings.model)
        for name, folder in folders.items():
            check_adapter(name, folder, base_content_hash=text.content_hash)
        arguments = engine_arguments(settings, list(folders.values()), seed=seed, device=device, dtype=dtype)
        digests = {name: content_hash(folder) for name, folder in folders.items()}
        host = EngineHost(arguments, folders)
        try:
            return cls(host, text.tokenizer, text.ends, name=text.name, digests=digests)
        except BaseException:
            host.close()
            raise

    def close(self) -> None:
        """Stop the engine and free its memory; it is stopped at exit otherwise."""
        self._host.close()

    @property
    def name(self) -> str:
        """Engine, model and weights, adapters included."""
        adapters = ",".join(f"{name}:{digest[:8]}" for name, digest in sorted(self._digests.items()))
        return f"vllm:{self._base_name}+{adapters}" if adapters else f"vllm:{self._base_name}"

    @property
    def capabilities(self) -> Capabilities:
        """Everything but embeddings: a vLLM engine either generates or embeds."""
        return Capabilities(
            verbs=frozenset({"generate", "score"}),
            constraints=frozenset({"choice", "json_schema", "lark"}),
            adapters=tuple(self._digests),
        )

    # ---- prompts

    def count_tokens(self, prompt: str | Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> int:
        """Tokens of a prompt as the model reads it."""
        return len(self._codec.prompt(prompt, tools))

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Chat messages as the prompt text that the model reads."""
        return self._codec.render(messages, tools)

    def _check_length(self, tokens: int, what: str) -> None:
        if tokens > self.context:
            raise PromptTooLong(f"{what} has {tokens} tokens, the model's context is {self.context}: shorten it")

    def _check_adapter(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self._digests:
            loaded = ", ".join(self._digests) or "none"
            raise UnsupportedError(f"no adapter of this name is loaded, got {adapter!r}; loaded: {loaded}")

    # ---- the verbs

    async def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: Sampling = Sampling(),
        tools: Sequence[Mapping[str, Any]] = (),
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Sample completions (see `LanguageModel.generate`).

        A sample ends at the model's end tokens, at a stop text, where its grammar ends, or (finish reason "length") at
        `max_tokens` or the end of the context.
        """
        order = self._order(prompt, sampling, tools, constraint, adapter)
        outputs = await self._host.run([self._request(order, index) for index in range(sampling.n)])
        return await self._completions([output.outputs[0] for output in outputs], order)

    async def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: Sampling = Sampling(),
        tools: Sequence[Mapping[str, Any]] = (),
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> AsyncIterator[Piece]:
        """Sample one completion and yield its text as it grows; the text equals that of `generate`."""
        if sampling.n != 1:
            raise ConfigError(f"only one sample can be streamed, got n={sampling.n}")
        order = self._order(prompt, sampling, tools, constraint, adapter)
        sent, hold = 0, max((len(stop) for stop in sampling.stop), default=1) - 1
        sample: Any = None
        async for output in self._host.stream(self._request(order, 0, streamed=True)):
            sample = output.outputs[0]
            raw = self._codec.answer(sample.token_ids, sampling.stop)
            raw = raw.rstrip("\ufffd")  # half a character waits for the rest
            ready = len(raw) if output.finished else len(raw) - hold
            if ready > sent:
                yield Piece(raw[sent:ready])
                sent = ready
        (completion,) = await self._completions([sample], order)
        yield Piece(completion.raw[sent:], completion)

    async def score(
        self, prompt: str | Sequence[Message], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[float]:
        """Summed log-probability of each continuation after the prompt, at temperature 1.

        Prompt and continuation are tokenised apart and joined; an empty continuation scores 0. Spell the end token
        (such as `<|im_end|>`) in the continuation to count it.
        """
        self._check_adapter(adapter)
        if isinstance(continuations, str):
            raise ConfigError("continuations must be a sequence of texts, got one text")
        tokens = self._codec.prompt(prompt)
        encoded = [self._codec.encode(text) for text in continuations]
        longest = max(map(len, encoded), default=0)
        # vLLM reads no prompt that leaves no room for an answer.
        self._check_length(len(tokens) + longest + 1, "the prompt with its longest continuation and one new token")
        return await self._logprobs(tokens, encoded, adapter)

    async def embed(self, texts: Sequence[str], *, adapter: str | None = None) -> npt.NDArray[np.float32]:
        """Not offered: an engine that generates has no pooled states."""
        raise UnsupportedError(
            f"a vLLM engine that generates cannot embed, got {len(texts)} texts; "
            "load the same model without vllm: for embeddings"
        )

    # ---- orders and requests

    def _order(
        self,
        prompt: str | Sequence[Message],
        sampling: Sampling,
        tools: Sequence[Mapping[str, Any]],
        constraint: Constraint | None,
        adapter: str | None,
    ) -> _Order:
        self._check_adapter(adapter)
        _check_sampling(sampling)
        tokens = self._codec.prompt(prompt, tools)
        # A constrained answer is read once more for its log-probability, and a prompt must leave room for one token.
        spare = 1 if constraint is None else 2
        self._check_length(len(tokens) + spare, "the prompt with one new token")
        if constraint is not None:
            self._compiler().start(constraint)  # a bad grammar is this caller's error, not the engine's
        room = min(sampling.max_tokens, self.context - len(tokens) - spare + 1)
        return _Order(tokens, sampling, room, constraint, adapter, tuple(tools))

    def _compiler(self) -> GrammarCompiler:
        if self._grammars is None:
            self._grammars = GrammarCompiler(
                self._codec.tokenizer, n_vocabulary=self._n_vocabulary, end_tokens=self._end_tokens
            )
        return self._grammars

    @property
    def _end_tokens(self) -> list[int]:
        return [int(token) for token in self._codec.end_tokens]

    def _request(self, order: _Order, index: int, *, streamed: bool = False) -> EngineRequest:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        sampling = order.sampling
        params = SamplingParams(
            max_tokens=order.max_tokens,
            temperature=sampling.temperature,
            seed=derive(sampling.seed, "sample", index),
            stop=list(sampling.stop),
            stop_token_ids=self._end_tokens,
            logprobs=0,  # that of the chosen token alone
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            structured_outputs=self._structured(order.constraint),
            output_kind=RequestOutputKind.CUMULATIVE if streamed else RequestOutputKind.FINAL_ONLY,
        )
        return EngineRequest(order.prompt, params, self._lora(order.adapter))

    def _lora(self, adapter: str | None) -> Any:
        return None if adapter is None else self._host.loras[adapter]

    def _structured(self, constraint: Constraint | None) -> Any:
        if constraint is None:
            return None
        from vllm.sampling_params import StructuredOutputsParams

        if constraint.kind == "choice":
            return StructuredOutputsParams(choice=list(constraint.value))
        if constraint.kind == "json_schema":
            return StructuredOutputsParams(json={"x-guidance": dict(toolcalls.JSON_STYLE), **constraint.value})
        return StructuredOutputsParams(grammar=self._compiler().with_known_specials(constraint.value))

    # ---- reading what came back

    async def _completions(self, samples: Sequence[Any], order: _Order) -> list[Completion]:
        for sample in samples:
            if sample.finish_reason not in ("stop", "length"):
                raise ModelError(f"the vLLM engine gave up a sample, finish reason {sample.finish_reason!r}")
        ends = [self._end(sample, order) for sample in samples]
        if order.constraint is None:
            logprobs = [float(sample.cumulative_logprob) for sample in samples]
        else:  # vLLM's are those under the grammar
            logprobs = await self._logprobs(order.prompt, [tokens for tokens, _ in ends], order.adapter)
        return [self._completion(*end, logprob, order) for end, logprob in zip(ends, logprobs, strict=True)]

    def _end(self, sample: Any, order: _Order) -> tuple[tuple[int, ...], Literal["stop", "length"]]:
        """Tokens of a sample and why it ended.

        vLLM writes an end token after a grammar that can only end; here such a sample ends with the grammar.
        """
        tokens = tuple(sample.token_ids)
        if order.constraint is not None:
            state = self._compiler().start(order.constraint)
            for place, token in enumerate(tokens):
                if state.finished:
                    return tokens[:place], "stop"
                state.accept(token)
            if state.finished:
                return tokens, "stop"
        return tokens, "stop" if sample.finish_reason == "stop" else "length"

    def _completion(
        self, tokens: tuple[int, ...], reason: Literal["stop", "length"], logprob: float, order: _Order
    ) -> Completion:
        raw = self._codec.answer(tokens, order.sampling.stop)
        parsed = toolcalls.parse(raw, tools=order.tools)
        return Completion(
            text=self._codec.without_specials(parsed.text),
            logprob=logprob,
            n_tokens=len(tokens),
            finish_reason=reason,
            tool_calls=parsed.calls,
            raw=raw,
            repairs=parsed.repairs,
        )

    async def _logprobs(
        self, prompt: tuple[int, ...], continuations: Sequence[Sequence[int]], adapter: str | None
    ) -> list[float]:
        """Summed log-probability of each continuation's tokens; 0 for none."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        params = SamplingParams(
            max_tokens=1,
            temperature=0,
            prompt_logprobs=0,  # those of the prompt's own tokens
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        some = {tuple(tokens) for tokens in continuations if len(tokens)}
        requests = [EngineRequest(prompt + tokens, params, self._lora(adapter)) for tokens in some]
        outputs = await self._host.run(requests)
        totals: dict[tuple[int, ...], float] = {(): 0.0}
        for tokens, output in zip(some, outputs, strict=True):
            entries = output.prompt_logprobs[len(prompt) :]
            totals[tokens] = sum(entry[token].logprob for entry, token in zip(entries, tokens, strict=True))
        return [totals[tuple(tokens)] for tokens in continuations]


def _check_sampling(sampling: Sampling) -> None:
    if sampling.n < 1 or sampling.max_tokens < 1:
        raise ConfigError(f"n and max_tokens must be at least 1, got n={sampling.n}, max_tokens={sampling.max_tokens}")
    if not 0 <= sampling.temperature <= _WARMEST:
        raise ConfigError(f"vLLM takes temperatures from 0 to {_WARMEST}, got {sampling.temperature!r}")
    if not isinstance(sampling.stop, tuple) or not all(sampling.stop):
        raise ConfigError(f"stop must be a tuple of non-empty texts, got {sampling.stop!r}")
