"""Tool calls as text: the Qwen family's markup, its parser and its grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from llmrec.errors import ConfigError
from llmrec.lm.protocol import Constraint, ToolCall

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


def _call(body: str) -> ToolCall | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    function = value.get("function")
    if isinstance(function, dict):  # OpenAI's nesting
        value = function
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(name=name, arguments=arguments)


def parse(raw: str, *, fenced: bool = False) -> Parsed:
    """Split model text into prose and tool calls.

    Args:
        raw: text with markup.
        fenced: also read fenced JSON objects with a name and arguments as calls, as some chat models write them.
    """
    calls: list[ToolCall] = []
    broken: list[str] = []
    for match in _CALL.finditer(raw):
        call = _call(match[1])
        if call is None:
            broken.append(match[1])
        else:
            calls.append(call)
    text = _CALL.sub("", raw)
    if fenced and not calls and not broken:
        found = [(match, call) for match in _FENCED.finditer(text) if (call := _call(match[1])) is not None]
        calls = [call for _, call in found]
        for match, _ in found:
            text = text.replace(match[0], "")
    return Parsed(text.strip() if calls or broken else text, tuple(calls), tuple(broken))


def function_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function schema inside an OpenAI tool (or the schema itself).

    Raises:
        ConfigError: it has no name.
    """
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ConfigError(f"a tool needs a function with a name, got {tool!r}")
    return function


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


def closed_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema whose objects take no properties but those they name.

    JSON schema allows unknown properties unless told not to; a grammar would then let the model invent them.
    """

    def close(value: Any) -> Any:
        if isinstance(value, list):
            return [close(entry) for entry in value]
        if not isinstance(value, Mapping):
            return value
        closed = {key: close(entry) for key, entry in value.items()}
        if closed.get("type") == "object" and isinstance(closed.get("properties"), dict):
            closed.setdefault("additionalProperties", False)
        return closed

    return cast(dict[str, Any], close(schema))


def _arguments_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": {}, **(function.get("parameters") or {})}
    return {**closed_schema(schema), "x-guidance": JSON_STYLE}
