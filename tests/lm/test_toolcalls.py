"""Tool-call markup: parsing, grammars, and tokenizers with and without the mark as a token."""

from __future__ import annotations

import asyncio

import pytest

from llmrec.errors import ConfigError
from llmrec.lm.constraints import GrammarCompiler
from llmrec.lm.local import LocalLM
from llmrec.lm.protocol import Constraint, Sampling, ToolCall
from llmrec.lm.schemas import closed_schema
from llmrec.lm.toolcalls import parse, tool_grammar
from tests.lm.conftest import SPECIALS, make_model, make_tokenizer

SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "maxLength": 5}, "kind": {"enum": ["film", "person"]}},
            "required": ["query"],
        },
    },
}
RANK = {"type": "function", "function": {"name": "rank", "parameters": {"type": "object", "properties": {}}}}
CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "sea"}}\n</tool_call>'


def test_prose_and_calls_are_split() -> None:
    parsed = parse(f"Let me look.\n{CALL}\n{CALL}")
    assert parsed.text == "Let me look."
    assert parsed.calls == (ToolCall("search", {"query": "sea"}),) * 2
    assert parsed.broken == ()


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "search", "arguments": "{\\"query\\": \\"sea\\"}"}',
        '{"name": "search", "parameters": {"query": "sea"}}',
        '{"type": "function", "function": {"name": "search", "arguments": {"query": "sea"}}}',
    ],
)
def test_common_variants_are_read(body: str) -> None:
    expected = (ToolCall("search", {"query": "sea"}),)
    assert parse(f"<tool_call>{body}</tool_call>").calls == expected
    assert parse(f"<tool_call>\n{body}").calls == expected  # the end mark was the stop token
    assert parse(f"I call:\n```json\n{body}\n```", fenced=True).calls == expected
    assert parse(f"I call:\n```json\n{body}\n```").calls == ()


@pytest.mark.parametrize(
    "body", ["", "search()", "[1]", '{"name": 3, "arguments": {}}', '{"name": "a", "arguments": [1]}']
)
def test_broken_calls_are_kept_apart(body: str) -> None:
    parsed = parse(f"Well. <tool_call>{body}</tool_call>")
    assert (parsed.text, parsed.calls, parsed.broken) == ("Well.", (), (body,))


def test_plain_text_is_left_alone() -> None:
    assert parse(" a < b, {json} ```x``` ", fenced=True).text == " a < b, {json} ```x``` "


@pytest.mark.parametrize("specials", [SPECIALS, SPECIALS[:3]], ids=["mark is a token", "mark is text"])
@pytest.mark.parametrize("allow_text", [False, True])
def test_a_random_model_only_makes_valid_calls(specials: tuple[str, ...], allow_text: bool) -> None:
    tokenizer = make_tokenizer(specials)
    lm = LocalLM(make_model(tokenizer, seed=3), tokenizer, name="tiny")
    grammar = tool_grammar([SEARCH, RANK], allow_text=allow_text)
    sampling = Sampling(n=10, max_tokens=60 if allow_text else 120, temperature=5.0, seed=2)
    completions = asyncio.run(lm.generate("Heat", constraint=grammar, sampling=sampling))
    if not allow_text:
        assert all(len(completion.tool_calls) == 1 for completion in completions)
        assert {completion.tool_calls[0].name for completion in completions} == {"search", "rank"}
    for completion in completions:
        assert completion.finish_reason == "stop" or allow_text
        assert completion.finish_reason == "length" or not parse(completion.raw).broken
        for call in completion.tool_calls:
            assert set(call.arguments) <= ({"query", "kind"} if call.name == "search" else set())


@pytest.mark.parametrize("specials", [SPECIALS, SPECIALS[:3]], ids=["mark is a token", "mark is text"])
def test_the_grammar_takes_prose_and_calls_and_nothing_malformed(specials: tuple[str, ...]) -> None:
    tokenizer = make_tokenizer(specials)
    ends = [tokenizer.eos_token_id]
    compiler = GrammarCompiler(tokenizer, n_vocabulary=len(tokenizer), end_tokens=ends)

    def accepts(text: str, *, allow_text: bool, max_calls: int = 1) -> bool:
        state = compiler.start(tool_grammar([SEARCH, RANK], allow_text=allow_text, max_calls=max_calls))
        tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], *ends]
        return int(state._matcher.validate_tokens(tokens)) == len(tokens)

    assert accepts(CALL, allow_text=False)
    assert accepts(CALL, allow_text=True)
    assert accepts(f"Let me look.\n{CALL}", allow_text=True)
    assert accepts("Just prose.\n", allow_text=True)
    assert not accepts(f"Let me look.\n{CALL}", allow_text=False)
    assert not accepts(f"{CALL}\n{CALL}", allow_text=False)
    assert accepts(f"{CALL}\n{CALL}", allow_text=False, max_calls=2)
    assert not accepts(CALL.replace("search", "delete"), allow_text=True)
    assert not accepts(CALL.replace("query", "sql"), allow_text=True)
    assert not accepts("Hm <tool_call>rank</tool_call>", allow_text=True)


def test_schemas_are_closed_throughout_unless_they_say_otherwise() -> None:
    inner = {"type": "object", "properties": {"a": {"type": "integer"}}}
    free = {"type": "object", "properties": {"a": {}}, "additionalProperties": True}
    closed = closed_schema({"type": "object", "properties": {"x": {"type": "array", "items": inner}, "y": free}})
    assert closed["additionalProperties"] is False
    assert closed["properties"]["x"]["items"]["additionalProperties"] is False
    assert closed["properties"]["y"]["additionalProperties"] is True


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("lark", "start: nowhere"),
        Constraint("lark", 7),
        Constraint("json_schema", {"type": "colour"}),
        Constraint("json_schema", "not a schema"),
        Constraint("json_schema", {"enum": {1, 2}}),
        Constraint("choice", ()),
        Constraint("choice", "abc"),
        Constraint("choice", [""]),
        Constraint("regex", "a+"),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_a_grammar_that_cannot_compile_is_a_config_error(lm: LocalLM, constraint: Constraint) -> None:
    with pytest.raises(ConfigError):
        asyncio.run(lm.generate("Heat", constraint=constraint))


def test_tools_need_names() -> None:
    with pytest.raises(ConfigError, match="name"):
        tool_grammar([{"type": "function", "function": {}}], allow_text=False)
    with pytest.raises(ConfigError, match="at least one"):
        tool_grammar([], allow_text=False)
