"""Almost-right tool calls: real answers of a small chat model, and what must never be read as a call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmrec.lm.protocol import ToolCall
from llmrec.lm.repair import read_object
from llmrec.lm.toolcalls import parse


def _tool(name: str, required: list[str], **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TEXT, NUMBER, TEXTS = {"type": "string"}, {"type": "integer"}, {"type": "array", "items": {"type": "string"}}
TOOLS = [
    _tool("search", ["query"], query=TEXT, n=NUMBER),
    _tool("recommend", ["n"], want=TEXTS, avoid=TEXTS, n=NUMBER),
    _tool("item_info", ["title"], title=TEXT),
]
SEA = (ToolCall("search", {"query": "sea"}),)
REAL = [json.loads(line) for line in Path(__file__).with_name("malformed_calls.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("case", REAL, ids=[f"{place}-{case['asked']}" for place, case in enumerate(REAL)])
def test_real_answers(case: dict[str, Any]) -> None:
    """Answers of Qwen2.5-Coder-1.5B-Instruct (Q4_K_M) at temperatures 0.7 to 1.3, asked for calls in several ways.

    The expected reading of each was decided by reading it: its calls, or that it is a call that cannot be trusted (cut
    inside a value, arguments that the tool has not), or that it is prose.
    """
    parsed = parse(case["raw"], fenced=True, tools=TOOLS)
    assert [[call.name, dict(call.arguments)] for call in parsed.calls] == case["calls"]
    assert bool(parsed.broken) == case["broken"]
    assert list(parsed.repairs) == case["repairs"]
    assert not parsed.calls or parsed.repairs  # nothing of this was read without a word


def test_the_collection_is_large_and_of_many_kinds() -> None:
    assert sum(bool(case["calls"]) or case["broken"] for case in REAL) >= 30
    assert len({repair for case in REAL for repair in case["repairs"]}) >= 6


@pytest.mark.parametrize(
    ("raw", "repair"),
    [
        ("```json\n{'name': 'search', 'arguments': {'query': 'sea',}}\n```", "json"),
        ('```\n{"name": "search", "arguments": {"query": "sea"} // look\n}\n```', "json"),
        ('<tool_call>{"name": "search", "arguments": {"query": "sea"}</tool_call>', "json"),
        ("<tool_call>search(query='sea')</tool_call>", "python call"),
        ('<tool_call>{"name": "Search", "arguments": {"query": "sea"}}</tool_call>', "tool name"),
        ('<tools>\n{"name": "search", "arguments": {"query": "sea"}}\n</tools>', "other markup"),
        ('I look: {"tool": "search", "args": {"query": "sea"}} now.', "no markup"),
        ('[{"name": "search", "arguments": {"query": "sea"}}]', "list"),
        ('{"search": {"query": "sea"}}', "name as key"),
        ('{"name": "search", "query": "sea"}', "flat arguments"),
        ('{"name": "search", "arguments": "{\\"query\\": \\"sea\\"}"}', "arguments as text"),
        ('{"tool_calls": [{"function": {"name": "search", "arguments": {"query": "sea"}}}]}', "wrapped"),
        ('search("sea")', "python call"),
        ('- `search(query: "sea")`', "python call"),
        ('functions.search(query="sea")', "python call"),
    ],
)
def test_what_is_mended_is_said(raw: str, repair: str) -> None:
    parsed = parse(raw, fenced=True, tools=TOOLS)
    assert parsed.calls == SEA
    assert not parsed.broken
    assert repair in parsed.repairs


def test_several_fences_are_several_calls() -> None:
    calls = [{"name": "search", "arguments": {"query": "sea"}}, {"name": "item_info", "arguments": {"title": "Heat"}}]
    raw = "First:\n```json\n{}\n```\nthen\n```json\n{}\n```\nDone.".format(*map(json.dumps, calls))
    parsed = parse(raw, fenced=True, tools=TOOLS)
    assert [call.name for call in parsed.calls] == ["search", "item_info"]
    assert parsed.text == "First:\n\nthen\n\nDone."


@pytest.mark.parametrize(
    "raw",
    [
        '{"name": "delete_all", "arguments": {}}',  # not a tool
        '{"name": "search", "arguments": {"query": "se',  # cut inside a value
        '{"name": "search", "arguments": {"query":',
        '{"name": "search", "arguments": {"query": "sea",',
        '{"name": "recommend", "arguments": {"n": 3, "want": ["a", "b',
        '{"name": "search", "arguments": {"query": 5}}',  # wrong type
        '{"name": "search", "arguments": {"query": "sea", "year": 1999}}',  # not an argument
        '{"name": "search", "arguments": {}}',  # a required argument is missing
        '{"name": "search", "arguments": {"query": "sea"}, "why": "because"}',
        "search(query=open('/etc/passwd').read())",  # not a literal
        "search(query=sea)",
        "search('sea', query='sky')",
        "search()",
        'search(query="sea"',
    ],
)
def test_what_cannot_be_trusted_is_no_call(raw: str) -> None:
    assert parse(raw, fenced=True, tools=TOOLS).calls == ()
    assert parse(f"<tool_call>{raw}</tool_call>", tools=TOOLS[1:]).calls in ((), _unknown(raw))


def _unknown(raw: str) -> tuple[ToolCall, ...]:
    """Well-formed calls in the markup pass whatever they name: who runs them answers with the tools there are."""
    try:
        value = json.loads(raw)
    except ValueError:
        return ()
    return (ToolCall(value["name"], value["arguments"]),)


@pytest.mark.parametrize(
    "raw",
    [
        "Hello! How can I help you?",
        "You could call search(query) with any words, or recommend().",
        "I will search (query: sea) for you.",
        'The films "Search" and "Heat" are {both} good [1].',
        'Use the tool "search" with want: ["Alien"].',
        '```json\n{"query": "sea", "n": 5}\n```',
        '```python\nprint("sea")\n```',
        '{"title": "Heat", "year": 1995}',
        "a < b, {json} ```x``` ",
        "[]",
        "",
    ],
)
def test_prose_and_other_json_are_left_alone(raw: str) -> None:
    parsed = parse(raw, fenced=True, tools=TOOLS)
    assert (parsed.text, parsed.calls, parsed.broken, parsed.repairs) == (raw, (), (), ())


@pytest.mark.parametrize(
    "piece", ["[", "{", '{"a":', "[1", "search(", "search(query=[", "`", "```json\n", "<tool_call>"]
)
def test_endless_nesting_is_no_call_and_no_crash(piece: str) -> None:
    for raw in (piece * 3000, f"<tool_call>{piece * 3000}", f"search(query={piece * 3000})"):
        assert parse(raw, fenced=True, tools=TOOLS).calls == ()
        assert parse(raw, fenced=True).calls == ()


def test_without_tools_nothing_is_mended() -> None:
    assert parse('search(query="sea")', fenced=True).calls == ()
    assert parse("<tool_call>{'name': 'search'}</tool_call>").broken == ("{'name': 'search'}",)


@pytest.mark.parametrize(
    ("text", "value", "repairs"),
    [
        ('{"turn": "new"}', {"turn": "new"}, ()),
        ('```json\n{"turn": "new"}\n```', {"turn": "new"}, ("fenced",)),
        ('Sure: {"turn": "new"} I hope so', {"turn": "new"}, ("text around",)),
        ("{'turn': 'new',}", {"turn": "new"}, ("json",)),
        ('{"turn": "ne', None, ()),
        ("no object", None, ()),
        ('["new"]', None, ()),
    ],
)
def test_objects_in_answers(text: str, value: dict[str, Any] | None, repairs: tuple[str, ...]) -> None:
    found = read_object(text)
    assert (None if found is None else found.value) == value
    assert found is None or found.repairs == repairs


def test_several_objects_in_one_block_are_several_calls() -> None:
    lines = '{"name": "search", "arguments": {"query": "sea"}}\n{"name": "search", "arguments": {"query": "ship"}}'
    for raw in (f"```json\n{lines}\n```", f"<tool_call>\n{lines}\n</tool_call>", lines):
        parsed = parse(raw, tools=TOOLS)
        assert [dict(call.arguments) for call in parsed.calls] == [{"query": "sea"}, {"query": "ship"}]
        assert parsed.broken == ()


@pytest.mark.parametrize(
    "raw",
    [
        '{"name": "search", "arguments": {"query": "sea", "n": 1',  # 1, 12 or 100
        '{"name": "search", "arguments": {"query": }}',
        "- search(query): finds items by words",
    ],
)
def test_what_was_never_said_is_not_made_up(raw: str) -> None:
    assert parse(raw, fenced=True, tools=TOOLS).calls == ()
