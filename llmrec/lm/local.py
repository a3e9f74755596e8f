"""`LocalLM`: any causal language model that transformers loads, with LoRA adapters, on CPU or CUDA."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch

from llmrec.errors import ConfigError, ModelError, PromptTooLong, UnsupportedError
from llmrec.lm import hardware, toolcalls
from llmrec.lm.adapters import check_adapter, content_hash
from llmrec.lm.batching import MicroBatcher
from llmrec.lm.codec import TokenCodec
from llmrec.lm.constraints import GrammarCompiler
from llmrec.lm.decoding import Decoder, Draw, Grammar, Request, StopTexts, logprobs
from llmrec.lm.exact_head import with_exact_head
from llmrec.lm.pretrained import load_pretrained
from llmrec.lm.protocol import Capabilities, Completion, Constraint, Message, Piece, Sampling
from llmrec.lm.rows import CopiedRows, Rows, TreeRows, tree_layout_works
from llmrec.lm.switching import MERGE_BELOW, AdapterSwitch

_MAX_LOGITS = 1 << 28  # numbers in one logits tensor: 1 GiB in fp32


@dataclass(frozen=True)
class _GenerateJob:
    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    constraint: Constraint | None
    tools: tuple[Mapping[str, Any], ...]
    """That the model was shown: calls are read and mended against them."""


@dataclass(frozen=True)
class _ScoreJob:
    prompt: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _EmbedJob:
    texts: tuple[tuple[int, ...], ...]


_Job = _GenerateJob | _ScoreJob | _EmbedJob


class OpenModel(NamedTuple):
    """What a search of its own needs of a `LocalLM`."""

    model: Any
    """The causal language model, with the adapter in force."""
    tokenizer: Any
    prompts: tuple[tuple[int, ...], ...]
    """Token ids of the prompts."""
    tree: bool
    """Whether the model takes a tree mask (see `llmrec.lm.rows.tree_layout_works`)."""


class LocalLM:
    """A language model in this process (see `llmrec.lm.protocol.LanguageModel`).

    Concurrent awaited calls are batched; a prompt is read once for all its samples. Arithmetic depends on the batch in
    the last digits (about 1e-5 in fp32), draws do not depend on it otherwise.

    Args:
        model: a causal language model from transformers, in evaluation mode.
        tokenizer: its fast tokenizer.
        name: identifies model and weights.
        max_batch_tokens: most prompt and new tokens in one forward batch; bounds memory.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, max_batch_tokens: int = 16_384) -> None:
        if max_batch_tokens < 1:
            raise ConfigError(f"max_batch_tokens must be positive, got {max_batch_tokens!r}")
        self._model, self._base_name = model, name
        self._max_batch_tokens = max_batch_tokens
        self._switch = AdapterSwitch(model, merge_below=MERGE_BELOW)
        self._adapter_digests: dict[str, str] = {}
        self._lock = threading.RLock()  # two event loops in two threads may share one engine
        self._batcher: MicroBatcher[_Job, Any] = MicroBatcher(self._run)
        text_config = model.config.get_text_config()
        self.context: int = int(getattr(text_config, "max_position_embeddings", None) or 1 << 20)
        self._n_vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self._codec = TokenCodec(model, tokenizer, n_vocabulary=self._n_vocabulary, name=name)
        self._stop_texts = StopTexts(self._codec.decode, self._codec.texts_of_tokens)
        self._grammars: GrammarCompiler | None = None
        self._tree: bool | None = None

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        adapters: Mapping[str, Path] | None = None,
        dtype: str = "auto",
        device: str = "auto",
        max_batch_tokens: int = 16_384,
    ) -> LocalLM:
        """Load a model folder or hub id, and adapters by name.

        Args:
            path: a Hugging Face folder, or a hub id such as "Qwen/Qwen3-0.6B".
            adapters: name -> adapter folder.
            dtype: "auto" measures (see `llmrec.lm.hardware`), or a number type's name.
            device: "auto", "cpu", "cuda" or "cuda:1".
            max_batch_tokens: most tokens in one forward batch.

        Raises:
            ModelNotFoundError: the model, its tokenizer or an adapter is missing or damaged.
            ConfigError: an adapter was made for another backbone, or a setting is wrong.
        """
        choice = hardware.choose(device=device, dtype=dtype)
        loaded = load_pretrained(str(path), choice)
        lm = cls(with_exact_head(loaded.model), loaded.tokenizer, name=loaded.name, max_batch_tokens=max_batch_tokens)
        lm.hardware = choice
        lm.folder = Path(path) if Path(path).is_dir() else None
        lm.base_content_hash = loaded.content_hash
        for name, folder in (adapters or {}).items():
            lm.load_adapter(name, Path(folder))
        return lm

    folder: Path | None = None
    """Where it was loaded from; None for a hub id and for a model that was passed in."""
    hardware: hardware.Hardware | None = None
    """What was chosen at loading; None for a model that was passed in."""
    base_content_hash: str | None = None
    """Content hash of the backbone's folder; None for a hub model or one that was passed in."""

    @property
    def name(self) -> str:
        """Model and weights, adapters included."""
        adapters = ",".join(f"{name}:{digest[:8]}" for name, digest in sorted(self._adapter_digests.items()))
        return f"{self._base_name}+{adapters}" if adapters else self._base_name

    @property
    def capabilities(self) -> Capabilities:
        """All verbs and constraints, and the adapters that are loaded."""
        return Capabilities(
            verbs=frozenset({"generate", "score", "embed"}),
            constraints=frozenset({"choice", "json_schema", "lark"}),
            adapters=tuple(self._adapter_digests),
        )

    # ---- adapters

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA adapter under a name.

        Raises:
            ModelNotFoundError: the folder or its files are missing or damaged.
            ConfigError: it was made for another backbone, or the name is taken.
        """
        if name in self._adapter_digests:
            raise ConfigError(f"an adapter of this name is loaded already, got {name!r}")
        check_adapter(name, folder, base_content_hash=self.base_content_hash)
        with self._lock:
            self._switch.load(name, folder)
            self._adapter_digests[name] = content_hash(folder)

    @contextmanager
    def _with_adapter(self, adapter: str | None) -> Iterator[None]:
        """Hold the engine, with this adapter in force and gradients off."""
        with self._lock, self._switch.use(adapter), torch.inference_mode():
            yield

    @contextmanager
    def opened(
        self, prompts: Sequence[str | Sequence[Message]] = (), *, adapter: str | None = None
    ) -> Iterator[OpenModel]:
        """Lend the model to a search of its own (such as `llmrec.semid.beam`); nobody else uses it meanwhile.

        Args:
            prompts: texts or chat messages, tokenised as for the verbs.
            adapter: LoRA adapter by name, in force as long as the model is lent; None is the bare backbone.

        Raises:
            UnsupportedError: no such adapter.
            ModelError: the model failed under the search.
        """
        self._check_adapter(adapter)
        tokens = tuple(self._codec.prompt(prompt) for prompt in prompts)
        try:
            with self._with_adapter(adapter):
                yield OpenModel(self._model, self._codec.tokenizer, tokens, self._takes_tree())
        except (RuntimeError, MemoryError) as error:
            raise ModelError(f"the model {self.name!r} failed under a search: {error}") from error

    def _check_adapter(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self._adapter_digests:
            loaded = ", ".join(self._adapter_digests) or "none"
            raise UnsupportedError(f"no adapter of this name is loaded, got {adapter!r}; loaded: {loaded}")

    # ---- the verbs

    def count_tokens(self, prompt: str | Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> int:
        """Tokens of a prompt as the model reads it."""
        return len(self._codec.prompt(prompt, tools))

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Chat messages as the prompt text that the model reads."""
        return self._codec.render(messages, tools)

    def _check_length(self, tokens: int, what: str) -> None:
        if tokens > self.context:
            raise PromptTooLong(f"{what} has {tokens} tokens, the model's context is {self.context}: shorten it")

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
        job = self._generate_job(prompt, sampling, tools, constraint, adapter)
        return cast(list[Completion], await self._batcher.submit(("generate", adapter), job))

    async def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: Sampling = Sampling(),
        tools: Sequence[Mapping[str, Any]] = (),
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> AsyncIterator[Piece]:
        """Sample one completion and yield its text as it grows; other tasks run between two tokens.

        The text equals that of `generate` with the same arguments. A streamed call is not batched with others.
        """
        if sampling.n != 1:
            raise ConfigError(f"only one sample can be streamed, got n={sampling.n}")
        job = self._generate_job(prompt, sampling, tools, constraint, adapter)
        with self._with_adapter(adapter):
            decoder = self._decoder([job])
            steps = decoder.steps()
        sent, hold = 0, max((len(stop) for stop in sampling.stop), default=1) - 1
        running = True
        while running:
            with self._with_adapter(adapter):
                running = next(steps, True) is None
            raw = self._codec.answer(decoder.draws[0].tokens, sampling.stop)
            raw = raw.rstrip("\ufffd")  # half a character waits for the rest
            ready = len(raw) - hold if running and decoder.draws[0].finish_reason is None else len(raw)
            if ready > sent:
                yield Piece(raw[sent:ready])
                sent = ready
            await asyncio.sleep(0)
        completion = self._completion(decoder.draws[0], job)
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
        encoded = tuple(self._codec.encode(text) for text in continuations)
        self._check_length(len(tokens) + max(map(len, encoded), default=0), "the prompt with its longest continuation")
        if not encoded:
            return []
        return cast(list[float], await self._batcher.submit(("score", adapter), _ScoreJob(tokens, encoded)))

    async def embed(self, texts: Sequence[str], *, adapter: str | None = None) -> npt.NDArray[np.float32]:
        """Mean over tokens of the last layer's states, shape (n_texts, hidden), float32."""
        self._check_adapter(adapter)
        if isinstance(texts, str):
            raise ConfigError("texts must be a sequence of texts, got one text")
        encoded = tuple(self._codec.prompt(text) for text in texts)
        for tokens in encoded:
            self._check_length(len(tokens), "a text to embed")
        if not encoded:
            return np.zeros((0, self._model.config.get_text_config().hidden_size), dtype=np.float32)
        vectors = await self._batcher.submit(("embed", adapter), _EmbedJob(encoded))
        return cast(npt.NDArray[np.float32], vectors)

    def _generate_job(
        self,
        prompt: str | Sequence[Message],
        sampling: Sampling,
        tools: Sequence[Mapping[str, Any]],
        constraint: Constraint | None,
        adapter: str | None,
    ) -> _GenerateJob:
        self._check_adapter(adapter)
        _check_sampling(sampling)
        tokens = self._codec.prompt(prompt, tools)
        self._check_length(len(tokens) + 1, "the prompt with one new token")
        if constraint is not None:
            self._compiler().start(constraint)  # a bad grammar is this caller's error, not the batch's
        room = min(sampling.max_tokens, self.context - len(tokens))
        return _GenerateJob(tokens, sampling, room, constraint, tuple(tools))

    def _compiler(self) -> GrammarCompiler:
        with self._lock:
            if self._grammars is None:
                ends = [int(token) for token in self._codec.end_tokens]
                self._grammars = GrammarCompiler(
                    self._codec.tokenizer, n_vocabulary=self._n_vocabulary, end_tokens=ends
                )
            return self._grammars

    # ---- running batches

    def _run(self, key: Hashable, jobs: Sequence[_Job]) -> Sequence[Any]:
        verb, adapter = cast(tuple[str, str | None], key)
        runners: dict[str, Callable[[Sequence[Any]], list[Any]]] = {
            "generate": self._run_generate,
            "score": self._run_score,
            "embed": self._run_embed,
        }
        try:
            with self._with_adapter(adapter):
                return runners[verb](jobs)
        except (RuntimeError, MemoryError) as error:  # torch's errors, out of memory among them
            raise ModelError(f"the model {self.name!r} failed to {verb}: {error}") from error

    def _batches(self, widths: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
        """Cut jobs into batches of similar width.

        Args:
            widths: for each job (query positions at once, tokens in all).
        """
        order = sorted(range(len(widths)), key=lambda job: (widths[job], job))
        batch: list[int] = []
        for job in order:
            positions, tokens = widths[job]
            rows = len(batch) + 1  # the widest job comes last and sets the width of all
            full = rows * tokens > self._max_batch_tokens or rows * positions * self._n_vocabulary > _MAX_LOGITS
            if batch and full:
                yield batch
                batch = []
            batch.append(job)
        if batch:
            yield batch

    def _takes_tree(self) -> bool:
        if self._tree is None:
            self._tree = tree_layout_works(self._model)
        return self._tree

    def _rows(self, prompts: Sequence[Sequence[int]], counts: Sequence[int], *, room: int) -> Rows:
        layout = TreeRows if self._takes_tree() else CopiedRows
        return layout(self._model, prompts, counts, room=room)

    def _run_generate(self, jobs: Sequence[_GenerateJob]) -> list[Any]:
        results: list[Any] = [None] * len(jobs)
        widths = [(job.sampling.n, len(job.prompt) + job.sampling.n * job.max_tokens) for job in jobs]
        for batch in self._batches(widths):
            decoder = self._decoder([jobs[index] for index in batch])
            for _ in decoder.steps():
                pass
            draws = iter(decoder.draws)
            for index in batch:
                own = [next(draws) for _ in range(jobs[index].sampling.n)]
                errors = [draw.error for draw in own if draw.error is not None]
                results[index] = errors[0] if errors else [self._completion(draw, jobs[index]) for draw in own]
        return results

    def _decoder(self, jobs: Sequence[_GenerateJob]) -> Decoder:
        requests = [self._request(job) for job in jobs]
        rows = self._rows(
            [request.prompt for request in requests],
            [request.n for request in requests],
            room=max(request.max_tokens for request in requests),
        )
        who = self._switch.described(self._base_name)
        return Decoder(requests, rows, end_tokens=self._codec.end_tokens, stop_texts=self._stop_texts, who=who)

    def _request(self, job: _GenerateJob) -> Request:
        sampling = job.sampling
        grammars: tuple[Grammar, ...] = ()
        if job.constraint is not None:
            grammars = tuple(self._compiler().start(job.constraint) for _ in range(sampling.n))
        return Request(
            prompt=job.prompt,
            n=sampling.n,
            max_tokens=job.max_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed,
            stop=sampling.stop,
            grammars=grammars,
        )

    def _completion(self, draw: Draw, job: _GenerateJob) -> Completion:
        if draw.error is not None:
            raise draw.error
        assert draw.finish_reason is not None
        raw = self._codec.answer(draw.tokens, job.sampling.stop)
        parsed = toolcalls.parse(raw, tools=job.tools)
        return Completion(
            text=self._codec.without_specials(parsed.text),
            logprob=draw.logprob,
            n_tokens=len(draw.tokens),
            finish_reason=draw.finish_reason,
            tool_calls=parsed.calls,
            raw=raw,
            repairs=parsed.repairs,
        )

    def _run_score(self, jobs: Sequence[_ScoreJob]) -> list[Any]:
        results: list[Any] = [None] * len(jobs)
        widths = []
        for job in jobs:
            grown = sum(max(len(tokens) - 1, 0) for tokens in job.continuations)
            widths.append((max(grown, 1), len(job.prompt) + grown))
        for batch in self._batches(widths):
            scores = self._score_batch([jobs[index] for index in batch])
            for index, values in zip(batch, scores, strict=True):
                results[index] = values
        return results

    def _score_batch(self, jobs: Sequence[_ScoreJob]) -> list[list[float]]:
        counts = [len(job.continuations) for job in jobs]
        continuations = [tokens for job in jobs for tokens in job.continuations]
        longest = max(map(len, continuations))
        rows = self._rows([job.prompt for job in jobs], counts, room=max(longest - 1, 0))
        prompt_of = np.repeat(np.arange(len(jobs)), counts)
        totals = np.zeros(len(continuations))
        some = np.array([index for index, tokens in enumerate(continuations) if tokens], dtype=np.int64)
        if len(some):
            first = torch.tensor([continuations[index][0] for index in some])
            after_prompt = torch.log_softmax(rows.first_logits, dim=1).cpu()  # (jobs, vocabulary)
            totals[some] = after_prompt[torch.from_numpy(prompt_of[some]), first].double().numpy()
        if longest > 1:
            lengths = [len(job.prompt) for job in jobs]
            lines = [
                (index, token, lengths[prompt_of[index]] + place, tokens[place + 1])
                for index, tokens in enumerate(continuations)
                for place, token in enumerate(tokens[:-1])
            ]
            sample, token, position, successor = np.array(lines, dtype=np.int64).T
            logits = rows.feed(sample, token, position)
            np.add.at(totals, sample, logprobs(logits, torch.from_numpy(successor).to(logits.device)))
        ends = np.cumsum(counts)
        return [totals[end - count : end].tolist() for end, count in zip(ends, counts, strict=True)]

    def _run_embed(self, jobs: Sequence[_EmbedJob]) -> list[Any]:
        texts = [tokens for job in jobs for tokens in job.texts]
        vectors: npt.NDArray[np.float32] | None = None
        for batch in self._batches([(1, len(tokens)) for tokens in texts]):
            pooled = self._embed_batch([texts[index] for index in batch])
            if vectors is None:
                vectors = np.zeros((len(texts), pooled.shape[1]), dtype=np.float32)
            vectors[batch] = pooled
        assert vectors is not None
        ends = np.cumsum([len(job.texts) for job in jobs])
        return list(np.split(vectors, ends[:-1]))

    def _embed_batch(self, texts: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        longest = max(map(len, texts))
        ids = torch.zeros(len(texts), longest, dtype=torch.long)
        real = torch.zeros(len(texts), longest, dtype=torch.long)
        for row, tokens in enumerate(texts):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            real[row, : len(tokens)] = 1
        device = self._model.device
        ids, real = ids.to(device), real.to(device)
        # Right padding: a causal model's real positions never see it.
        states = self._model.get_decoder()(input_ids=ids, attention_mask=real, use_cache=False).last_hidden_state
        weight = real[:, :, None].float()  # (texts, longest, 1)
        pooled = (states.float() * weight).sum(dim=1) / weight.sum(dim=1)  # (texts, hidden)
        return cast(npt.NDArray[np.float32], pooled.cpu().numpy())


def _check_sampling(sampling: Sampling) -> None:
    if sampling.n < 1 or sampling.max_tokens < 1:
        raise ConfigError(f"n and max_tokens must be at least 1, got n={sampling.n}, max_tokens={sampling.max_tokens}")
    if not 0 <= sampling.temperature < float("inf"):
        raise ConfigError(f"temperature must be 0 or a positive number, got {sampling.temperature!r}")
    if not isinstance(sampling.stop, tuple) or not all(sampling.stop):
        raise ConfigError(f"stop must be a tuple of non-empty texts, got {sampling.stop!r}")
