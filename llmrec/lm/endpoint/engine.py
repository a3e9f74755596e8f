"""`EndpointLM`: a language model behind an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError, ModelError, PromptTooLong, UnsupportedError
from llmrec.lm.endpoint import faults, wire
from llmrec.lm.endpoint.budget import Usage
from llmrec.lm.endpoint.client import Client
from llmrec.lm.endpoint.probe import Server, probe
from llmrec.lm.endpoint.settings import EndpointSettings
from llmrec.lm.endpoint.streaming import Growing
from llmrec.lm.protocol import Capabilities, Completion, Constraint, Message, Piece, Sampling, Verb
from llmrec.seeding import derive


class EndpointLM:
    """A language model behind a server (see `llmrec.lm.protocol.LanguageModel`).

    Each sample is a request of its own with a seed of its own, so it does not depend on how many are drawn. A
    completion's log-probability is NaN where the server does not give one for every token.

    Args:
        client: HTTP to the server.
        server: what the server said about itself.
    """

    def __init__(self, client: Client, server: Server) -> None:
        self._client, self._server = client, server
        self.context = server.context
        """Tokens of the context of one request; None where the server does not tell."""

    @classmethod
    def connect(cls, where: str | EndpointSettings) -> EndpointLM:
        """Find a server and ask it what it is.

        Args:
            where: settings, or "URL", "URL#MODEL" or "FILE.yaml".

        Raises:
            ServerDownError: nobody answers.
            ConfigError: the settings, the key or the model are wrong.
            ModelError: it is no OpenAI-compatible server, or fails.
        """
        settings = EndpointSettings.from_spec(where) if isinstance(where, str) else where
        client = Client(settings)
        return cls(client, probe(client))

    @property
    def name(self) -> str:
        """The model as the server names it, with what it tells of the weights; the same on every host and port."""
        adapters = f"+{','.join(sorted(self._server.adapters))}" if self._server.adapters else ""
        return f"endpoint:{self._server.identity}{adapters}"

    @property
    def capabilities(self) -> Capabilities:
        """What the server can do."""
        verbs: set[Verb] = set()
        if self._server.generates:
            verbs |= {"generate", "score"} if self._server.dialect.scores else {"generate"}
        if self._server.embedding_model is not None:
            verbs.add("embed")
        return Capabilities(
            verbs=frozenset(verbs),
            constraints=self._server.dialect.constraints,
            adapters=tuple(self._server.adapters),
        )

    @property
    def usage(self) -> Usage:
        """What this engine has used so far."""
        return self._client.meter.usage

    @property
    def settings(self) -> EndpointSettings:
        """Where the server is, and how it may be used."""
        return self._client.settings

    async def aclose(self) -> None:
        """Close the connections of the running event loop; they close by themselves when the loop ends."""
        await self._client.aclose()

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

        Raises:
            UnsupportedError: the server lacks the constraint or adapter.
            ModelError: the prompt does not fit the context, or the server failed.
            BudgetError: the budget does not allow the call; it was not made.
            UserError: the server is down, or refuses key or model.
        """
        path, body = self._request(prompt, sampling, tools, constraint, adapter)

        async def one(index: int) -> Completion:
            seed = derive(sampling.seed, index)
            try:
                answer = await self._ask(path, body, sampling, seed, constraint)
            except PromptTooLong:
                shorter = await self._that_fits(sampling, prompt, tools)
                if shorter is None:
                    raise
                answer = await self._ask(path, body, shorter, seed, constraint)
            return self._completion(wire.read_sample(answer), sampling, constraint, tools)

        if self._server.dialect.one_after_another:
            return [await one(index) for index in range(sampling.n)]
        return await _together([one(index) for index in range(sampling.n)])

    async def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: Sampling = Sampling(),
        tools: Sequence[Mapping[str, Any]] = (),
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> AsyncIterator[Piece]:
        """Sample one completion and yield its text as it grows; the last piece carries the completion.

        Raises:
            ModelError: among others, when the server stops half-way: pieces shown so far are then no answer.
        """

        if sampling.n != 1:
            raise ConfigError(f"only one sample can be streamed, got n={sampling.n}")
        path, body = self._request(prompt, sampling, tools, constraint, adapter)
        growing = Growing(sampling.stop)
        whole = self._server.dialect.wraps(constraint)
        async with aclosing(self._chunks(path, body, sampling, prompt, tools)) as chunks:
            async for chunk in chunks:
                text = growing.feed(chunk)
                if text and not whole:
                    yield Piece(text)
        completion = self._completion(growing.sample(), sampling, constraint, tools)
        yield Piece(completion.raw if whole else completion.raw[growing.sent :], completion)

    async def score(
        self, prompt: str | Sequence[Message], continuations: Sequence[str], *, adapter: str | None = None
    ) -> list[float]:
        """Summed log-probability of each continuation after the prompt, at temperature 1; exact or refused.

        Raises:
            UnsupportedError: the server does not give the log-probabilities that this needs.
            ModelError: the prompt does not fit the context, or the server failed.
            BudgetError: the budget does not allow the calls.
            UserError: the server is down, or refuses key or model.
        """
        self._check_generates()
        self._check_adapter(adapter)
        if isinstance(continuations, str):
            raise ConfigError("continuations must be a sequence of texts, got one text")
        if not continuations:
            return []
        return await self._server.dialect.score(self._client, self._server.model, prompt, continuations, adapter)

    async def embed(self, texts: Sequence[str], *, adapter: str | None = None) -> npt.NDArray[np.float32]:
        """Embeddings as the server pools and scales them, shape (n_texts, hidden), float32.

        Raises:
            UnsupportedError: the server does not embed.
        """
        self._check_adapter(adapter)
        if isinstance(texts, str):
            raise ConfigError("texts must be a sequence of texts, got one text")
        model = self._server.embedding_model
        if model is None or adapter is not None:
            raise UnsupportedError(
                f"the server of {self.name!r} does not embed{' with an adapter' if model else ''}; start llama.cpp "
                "with --embeddings --kv-unified, name an embedding_model in the settings, or use a local engine"
            )
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        answer = await self._client.complete("embeddings", {"model": model, "input": list(texts)}, max_tokens=0)
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the server's embeddings cannot be read ({error!r}); use another server") from error
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise ModelError(f"the server gave embeddings of shape {vectors.shape} for {len(texts)} texts")
        return vectors

    async def prompt_tokens(self, prompt: str | Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> int:
        """Tokens of a prompt as the model reads it.

        Raises:
            UnsupportedError: the server does not tell.
        """
        return await self._server.dialect.count(self._client, self._server.model, prompt, tools)

    # ---- parts

    def _request(
        self,
        prompt: str | Sequence[Message],
        sampling: Sampling,
        tools: Sequence[Mapping[str, Any]],
        constraint: Constraint | None,
        adapter: str | None,
    ) -> tuple[str, dict[str, Any]]:
        self._check_generates()
        self._check_adapter(adapter)
        check_sampling(sampling)
        dialect, chat = self._server.dialect, not isinstance(prompt, str)
        if not prompt:
            raise ModelError("the prompt is empty: there is nothing to continue")
        if tools and not chat:
            raise ConfigError("tools are shown through the chat template: pass messages, not a text prompt")
        body = dialect.adapter(self._server.model, adapter)
        if isinstance(prompt, str):
            body["prompt"] = prompt
        else:
            body["messages"] = wire.messages_for_wire(prompt)
        if tools:
            body["tools"] = [dict(tool) for tool in tools]
        if constraint is not None:
            body |= dialect.constraint(constraint, chat=chat, tools=bool(tools))
        return ("chat/completions" if chat else "completions"), body

    async def _ask(
        self, path: str, body: Mapping[str, Any], sampling: Sampling, seed: int, constraint: Constraint | None
    ) -> dict[str, Any]:
        own = self._server.dialect.sampling(sampling, seed, chat="messages" in body)
        try:
            return await self._client.complete(path, {**body, **own}, max_tokens=sampling.max_tokens)
        except faults.Refused as error:
            if constraint is None:
                raise
            said = str(error)
        raise ConfigError(f"a request with a {constraint.kind} constraint: {said}")

    async def _chunks(
        self,
        path: str,
        body: Mapping[str, Any],
        sampling: Sampling,
        prompt: str | Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Chunks of a stream; one that is refused for its length is opened once more with what fits."""
        once = self._open(path, body, sampling)
        try:
            async with aclosing(once):
                async for chunk in once:
                    yield chunk
            return
        except PromptTooLong:  # a status of the answer, so that nothing has come yet
            shorter = await self._that_fits(sampling, prompt, tools)
            if shorter is None:
                raise
        async with aclosing(self._open(path, body, shorter)) as again:
            async for chunk in again:
                yield chunk

    def _open(self, path: str, body: Mapping[str, Any], sampling: Sampling) -> AsyncGenerator[dict[str, Any], None]:
        own = self._server.dialect.sampling(sampling, derive(sampling.seed, 0), chat="messages" in body)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        return self._client.stream(path, {**body, **own, **options}, max_tokens=sampling.max_tokens)

    async def _that_fits(
        self, sampling: Sampling, prompt: str | Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> Sampling | None:
        """Less new tokens behind a prompt, where the server refuses to cut at the context's end; None: none fit."""
        if not self._server.dialect.refuses_to_cut or self.context is None:
            return None
        room = self.context - await self.prompt_tokens(prompt, tools)
        return replace(sampling, max_tokens=room) if 1 <= room < sampling.max_tokens else None

    def _completion(
        self, sample: wire.Sample, sampling: Sampling, constraint: Constraint | None, tools: Sequence[Mapping[str, Any]]
    ) -> Completion:
        found = wire.completion(sample, sampling, tools=tools)
        text = self._server.dialect.unwrap(found.text, constraint)
        return found if text == found.text else replace(found, text=text, raw=text)

    def _check_generates(self) -> None:
        if not self._server.generates:
            raise UnsupportedError(
                f"the server of {self.name!r} only embeds; start it with a model that writes and, for llama.cpp, "
                "without --embeddings"
            )

    def _check_adapter(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self._server.adapters:
            served = ", ".join(self._server.adapters) or "none"
            raise UnsupportedError(
                f"the server of {self.name!r} has no adapter {adapter!r}; it has: {served}; start it with the adapter"
            )


async def _together(samples: Sequence[Coroutine[Any, Any, Completion]]) -> list[Completion]:
    """Run all; the first failure cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(sample) for sample in samples]
    except ExceptionGroup as failures:
        first = failures.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise first


def check_sampling(sampling: Sampling) -> None:
    """Refuse settings that make no sense.

    Raises:
        ConfigError: one is out of range.
    """
    if sampling.n < 1 or sampling.max_tokens < 1:
        raise ConfigError(f"n and max_tokens must be at least 1, got n={sampling.n}, max_tokens={sampling.max_tokens}")
    if not 0 <= sampling.temperature < float("inf"):
        raise ConfigError(f"temperature must be 0 or a positive number, got {sampling.temperature!r}")
    if not isinstance(sampling.stop, tuple) or not all(sampling.stop):
        raise ConfigError(f"stop must be a tuple of non-empty texts, got {sampling.stop!r}")
