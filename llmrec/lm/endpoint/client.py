"""HTTP to one server: one SDK client for each running event loop, counted and limited."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncGenerator, Mapping
from functools import cache
from typing import Any, NamedTuple, cast

import httpx2
import openai

from llmrec.errors import LlmrecError, ModelError
from llmrec.lm.endpoint import faults
from llmrec.lm.endpoint.budget import Meter
from llmrec.lm.endpoint.settings import EndpointSettings

JsonObject = dict[str, Any]


@cache
def _certificates() -> ssl.SSLContext:
    """Loaded once: it takes a tenth of a second, and clients come and go with event loops."""
    return httpx2.create_ssl_context()


class _Open(NamedTuple):
    sdk: openai.AsyncOpenAI
    gate: asyncio.Semaphore


class _Outcome(NamedTuple):
    """What became of a request; errors travel as values, so that they do not carry the SDK's as their context."""

    answer: Any = None
    error: LlmrecError | None = None
    retries: int = 0
    free: bool = False
    """Whether the model was certainly not asked."""


class Client:
    """Requests to one server, from any event loop and thread.

    A connection belongs to the event loop that opened it. So each loop gets its own client, which closes when the loop
    shuts its asynchronous generators down (as `asyncio.run` does), or by `aclose`.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self.meter = Meter(settings.budget)
        self.models: tuple[str, ...] = ()
        """Names of the server's models, once they are known; for messages."""
        self._lock = threading.Lock()
        self._open: dict[asyncio.AbstractEventLoop, tuple[AsyncGenerator[_Open, None], _Open]] = {}

    def url(self, path: str) -> str:
        """Absolute URL: "/x" is below the server's root, "x" below the API's base."""
        base = self.settings.root_url if path.startswith("/") else self.settings.base_url + "/"
        return base + path

    # ---- one client for each loop

    async def _keep(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[_Open, None]:
        options = self._options()  # refused keys before anything is opened
        http = openai.DefaultAsyncHttpxClient(verify=_certificates())
        sdk = openai.AsyncOpenAI(**options, http_client=http)
        _forget_the_environment(sdk)
        try:
            yield _Open(sdk, asyncio.Semaphore(self.settings.max_concurrency))
        finally:
            with self._lock:
                self._open.pop(loop, None)
            await sdk.close()

    async def _connection(self) -> _Open:
        loop = asyncio.get_running_loop()
        with self._lock:
            known = self._open.get(loop)
            for other in [other for other in self._open if other.is_closed()]:
                del self._open[other]
        if known is None:
            keeper = self._keep(loop)
            known = (keeper, await anext(keeper))  # nothing waits before the first yield: no other task comes between
            with self._lock:
                self._open[loop] = known
        return known[1]

    def _options(self) -> JsonObject:
        return {
            "base_url": self.settings.base_url,
            "api_key": self.settings.key_to_send(),
            "admin_api_key": "",  # else the SDK takes one from the environment
            "timeout": self.settings.timeout_s,
            "max_retries": self.settings.max_retries,
            "_enforce_credentials": False,
        }

    def _headers(self) -> Any:
        """Options of a request: without a key no such header, whatever else the environment holds."""
        return {} if self.settings.key() else {"headers": {"Authorization": openai.Omit()}}

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        with self._lock:
            known = self._open.get(asyncio.get_running_loop())
        if known is not None:
            await known[0].aclose()

    # ---- requests

    def ask_now(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, retry: bool = True) -> Any:
        """A request outside of any event loop, for the first questions to a server; not counted.

        Raises:
            LlmrecError: see `llmrec.lm.endpoint.faults`.
        """
        options = self._options() | ({} if retry else {"max_retries": 0})
        http = openai.DefaultHttpxClient(verify=_certificates())
        with openai.OpenAI(**options, http_client=http) as sdk:
            _forget_the_environment(sdk)
            try:
                if method == "get":
                    answer = sdk.get(self.url(path), cast_to=httpx2.Response, options=self._headers())
                else:
                    answer = sdk.post(
                        self.url(path), cast_to=httpx2.Response, body=dict(body or {}), options=self._headers()
                    )
                return self._read(answer)
            except openai.OpenAIError as error:
                translated = faults.translate(error, self.settings, models=self.models, starting=True)
        raise translated

    async def ask(self, path: str, body: Mapping[str, Any]) -> JsonObject:
        """A POST that costs nothing, such as counting tokens.

        Raises:
            LlmrecError: see `llmrec.lm.endpoint.faults`.
        """
        connection = await self._connection()
        async with connection.gate:
            return _object(await self._post(connection.sdk, path, body))

    async def complete(self, path: str, body: Mapping[str, Any], *, max_tokens: int) -> JsonObject:
        """A POST that the model answers: counted, and refused when the budget does not allow it.

        Args:
            path: see `url`.
            body: JSON object.
            max_tokens: most new tokens.

        Raises:
            BudgetError: the budget does not allow it; nothing was sent.
            LlmrecError: see `llmrec.lm.endpoint.faults`.
        """
        connection = await self._connection()
        async with connection.gate:
            held = self.meter.reserve(**_size(body), max_tokens=max_tokens)
            outcome = _Outcome()
            try:
                outcome = await self._post(connection.sdk, path, body)
            finally:  # also when the call is cancelled
                if outcome.free:
                    self.meter.release(held, retries=outcome.retries)
                else:
                    self.meter.settle(held, _usage(outcome.answer), retries=outcome.retries)
        return _object(outcome)

    async def stream(self, path: str, body: Mapping[str, Any], *, max_tokens: int) -> AsyncGenerator[JsonObject, None]:
        """Like `complete`, the answer in pieces (server-sent events).

        Raises:
            ModelError: among others, when the stream breaks off.
        """
        connection = await self._connection()
        async with connection.gate:
            held = self.meter.reserve(**_size(body), max_tokens=max_tokens)
            usage, translated, chunks, seen, free = None, None, None, 0, False
            try:
                chunks = await connection.sdk.post(
                    self.url(path),
                    cast_to=cast(type[Any], object),
                    body=dict(body),
                    options=self._headers(),
                    stream=True,
                    stream_cls=openai.AsyncStream[Any],
                )
                async for chunk in chunks:
                    seen += 1
                    usage = _usage(chunk) or usage
                    yield _object(_Outcome(chunk))
            except openai.OpenAIError as error:
                translated = faults.translate(error, self.settings, models=self.models)
                free = faults.is_free(error)
            except ValueError:
                translated = ModelError(f"{self.settings.base_url} sent a broken stream; look at the server's log")
            finally:
                if free:
                    self.meter.release(held, retries=0)
                else:
                    self.meter.settle(held, usage, retries=0, written=seen)
                if chunks is not None:
                    await chunks.close()
            if translated is not None:
                raise translated

    async def _post(self, sdk: openai.AsyncOpenAI, path: str, body: Mapping[str, Any]) -> _Outcome:
        try:
            response = await sdk.post(self.url(path), cast_to=httpx2.Response, body=dict(body), options=self._headers())
        except openai.OpenAIError as error:
            translated = faults.translate(error, self.settings, models=self.models)
            return _Outcome(error=translated, retries=faults.retries_of(error), free=faults.is_free(error))
        retries = int(response.request.headers.get("x-stainless-retry-count", 0))
        try:
            return _Outcome(self._read(response), retries=retries)
        except ModelError as unreadable:
            return _Outcome(error=unreadable, retries=retries)

    def _read(self, answer: httpx2.Response) -> Any:
        try:
            return answer.json()
        except ValueError:
            kind = answer.headers.get("content-type", "no content type")
        said = faults.clean(answer.text[:80], self.settings)
        raise ModelError(
            f"{self.settings.base_url} answered with {kind}, not with JSON: {said!r}; it is no OpenAI-compatible server"
        )


def _forget_the_environment(sdk: openai.OpenAI | openai.AsyncOpenAI) -> None:
    """Drop what the SDK reads from the environment for OpenAI's own service: it is no business of other servers."""
    sdk.organization = sdk.project = None  # OPENAI_ORG_ID, OPENAI_PROJECT_ID
    sdk._custom_headers = {}  # OPENAI_CUSTOM_HEADERS, which may hold keys


def _object(outcome: _Outcome) -> JsonObject:
    if outcome.error is not None:
        raise outcome.error
    if not isinstance(outcome.answer, dict):
        raise ModelError(f"the server answered with {type(outcome.answer).__name__}, not with a JSON object")
    return outcome.answer


def _size(body: Mapping[str, Any]) -> dict[str, int]:
    """How much the model reads, as far as that is known before: its tokens, or else its bytes."""
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        return {"n_tokens": len(prompt), "n_bytes": 0}
    read = [body[name] for name in ("prompt", "messages", "tools", "input") if body.get(name)]
    return {"n_tokens": 0, "n_bytes": sum(_bytes(value) for value in read)}


def _bytes(value: Any) -> int:
    return len((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode())


def _usage(answer: Any) -> Mapping[str, Any] | None:
    """The usage object of an answer; that of llama.cpp's own route is put in the same form; None where it has none."""
    if not isinstance(answer, dict):
        return None
    if "tokens_evaluated" in answer:
        timings = answer.get("timings")
        return {
            "prompt_tokens": answer["tokens_evaluated"],
            "prompt_tokens_details": {"cached_tokens": timings.get("cache_n") if isinstance(timings, dict) else 0},
            "completion_tokens": answer.get("tokens_predicted", 0),
        }
    usage = answer.get("usage")
    return usage if isinstance(usage, dict) and usage else None
