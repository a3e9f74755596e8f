"""Reads tool calls and JSON that chat models write almost right, and says what it mended.

A model that was told about tools may fence its call, wrap it, call its fields otherwise, or write it as Python. What is
read that way passes only if it names a known tool and its arguments follow the tool's schema: a repair must never make
a call up. Text that ends inside a value stays broken, because nobody knows what was to follow.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import json_repair
import jsonschema

from llmrec.lm.protocol import ToolCall
from llmrec.lm.schemas import closed_schema, function_of

_NAMES = ("name", "tool", "tool_name", "function", "function_name", "method", "action")
_ARGUMENTS = ("arguments", "args", "parameters", "params", "input")
_WRAPPERS = ("tool_calls", "calls", "function_call", "tool_call")
_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(?P<body>.*?)(?:```|\Z)", re.DOTALL)
_TAGGED = re.compile(r"<(tools|function_call|tool)>\s*(?P<body>.*?)\s*(?:</\1>|\Z)", re.DOTALL)
_STRING = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'", re.DOTALL)
_KEYWORD = re.compile(r"(?<=[(,])(\s*[A-Za-z_]\w*\s*):")
_CONSTANTS = {"true": True, "false": False, "null": None}


class Mended(NamedTuple):
    """A JSON object, and what was mended to read it."""

    value: dict[str, Any]
    repairs: tuple[str, ...]


class Found(NamedTuple):
    """Tool calls in a piece of text."""

    calls: tuple[ToolCall, ...]
    broken: tuple[str, ...]
    """Pieces that name a known tool but are no valid call."""
    repairs: tuple[str, ...]
    text: str
    """What is left for people."""


class _Unreadable(Exception):
    """Raised and caught in this module alone."""


def read_object(text: str) -> Mended | None:
    """The JSON object in a text: as it stands, in a fence, or in prose; None when there is none.

    A text that ends inside a value is no object.
    """
    fence = _FENCE.search(text)
    body, repairs = (fence["body"], ("fenced",)) if fence else (text, ())
    try:
        value, mended = _json(body)
    except _Unreadable:
        return None
    return Mended(value, (*repairs, *mended)) if isinstance(value, dict) else None


def read_body(body: str, tools: Sequence[Mapping[str, Any]]) -> tuple[list[ToolCall], tuple[str, ...]] | None:
    """The calls in what a model wrote where a call belongs; None when it is not made of valid calls."""
    try:
        return _calls_of(body, _Known(tools))
    except _Unreadable:
        return None


def find_calls(text: str, tools: Sequence[Mapping[str, Any]]) -> Found:
    """Calls that were written without the markup: in fences, under other marks, as bare JSON, as Python.

    Args:
        tools: OpenAI function schemas; nothing but calls of these is read.
    """
    known = _Known(tools)
    for pieces, repair in (
        (_TAGGED.finditer(text), "other markup"),
        (_FENCE.finditer(text), "fenced"),
    ):
        found = _collect(text, [(match.span(), match["body"]) for match in pieces], known, repair)
        if found.calls or found.broken:
            return found
    bare = [(span, text[slice(*span)]) for span in _bare_json(text)]
    found = _collect(text, bare, known, "no markup")
    if found.calls or found.broken:
        return found
    return _python_calls(text, known)


class _Known:
    """The tools, by name."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        functions = [function_of(tool) for tool in tools]
        self.schemas = {
            str(f["name"]): json.dumps(
                closed_schema({"type": "object", "properties": {}, **(f.get("parameters") or {})})
            )
            for f in functions
        }
        self._folded = {_fold(name): name for name in self.schemas}

    def name(self, written: object) -> str | None:
        """The tool that is meant: the exact name, or but for case and separators."""
        if not isinstance(written, str):
            return None
        return written if written in self.schemas else self._folded.get(_fold(written.removeprefix("functions.")))

    def properties(self, name: str) -> list[str]:
        """Argument names in order."""
        return list(json.loads(self.schemas[name])["properties"])

    def call(self, name: str, arguments: object) -> ToolCall:
        """The call, checked."""
        if not isinstance(arguments, dict) or not _validator(self.schemas[name]).is_valid(arguments):
            raise _Unreadable
        return ToolCall(name, arguments)


@lru_cache(maxsize=256)
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(schema))


def _fold(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


# --- JSON


def _json(body: str) -> tuple[Any, tuple[str, ...]]:
    try:
        return json.loads(body), ()
    except (ValueError, RecursionError):
        pass
    start = min((place for mark in "{[" if (place := body.find(mark)) >= 0), default=-1)
    if start < 0:
        raise _Unreadable
    try:
        value, end = json.JSONDecoder().raw_decode(body[start:])
    except (ValueError, RecursionError):
        pass
    else:
        return value, () if not body[start + end :].strip() and not body[:start].strip() else ("text around",)
    if _ends_inside_a_value(body[start:]):
        raise _Unreadable
    try:
        return json_repair.loads(body[start:], skip_json_loads=True), ("json",)
    except (ValueError, RecursionError) as error:  # nested beyond reason
        raise _Unreadable from error


def _ends_inside_a_value(body: str) -> bool:
    """Whether a text that stops early stops where more was to come: in a string, after a colon or after a comma."""
    outside = _STRING.sub("0", body).rstrip()
    if re.search(r":\s*[,}\]]", outside):
        return True  # a value is missing
    depth = sum(outside.count(mark) for mark in "{[") - sum(outside.count(mark) for mark in "}]")
    if depth <= 0:
        return False
    in_a_list = outside.rfind("[") > outside.rfind("]") and not outside.endswith("}")  # whole calls count
    in_a_string = re.search(r"[\"'][^\"']*\Z", outside) is not None
    # a number may go on; strings stand for 0 above, so look at the text itself
    in_a_number = re.search(r"[\d.\-+eE]\Z", body.rstrip()) is not None
    return outside.endswith((":", ",", "{", "[")) or in_a_list or in_a_string or in_a_number


def _bare_json(text: str) -> Iterator[tuple[int, int]]:
    """Spans of what looks like objects and lists in prose: balanced, or to the end of the text."""
    place = 0
    while (match := re.compile(r"[{\[]").search(text, place)) is not None:
        end = _balanced_end(text, match.start())
        yield match.start(), end
        place = end


def _balanced_end(text: str, start: int) -> int:
    depth = 0
    for match in re.compile(rf"{_STRING.pattern}|[{{}}\[\]()]", re.DOTALL).finditer(text, start):
        depth += (match[0] in "{[(") - (match[0] in "}])") if len(match[0]) == 1 else 0
        if depth == 0:
            return match.end()
    return len(text)


def _collect(text: str, pieces: Sequence[tuple[tuple[int, int], str]], known: _Known, repair: str) -> Found:
    calls: list[ToolCall] = []
    broken: list[str] = []
    repairs: list[str] = []
    used: list[tuple[int, int]] = []
    for span, body in pieces:
        try:
            read, mended = _calls_of(body, known)
        except _Unreadable:
            if _names_a_tool(body, known):
                broken.append(body.strip())
                used.append(span)
            continue
        calls += read
        repairs += [repair, *mended]
        used.append(span)
    return Found(tuple(calls), tuple(broken), tuple(dict.fromkeys(repairs)), _without(text, used))


def _names_a_tool(body: str, known: _Known) -> bool:
    """Whether a piece of JSON that is no call was meant as one: a tool's name stands where a name or a key belongs."""
    fields = "|".join(_NAMES)
    named = re.search(rf"[\"']?(?:{fields})[\"']?\s*:\s*[\"']([\w.-]+)[\"']", body)
    if named is not None and known.name(named[1]) is not None:
        return True
    return any(known.name(match[1]) is not None for match in re.finditer(r"[\"'](\w+)[\"']\s*:", body))


def _without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    if not spans:
        return text
    kept, place = [], 0
    for start, end in spans:
        kept.append(text[place:start])
        place = end
    return "".join([*kept, text[place:]]).strip()


def _calls_of(body: str, known: _Known) -> tuple[list[ToolCall], tuple[str, ...]]:
    if len(rows := _json_lines(body)) > 1:
        each = [_calls_of(row, known) for row in rows]
        return [call for calls, _ in each for call in calls], tuple(
            dict.fromkeys(["several", *(name for _, repairs in each for name in repairs)])
        )
    try:
        value, repairs = _json(body)
    except _Unreadable:
        python = _python_calls(body, known)
        if not python.calls or python.broken:
            raise
        return list(python.calls), python.repairs
    named: list[str] = []
    calls = [_call(one, known, named) for one in _entries(value, named)]
    if not calls:
        raise _Unreadable
    return calls, tuple(dict.fromkeys((*repairs, *named)))


def _json_lines(body: str) -> list[str]:
    """The objects of a body that holds several, one after another; else the body alone."""
    spans = list(_bare_json(body))
    between = "".join(body[a[1] : b[0]] for a, b in itertools.pairwise(spans))
    several = len(spans) > 1 and not between.strip(" \n\r\t,;") and not body[: spans[0][0]].strip()
    return [body[slice(*span)] for span in spans] if several else [body]


def _entries(value: Any, repairs: list[str]) -> Iterator[Any]:
    """The objects that should be calls: of a list, of a wrapper, or the value itself."""
    if isinstance(value, list):
        repairs.append("list")
        for one in value:
            yield from _entries(one, [])
        return
    wrapped = next(
        (key for key in _WRAPPERS if isinstance(value, dict) and isinstance(value.get(key), list | dict)), None
    )
    if wrapped is None:
        yield value
        return
    repairs.append("wrapped")
    yield from _entries(value[wrapped], [])


def _call(value: Any, known: _Known, repairs: list[str]) -> ToolCall:
    if not isinstance(value, dict):
        raise _Unreadable
    if isinstance(value.get("function"), dict):  # OpenAI's nesting
        value = value["function"]
        repairs.append("nested")
    key = next((key for key in _NAMES if known.name(value.get(key)) is not None), None)
    if key is None:
        return _keyed(value, known, repairs)
    name = known.name(value[key])
    assert name is not None
    if key != "name":
        repairs.append("field names")
    if value[key] != name:
        repairs.append("tool name")
    rest = {field: content for field, content in value.items() if field not in (key, "type", "id")}
    holder = next((field for field in _ARGUMENTS if field in rest), None)
    if holder is None:
        if rest:
            repairs.append("flat arguments")
        return known.call(name, rest)
    if holder != "arguments":
        repairs.append("field names")
    if set(rest) != {holder}:
        raise _Unreadable  # something was said that is in no argument
    return known.call(name, _object(rest[holder], repairs))


def _keyed(value: dict[str, Any], known: _Known, repairs: list[str]) -> ToolCall:
    """``{"search": {"query": "sea"}}``."""
    if len(value) != 1:
        raise _Unreadable
    [(key, arguments)] = value.items()
    name = known.name(key)
    if name is None:
        raise _Unreadable
    repairs.append("name as key")
    return known.call(name, arguments)


def _object(arguments: Any, repairs: list[str]) -> Any:
    if not isinstance(arguments, str):
        return arguments
    repairs.append("arguments as text")
    value, mended = _json(arguments)
    repairs += mended
    return value


# --- Python


def _python_calls(text: str, known: _Known) -> Found:
    """Lines that begin with a call of a tool, as Python writes it or with colons: ``search(query: "sea")``."""
    names = "|".join(re.escape(name) for name in sorted(known.schemas, key=len, reverse=True))
    opening = re.compile(
        rf"^[ \t]*(?:(?:[-*]|\d+\.) +)?`?(?P<call>(?:functions\.)?({names})\()", re.MULTILINE | re.IGNORECASE
    )
    calls: list[ToolCall] = []
    broken: list[str] = []
    repairs: list[str] = []
    used: list[tuple[int, int]] = []
    for match in opening.finditer(text):
        start = match.start("call")
        if used and start < used[-1][1]:
            continue
        end = _balanced_end(text, match.end("call") - 1)
        if re.match(r"[ \t]*[`;,)]*[ \t]*(?:#.*)?(?:\n|\Z)", text[end:]) is None:
            continue  # "- search(query): adds what matches": a description, not a call
        used.append((match.start(), end))
        name = known.name(match[2])
        assert name is not None
        try:
            calls.append(known.call(name, _python_arguments(text[match.end("call") - 1 : end], known.properties(name))))
        except _Unreadable:
            broken.append(text[start:end])
            continue
        repairs += ["python call", *(["tool name"] if match[2] != name else [])]
    return Found(tuple(calls), tuple(broken), tuple(dict.fromkeys(repairs)), _without(text, used))


def _python_arguments(text: str, properties: list[str]) -> dict[str, Any]:
    """The arguments in ``(...)``; positional ones take the schema's order."""
    try:
        parsed = ast.parse(f"call{_with_equals(text)}", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise _Unreadable from error
    if not isinstance(parsed, ast.Call) or len(parsed.args) > len(properties):
        raise _Unreadable
    pairs = [*zip(properties, parsed.args, strict=False), *((one.arg, one.value) for one in parsed.keywords)]
    names = [name for name, _ in pairs]
    if None in names or len(set(names)) != len(names):
        raise _Unreadable
    return {str(name): _literal(value) for name, value in pairs}


def _with_equals(text: str) -> str:
    """Colons after argument names as equals signs; strings stay as they are."""
    strings = _STRING.findall(text)
    bare = _KEYWORD.sub(r"\1=", _STRING.sub("\0", text))
    for string in strings:
        bare = bare.replace("\0", string, 1)
    return bare


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise _Unreadable from error
