"""`LlmrecChat`: a LangChain chat model over any `LanguageModel`.

Tool calls and structured output are grammar-constrained where the engine supports grammars, so a small model cannot
emit malformed JSON or an unknown tool. Streaming never shows markup: it holds back from the first mark on.
"""

from __future__ import annotations

import asyncio
import json
import queue
import re
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel, ValidationError

from llmrec.errors import ConfigError, OutputError, UnsupportedError
from llmrec.lm import toolcalls
from llmrec.lm.protocol import Completion, Constraint, LanguageModel, Message, Piece, Sampling
from llmrec.lm.schemas import closed_schema, function_of
from llmrec.seeding import derive

ResultT = TypeVar("ResultT")
ToolChoice = str | bool | Mapping[str, Any] | None

_MARK = re.compile(r"<\|[^|<>]{1,40}\|>")
_UNFINISHED = re.compile(r"<(?:\|[^|<>]{0,40}\|?)?\Z")


@runtime_checkable
class Streaming(Protocol):
    """An engine that can yield a sample piece by piece."""

    def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        sampling: Sampling = ...,
        tools: Sequence[Mapping[str, Any]] = ...,
        constraint: Constraint | None = ...,
        adapter: str | None = ...,
    ) -> AsyncIterator[Piece]:
        """Yield pieces; the last one carries the completion."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """An engine that can count the tokens of a prompt."""

    def count_tokens(self, prompt: str | Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> int:
        """Tokens of the rendered prompt."""
        ...


class MarkupFilter:
    """Passes streamed prose on and holds markup back.

    Special tokens are dropped; from the opening mark of a tool call on, nothing passes.
    """

    def __init__(self) -> None:
        self._waiting = ""
        self._closed = False

    def feed(self, text: str, *, last: bool = False) -> str:
        """Add text; returns what may be shown now."""
        if self._closed:
            return ""
        waiting = _MARK.sub("", self._waiting + text)
        opening = waiting.find(toolcalls.OPEN)
        if opening >= 0:
            self._closed, self._waiting = True, ""
            return waiting[:opening]
        cut = len(waiting) if last else _safe_length(waiting)
        self._waiting = waiting[cut:]
        return waiting[:cut]


def _safe_length(text: str) -> int:
    """Length of the part that cannot belong to a mark whose end is still to come."""
    unfinished = _UNFINISHED.search(text)
    cut = unfinished.start() if unfinished else len(text)
    for size in range(min(len(text), len(toolcalls.OPEN) - 1), 0, -1):
        if toolcalls.OPEN.startswith(text[-size:]):
            return min(cut, len(text) - size)
    return cut


class _Order(BaseModel):
    """What one LangChain call asks of the engine."""

    model_config = {"arbitrary_types_allowed": True}

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    constraint: Any
    sampling: Any


class LlmrecChat(BaseChatModel):
    """A LangChain chat model over a `LanguageModel`.

    Keyword arguments of a call (or of `bind`): `seed`, `temperature`, `max_tokens`, and those of `bind_tools`.
    """

    lm: Any
    """The engine."""
    adapter: str | None = None
    """LoRA adapter that plays the role; None is the bare backbone."""
    temperature: float = 0.0
    max_tokens: int = 256
    """Upper bound on new tokens of an answer."""
    seed: int = 0
    """Seed of a call; with temperature above 0, give each call its own through `bind(seed=...)`."""

    @property
    def _llm_type(self) -> str:
        return "llmrec"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"model": self.lm.name, "adapter": self.adapter, "temperature": self.temperature, "seed": self.seed}

    # ---- tools and structured output

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: ToolChoice = None,
        grammar: Constraint | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Give the model tools.

        Args:
            tools: functions, pydantic models, LangChain tools or OpenAI schemas.
            tool_choice: None or "auto" lets the model choose; "any", "required" or True forces a call; a tool's name
                (or OpenAI's object with it) forces that tool; "none" hides the tools.
            grammar: grammar of the answer, in place of the one that is built from the tools.
            **kwargs: bound to every call.
        """
        schemas = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=schemas, tool_choice=tool_choice, grammar=grammar, **kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Answer with an object that follows a schema.

        Args:
            schema: a pydantic model (gives its instances), a TypedDict or a JSON schema (give dicts).
            include_raw: give {"raw": message, "parsed": object, "parsing_error": error or None} and raise nothing.
            **kwargs: bound to every call.

        Raises:
            OutputError: (in a call) the answer was cut short or does not validate.
        """
        plain = closed_schema(convert_to_json_schema(schema))
        bound = self.bind(grammar=Constraint("json_schema", plain), **kwargs)
        if not include_raw:
            return bound | RunnableLambda(lambda message: _parse(message, schema))
        return bound | RunnableLambda(lambda message: _parse_quietly(message, schema))

    # ---- one call

    def _order(self, messages: Sequence[BaseMessage], stop: Sequence[str] | None, options: dict[str, Any]) -> _Order:
        tools, choice = list(options.pop("tools", None) or []), options.pop("tool_choice", None)
        grammar = options.pop("grammar", None)
        sampling = Sampling(
            max_tokens=options.pop("max_tokens", self.max_tokens),
            temperature=options.pop("temperature", self.temperature),
            seed=options.pop("seed", self.seed),
            stop=tuple(stop or ()),
        )
        unknown = [name for name, value in options.items() if value is not None and not name.startswith("ls_")]
        if unknown:
            raise ConfigError(f"LlmrecChat knows no option {unknown[0]!r}; use seed, temperature, max_tokens, tools")
        tools, forced = _chosen(tools, choice)
        if grammar is None and tools:
            grammar = self._tool_grammar(tools, forced)
        elif grammar is not None and grammar.kind not in self._engine.capabilities.constraints:
            raise UnsupportedError(f"{self._engine.name!r} does not support {grammar.kind!r} grammars")
        return _Order(messages=_plain_messages(messages), tools=tools, constraint=grammar, sampling=sampling)

    @property
    def _engine(self) -> LanguageModel:
        return cast(LanguageModel, self.lm)

    def _tool_grammar(self, tools: Sequence[Mapping[str, Any]], forced: bool) -> Constraint | None:
        if "lark" in self._engine.capabilities.constraints:
            return toolcalls.tool_grammar(tools, allow_text=not forced)
        if forced:
            raise UnsupportedError(f"{self._engine.name!r} has no grammars, so it cannot be forced to call a tool")
        return None  # the model may still call; broken calls come back as invalid_tool_calls

    async def _answer(self, order: _Order) -> Completion:
        completions = await self._engine.generate(
            order.messages,
            sampling=order.sampling,
            tools=order.tools,
            constraint=order.constraint,
            adapter=self.adapter,
        )
        return completions[0]

    def _message(self, order: _Order, completion: Completion) -> AIMessage:
        parsed = toolcalls.parse(completion.raw or completion.text, fenced=bool(order.tools), tools=order.tools)
        if not completion.tool_calls and parsed.calls:  # the engine does not mend calls
            completion = replace(completion, text=parsed.text, tool_calls=parsed.calls, repairs=parsed.repairs)
        return AIMessage(
            content=completion.text,
            tool_calls=[
                tool_call(name=call.name, args=dict(call.arguments), id=_call_id(completion, index))
                for index, call in enumerate(completion.tool_calls)
            ],
            invalid_tool_calls=[
                invalid_tool_call(name=None, args=body, id=None, error="not a valid call") for body in parsed.broken
            ],
            usage_metadata=self._usage(order, completion),
            response_metadata=self._metadata(completion),
        )

    def _metadata(self, completion: Completion) -> dict[str, Any]:
        reason = "tool_calls" if completion.tool_calls else completion.finish_reason
        metadata = {"finish_reason": reason, "logprob": completion.logprob, "model_name": self._engine.name}
        return metadata | ({"repairs": list(completion.repairs)} if completion.repairs else {})

    def _usage(self, order: _Order, completion: Completion) -> UsageMetadata | None:
        if not isinstance(self.lm, CountsTokens):
            return None
        read = self.lm.count_tokens(order.messages, order.tools)
        written = completion.n_tokens
        return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        order = self._order(messages, stop, kwargs)
        message = self._message(order, await self._answer(order))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _run(self._agenerate(messages, stop, None, **kwargs))

    # ---- streaming

    async def _chunks(self, order: _Order) -> AsyncIterator[ChatGenerationChunk]:
        show = MarkupFilter()
        shown = ""
        completion: Completion | None = None
        async for piece in self._pieces(order):
            completion = piece.completion or completion
            text = show.feed(piece.text, last=piece.completion is not None)
            if text:
                shown += text
                yield ChatGenerationChunk(message=AIMessageChunk(content=text))
        assert completion is not None
        message = self._message(order, completion)
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                tool_call_chunks=[
                    tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
                    for index, call in enumerate(message.tool_calls)
                ],
                usage_metadata=message.usage_metadata,
                response_metadata=message.response_metadata,
                chunk_position="last",
            )
        )

    async def _pieces(self, order: _Order) -> AsyncIterator[Piece]:
        if isinstance(self.lm, Streaming):
            stream = self.lm.stream(
                order.messages,
                sampling=order.sampling,
                tools=order.tools,
                constraint=order.constraint,
                adapter=self.adapter,
            )
            async for piece in stream:
                yield piece
        else:
            completion = await self._answer(order)
            yield Piece(completion.raw or completion.text, completion)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in self._chunks(self._order(messages, stop, kwargs)):
            if run_manager and chunk.text:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in _iterate(self._chunks(self._order(messages, stop, kwargs))):
            if run_manager and chunk.text:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def _call_id(completion: Completion, index: int) -> str:
    """An id that is the same in every run: transcripts of two runs with one seed are equal."""
    return f"call_{derive(index, completion.raw or completion.text):016x}"


def _chosen(tools: list[dict[str, Any]], choice: ToolChoice) -> tuple[list[dict[str, Any]], bool]:
    """The tools that may be called, and whether one must be."""
    if isinstance(choice, Mapping):
        choice = cast(str, function_of(choice)["name"])
    if choice == "none":
        return [], False
    if choice in (None, False, "auto"):
        return tools, False
    if choice in (True, "any", "required"):
        return tools, True
    named = [tool for tool in tools if function_of(tool)["name"] == choice]
    if not named:
        known = ", ".join(str(function_of(tool)["name"]) for tool in tools) or "none"
        raise ConfigError(f"no tool of this name is bound, got tool_choice {choice!r}; bound: {known}")
    return named, True


def _plain_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """OpenAI messages with arguments as objects and content as text, as chat templates want them."""
    plain: list[dict[str, Any]] = []
    for message in convert_to_openai_messages(list(messages), text_format="string"):
        copied = dict(message)
        if not isinstance(copied.get("content"), str):
            kinds = {part.get("type") for part in copied.get("content") or []}
            if kinds - {"text"}:
                raise ConfigError(f"only text messages are supported, got content of type {sorted(map(str, kinds))}")
            copied["content"] = "".join(part["text"] for part in copied.get("content") or [])
        for call in copied.get("tool_calls") or []:
            arguments = call["function"]["arguments"]
            call["function"]["arguments"] = json.loads(arguments) if isinstance(arguments, str) else arguments
        plain.append(copied)
    return plain


def _parse(message: AIMessage, schema: dict[str, Any] | type) -> Any:
    text = str(message.text)
    if message.response_metadata.get("finish_reason") == "length":
        raise OutputError(f"the answer was cut at max_tokens, so its JSON is not complete; got {text[:200]!r}")
    try:
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            return schema.model_validate_json(text)
        return json.loads(text)
    except (ValidationError, ValueError) as error:
        raise OutputError(f"the answer does not follow the schema: {error}; got {text[:200]!r}") from error


def _parse_quietly(message: AIMessage, schema: dict[str, Any] | type) -> dict[str, Any]:
    try:
        return {"raw": message, "parsed": _parse(message, schema), "parsing_error": None}
    except OutputError as error:
        return {"raw": message, "parsed": None, "parsing_error": error}


def _run(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a coroutine from synchronous code, also below a running event loop (then on a thread of its own)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    results: list[ResultT] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=target, name="llmrec-chat")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _iterate(items: AsyncIterator[ResultT]) -> Iterator[ResultT]:
    """Iterate from synchronous code; the async iterator runs on a thread of its own, one item ahead."""
    handed: queue.Queue[tuple[Literal["item", "error", "end"], Any]] = queue.Queue(maxsize=1)
    left = threading.Event()

    async def pump() -> None:
        async for item in items:
            if left.is_set():
                return
            handed.put(("item", item))

    def target() -> None:
        try:
            asyncio.run(pump())
            handed.put(("end", None))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            handed.put(("error", error))

    thread = threading.Thread(target=target, name="llmrec-stream", daemon=True)
    thread.start()
    try:
        while (entry := handed.get())[0] == "item":
            yield entry[1]
        if entry[0] == "error":
            raise entry[1]
    finally:
        left.set()
        while thread.is_alive():  # the pump may wait to hand over one last item
            try:
                handed.get(timeout=0.01)
            except queue.Empty:
                thread.join(timeout=0.01)
