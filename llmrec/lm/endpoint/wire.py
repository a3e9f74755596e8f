"""The OpenAI wire format: requests that every server reads, and answers as completions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from llmrec.errors import ConfigError, ModelError
from llmrec.lm import toolcalls
from llmrec.lm.protocol import Completion, Message, Sampling

ANSWER = "answer"
"""Name of an answer's schema, and of the property that wraps a choice where the API takes objects only."""


class Sample(NamedTuple):
    """One answer as the server gave it."""

    content: str
    calls: tuple[tuple[str, str], ...]
    """Tool calls that the server has parsed: name and arguments as JSON text."""
    finish_reason: str | None
    logprobs: tuple[float, ...] | None
    """Of the new tokens; None where the server gives none."""
    n_tokens: int | None


def messages_for_wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Chat messages in the API's form: arguments as JSON text, and an id on every call and tool answer."""
    wired: list[dict[str, Any]] = []
    waiting: list[str] = []  # ids of calls whose answers are still to come
    for place, message in enumerate(messages):
        copied = dict(message)
        if copied.get("tool_calls"):
            copied["tool_calls"] = [
                _call_for_wire(call, f"call_{place}_{index}") for index, call in enumerate(copied["tool_calls"])
            ]
            waiting = [call["id"] for call in copied["tool_calls"]]
            copied.setdefault("content", None)
        if copied.get("role") == "tool" and not copied.get("tool_call_id"):
            copied["tool_call_id"] = waiting.pop(0) if waiting else f"call_{place}_0"
        wired.append(copied)
    return wired


def _call_for_wire(call: Mapping[str, Any], new_id: str) -> dict[str, Any]:
    function = dict(call.get("function", call))
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    wired = {"name": function.get("name"), "arguments": arguments}
    return {"id": call.get("id") or new_id, "type": "function", "function": wired}


def json_schema_format(schema: Any) -> dict[str, Any]:
    """`response_format` for a JSON schema."""
    return {"type": "json_schema", "json_schema": {"name": ANSWER, "strict": True, "schema": schema}}


def choice_schema(options: Sequence[str]) -> dict[str, Any]:
    """A choice as the object that strict schemas take."""
    choice = {"type": "string", "enum": list(options)}
    return {"type": "object", "properties": {ANSWER: choice}, "required": [ANSWER], "additionalProperties": False}


def options_of(value: Any) -> list[str]:
    """The texts of a choice.

    Raises:
        ConfigError: not a sequence of texts, or an empty one.
    """
    good = isinstance(value, Sequence) and not isinstance(value, str) and value
    if not good or not all(isinstance(option, str) and option for option in value):
        raise ConfigError(f"a choice needs a sequence of non-empty texts, got {value!r}")
    return list(value)


def read_sample(answer: Mapping[str, Any]) -> Sample:
    """The sample in a completion or chat completion.

    Raises:
        ModelError: the answer has not the API's form.
    """
    try:
        choice = answer["choices"][0]
        message = choice.get("message")
        logprobs = entries(choice.get("logprobs"))
        content = choice["text"] if message is None else message.get("content")
        calls = () if message is None else tuple(_calls(message.get("tool_calls") or ()))
        if not isinstance(content, str | None):
            raise TypeError(f"the content is {type(content).__name__} and not text")
        return Sample(content or "", calls, choice.get("finish_reason"), logprobs, n_new(answer.get("usage")))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"the server's answer has not the form of a completion ({type(error).__name__}: {error}); "
            "is it an OpenAI-compatible server?"
        ) from error


def n_new(usage: Any) -> int | None:
    """New tokens as a usage object tells them; None where it does not."""
    value = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) else None


def tokens_of(answer: Mapping[str, Any]) -> list[int]:
    """The tokens that a server's tokenizer made of a text.

    Raises:
        ModelError: the answer holds none.
    """
    try:
        return [int(token) for token in answer["tokens"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the server's tokens cannot be read ({error!r}); update the server") from error


def _calls(calls: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    found = []
    for call in calls:
        arguments = call["function"].get("arguments") or "{}"
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        found.append((str(call["function"]["name"]), text))
    return found


def entries(logprobs: Mapping[str, Any] | None) -> tuple[float, ...] | None:
    """Log-probabilities of the new tokens, in the chat form or in the older one of text completions."""
    if not logprobs:
        return None
    if logprobs.get("content") is not None:
        return tuple(float(entry["logprob"]) for entry in logprobs["content"])
    if logprobs.get("token_logprobs") is not None:
        return tuple(math.nan if value is None else float(value) for value in logprobs["token_logprobs"])
    return None


def completion(sample: Sample, sampling: Sampling, *, tools: Sequence[Mapping[str, Any]]) -> Completion:
    """The completion that a sample is.

    Its log-probability is NaN unless the server gave one for every new token (some leave the end token out).

    Raises:
        ModelError: the sample did not come to an end, or the server does not say how many tokens it has.
    """
    reason = finish_reason(sample.finish_reason)
    if sample.n_tokens is None:
        raise ModelError("the server does not report usage.completion_tokens; use an OpenAI-compatible server")
    raw, cut = cut_at_stop(with_markup(sample), sampling.stop)
    parsed = toolcalls.parse(raw, tools=tools)
    complete = sample.logprobs is not None and len(sample.logprobs) == sample.n_tokens and not cut
    return Completion(
        text=parsed.text,
        logprob=sum(sample.logprobs or ()) if complete else math.nan,
        n_tokens=sample.n_tokens,
        finish_reason="stop" if cut else reason,
        tool_calls=parsed.calls,
        raw=raw,
        repairs=parsed.repairs,
    )


def with_markup(sample: Sample) -> str:
    """The text with the calls that the server parsed written out again."""
    return sample.content + "".join(call_markup(name, arguments) for name, arguments in sample.calls)


def call_markup(name: str, arguments: str) -> str:
    """A parsed call as text; arguments that are no JSON make a broken call, as they should."""
    body = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments}}}'
    return f"{toolcalls.OPEN}\n{body}\n{toolcalls.CLOSE}"


def cut_at_stop(raw: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop text, and whether there was one."""
    cuts = [place for stop in stops if (place := raw.find(stop)) >= 0]
    return (raw[: min(cuts)], True) if cuts else (raw, False)


def finish_reason(value: str | None) -> Literal["stop", "length"]:
    """This package's word for why a sample ended.

    Raises:
        ModelError: it did not come to an end.
    """
    if value in ("stop", "tool_calls", "function_call"):
        return "stop"
    if value == "length":
        return "length"
    if value is None:
        raise ModelError("the server stopped in the middle of an answer; look at its log")
    raise ModelError(f"the server did not finish the answer, its reason is {value!r}; change the prompt or the server")
