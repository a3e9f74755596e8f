"""Tool calls as text: the Qwen family's markup, its parser and its grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llmrec.errors import ConfigError
from llmrec.lm.protocol import Constraint, ToolCall
from llmrec.lm.repair import Found, find_calls, read_body
from llmrec.lm.schemas import closed_schema, function_of

JSON_STYLE = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}
"""How grammars write JSON: as `json.dumps` does, the form that models are trained on."""

OPEN, CLOSE = "<tool_call>", "</tool_call>"

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_FENCED = re.compile(r"```(?:json|tool_call)?\s*(\{.*?\})\s*```", re.DOTALL)


class Parsed(NamedTuple):
    """Model text, split."""

    text: str
    """What is left for people, without markup."""
    calls: tuple[ToolCall, ...]
    broken: tuple[str, ...]
    """Bodies of calls that are not valid calls."""
    repairs: tuple[str, ...] = ()
    """What was mended so that the calls could be read, one name each (`llmrec.lm.repair`)."""


def _call(body: str) -> tuple[ToolCall, tuple[str, ...]] | None:
    """A call in JSON, in one of the forms that are read without knowing the tools."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    repairs: list[str] = []
    function = value.get("function")
    if isinstance(function, dict):  # OpenAI's nesting
        value = function
        repairs.append("nested")
    if "arguments" not in value and "parameters" in value:
        repairs.append("field names")
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        repairs.append("arguments as text")
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(name=name, arguments=arguments), tuple(repairs)


def parse(raw: str, *, fenced: bool = False, tools: Sequence[Mapping[str, Any]] = ()) -> Parsed:
    """Split model text into prose and tool calls.

    Args:
        raw: text with markup.
        fenced: also read fenced JSON objects with a name and arguments as calls, as some chat models write them.
        tools: OpenAI function schemas that the model was shown. With them, calls that are almost right are mended and
            checked against these schemas, whether they stand in the markup, in fences, as bare JSON or as Python; what
            was mended is in `repairs`.
    """
    calls: list[ToolCall] = []
    broken: list[str] = []
    repairs: list[str] = []
    for match in _CALL.finditer(raw):
        read, mended = _body(match[1], tools)
        calls += read
        repairs += mended
        broken += [] if read else [match[1]]
    text = _CALL.sub("", raw)
    if not calls and not broken and (fenced or tools):
        found = find_calls(text, tools) if tools else _fenced_calls(text)
        return Parsed(found.text, found.calls, found.broken, found.repairs)
    return Parsed(text.strip() if calls or broken else text, tuple(calls), tuple(broken), tuple(dict.fromkeys(repairs)))


def _body(body: str, tools: Sequence[Mapping[str, Any]]) -> tuple[Sequence[ToolCall], Sequence[str]]:
    """The calls inside one pair of marks, and what was mended.

    A well-formed call passes whatever it names: who runs it knows the tools, and tells the model what is wrong with it.
    """
    plain = _call(body)
    known = {function_of(tool)["name"] for tool in tools}
    if plain is not None and (not known or plain[0].name in known):
        return [plain[0]], plain[1]
    mended = read_body(body, tools) if tools else None
    if mended is not None:
        return mended
    return ([plain[0]], plain[1]) if plain is not None else ([], ())


def _fenced_calls(text: str) -> Found:
    found = [(match, read) for match in _FENCED.finditer(text) if (read := _call(match[1])) is not None]
    left = text
    for match, _ in found:
        left = left.replace(match[0], "")
    repairs = ["fenced", *(name for _, (_, mended) in found for name in mended)] if found else []
    calls = tuple(call for _, (call, _) in found)
    return Found(calls, (), tuple(dict.fromkeys(repairs)), left.strip() if found else left)


def tool_grammar(tools: Sequence[Mapping[str, Any]], *, allow_text: bool, max_calls: int = 1) -> Constraint:
    """Grammar of an answer that calls one of these tools.

    Args:
        tools: OpenAI function schemas.
        allow_text: whether prose (without the character "<") may stand before or in place of the call.
        max_calls: most calls in one answer.

    Returns:
        A `lark` constraint; every call names a known tool and its arguments follow the tool's schema.
    """
    if not tools:
        raise ConfigError("a tool grammar needs at least one tool, got none")
    functions = [function_of(tool) for tool in tools]
    bodies = " | ".join(f"tool_{index}" for index in range(len(functions)))
    more = f' ("\\n" call){{0,{max_calls - 1}}}' if max_calls > 1 else ""
    lines = [f"calls: call{more}", f"call: {OPEN} /\\n/ body /\\n/ {CLOSE}", f"body: {bodies}"]
    if allow_text:
        lines = ["start: TEXT | calls | TEXT calls", *lines]
        # Prose without "<": where the mark is plain text, a longer match would swallow it, and a malformed call pass.
        lines.append("TEXT: /[^<]+/")
    else:
        lines = ["start: calls", *lines]
    for index, function in enumerate(functions):
        head = json.dumps(f'{{"name": {json.dumps(function["name"])}, "arguments": ')
        lines.append(f'tool_{index}: {head} args_{index} "}}"')
        lines.append(f"args_{index}: %json {json.dumps(_arguments_schema(function))}")
    return Constraint("lark", "\n".join(lines))


def _arguments_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": {}, **(function.get("parameters") or {})}
    return {**closed_schema(schema), "x-guidance": JSON_STYLE}
