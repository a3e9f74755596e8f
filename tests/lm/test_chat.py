"""LlmrecChat: tools, structured output, streaming and messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from llmrec.errors import ConfigError, OutputError, UnsupportedError
from llmrec.lm.chat import LlmrecChat, MarkupFilter
from llmrec.lm.local import LocalLM
from llmrec.lm.protocol import Capabilities, Constraint
from llmrec.lm.scripted import Call, ScriptedLM

CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "sea"}}\n</tool_call>'


@tool
def search(query: Literal["sea", "ship", "thief"]) -> str:
    """Search for films."""
    return query


@tool
def rank(n: int) -> str:
    """Rank the pool."""
    return str(n)


class Wish(BaseModel):
    genre: Literal["comedy", "drama"]
    year: int = Field(ge=1900, le=1999)


class NoGrammars(ScriptedLM):
    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(super().capabilities.verbs, frozenset(), ())


def test_messages_reach_the_engine_with_arguments_as_objects() -> None:
    lm = ScriptedLM(["fine"])
    conversation = [
        SystemMessage("Be brief."),
        HumanMessage([{"type": "text", "text": "films about"}, {"type": "text", "text": "the sea"}]),
        AIMessage("", tool_calls=[{"name": "search", "args": {"query": "sea"}, "id": "c1"}]),
        ToolMessage("Jaws (1975)", tool_call_id="c1"),
    ]
    answer = LlmrecChat(lm=lm, seed=4, max_tokens=9).invoke(conversation, stop=["!"], temperature=0.5)
    assert answer.content == "fine"
    (call,) = lm.calls
    assert not isinstance(call.prompt, str)
    assert [message["role"] for message in call.prompt] == ["system", "user", "assistant", "tool"]
    assert call.prompt[1]["content"] == "films about\nthe sea"
    assert call.prompt[2]["tool_calls"][0]["function"] == {"name": "search", "arguments": {"query": "sea"}}
    assert (call.sampling.seed, call.sampling.max_tokens, call.sampling.temperature) == (4, 9, 0.5)
    assert call.sampling.stop == ("!",)


def test_a_real_model_is_held_to_the_tools(lm: LocalLM) -> None:
    chat = LlmrecChat(lm=lm, temperature=1.0, max_tokens=80, adapter="red")
    bound = chat.bind_tools([search, rank], tool_choice="any")
    names = set()
    for seed in range(6):
        answer = bound.invoke("a film about the sea", seed=seed)
        (call,) = answer.tool_calls
        names.add(call["name"])
        assert call["args"].get("query", "sea") in ("sea", "ship", "thief")
        assert answer.content == ""
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["input_tokens"] > 10
        assert answer.response_metadata["finish_reason"] == "tool_calls"
    assert names == {"search", "rank"}
    forced = chat.bind_tools([search, rank], tool_choice="rank").invoke("a film")
    assert [call["name"] for call in forced.tool_calls] == ["rank"]


def test_an_explicit_grammar_replaces_the_built_one(lm: LocalLM) -> None:
    only = Constraint(
        "lark", 'start: <tool_call> "\\n{\\"name\\": \\"rank\\", \\"arguments\\": {\\"n\\": 5}}\\n" </tool_call>'
    )
    answer = LlmrecChat(lm=lm).bind_tools([search, rank], grammar=only).invoke("anything")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("rank", {"n": 5})]


def test_tool_choices() -> None:
    seen: list[Call] = []

    def respond(call: Call) -> str:
        seen.append(call)
        return "ok"

    chat = LlmrecChat(lm=ScriptedLM(respond))
    chat.bind_tools([search, rank]).invoke("a")
    chat.bind_tools([search, rank], tool_choice="none").invoke("a")
    chat.bind_tools([search, rank], tool_choice={"type": "function", "function": {"name": "search"}}).invoke("a")
    auto, none, named = seen
    assert auto.constraint is not None
    assert "TEXT" in auto.constraint.value
    assert (none.tools, none.constraint) == ((), None)
    assert [entry["function"]["name"] for entry in named.tools] == ["search"]
    with pytest.raises(ConfigError, match="'nothing'"):
        chat.bind_tools([search], tool_choice="nothing").invoke("a")
    with pytest.raises(ConfigError, match="top_p"):
        chat.invoke("a", top_p=0.5)


def test_an_engine_without_grammars_is_not_forced_in_silence() -> None:
    chat = LlmrecChat(lm=NoGrammars([CALL, "<tool_call>oops</tool_call>"]))
    assert chat.bind_tools([search]).invoke("a").tool_calls[0]["args"] == {"query": "sea"}
    broken = chat.bind_tools([search]).invoke("a")
    assert (broken.content, broken.tool_calls) == ("", [])
    assert broken.invalid_tool_calls[0]["args"] == "oops"
    with pytest.raises(UnsupportedError, match="cannot be forced"):
        chat.bind_tools([search], tool_choice="any").invoke("a")
    with pytest.raises(UnsupportedError, match="json_schema"):
        chat.with_structured_output(Wish).invoke("a")


@pytest.mark.parametrize(
    ("written", "repairs"),
    [
        ("search(query='sea')", ["python call"]),
        ('I look. {"tool": "Search", "args": {"query": "sea"}}', ["no markup", "field names", "tool name"]),
        (CALL, None),
    ],
)
def test_mended_calls_are_calls_and_the_message_says_so(written: str, repairs: list[str] | None) -> None:
    answer = LlmrecChat(lm=NoGrammars([written])).bind_tools([search]).invoke("a")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("search", {"query": "sea"})]
    assert answer.response_metadata.get("repairs") == repairs
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    assert "sea" not in str(answer.content)


def test_a_call_that_cannot_be_mended_is_an_invalid_call() -> None:
    answer = (
        LlmrecChat(lm=NoGrammars(['{"name": "search", "arguments": {"query": "se'])).bind_tools([search]).invoke("a")
    )
    assert answer.tool_calls == []
    assert len(answer.invalid_tool_calls) == 1


def test_structured_output_of_a_random_model_validates(lm: LocalLM) -> None:
    chat = LlmrecChat(lm=lm, temperature=1.0, max_tokens=60)
    for seed in range(4):
        wish = chat.with_structured_output(Wish).invoke("a comedy of 1950", seed=seed)
        assert isinstance(wish, Wish)
    plain: Any = chat.with_structured_output(Wish.model_json_schema()).invoke("a comedy of 1950")
    assert set(plain) == {"genre", "year"}


def test_cut_or_wrong_structured_output_is_an_output_error(lm: LocalLM) -> None:
    with pytest.raises(OutputError, match="cut at max_tokens"):
        LlmrecChat(lm=lm, max_tokens=3).with_structured_output(Wish).invoke("a comedy")
    wrong = LlmrecChat(lm=ScriptedLM(['{"genre": "western", "year": 1950}'] * 2))
    with pytest.raises(OutputError, match="does not follow"):
        wrong.with_structured_output(Wish).invoke("a")
    raw: Any = wrong.with_structured_output(Wish, include_raw=True).invoke("a")
    assert raw["parsed"] is None
    assert isinstance(raw["parsing_error"], OutputError)
    assert isinstance(raw["raw"], AIMessage)


def test_a_stream_arrives_in_pieces_and_equals_the_answer(lm: LocalLM) -> None:
    chat = LlmrecChat(lm=lm, temperature=1.0, max_tokens=14, seed=3)
    whole = chat.invoke("Heat is")
    pieces = list(chat.stream("Heat is"))
    assert len([piece for piece in pieces if piece.content]) > 3
    assert "".join(str(piece.content) for piece in pieces) == whole.content

    async def streamed() -> AIMessageChunk:
        total: AIMessageChunk | None = None
        async for chunk in chat.astream("Heat is"):
            total = chunk if total is None else total + chunk
        assert total is not None
        return total

    total = asyncio.run(streamed())
    assert total.content == whole.content
    assert total.usage_metadata == whole.usage_metadata


def test_a_streamed_call_shows_no_markup(lm: LocalLM) -> None:
    for engine in (lm, ScriptedLM([f"Let me look. {CALL}"])):
        chat = LlmrecChat(lm=engine, temperature=1.0, max_tokens=80)
        chunks = list(chat.bind_tools([search], tool_choice="any" if engine is lm else None).stream("the sea"))
        assert "<" not in "".join(str(chunk.content) for chunk in chunks)
        total = chunks[0]
        for chunk in chunks[1:]:
            total = total + chunk  # type: ignore[assignment]
        assert isinstance(total, AIMessageChunk)
        assert [call["name"] for call in total.tool_calls] == ["search"]


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_the_filter_holds_markup_back_at_every_cut(size: int) -> None:
    text = f"a < b <|im_start|>and <tool> c <{CALL} rest"
    show = MarkupFilter()
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    shown = [show.feed(part, last=index == len(parts) - 1) for index, part in enumerate(parts)]
    assert "".join(shown) == "a < b and <tool> c <"
    calm = MarkupFilter()
    assert calm.feed("1 <") + calm.feed("", last=True) == "1 <"


def test_sync_calls_work_below_a_running_loop(lm: LocalLM) -> None:
    chat = LlmrecChat(lm=lm, max_tokens=4)

    async def main() -> tuple[Any, Any, Any]:
        return chat.invoke("Heat is").content, (await chat.ainvoke("Heat is")).content, list(chat.stream("Heat is"))

    inner, outer, pieces = asyncio.run(main())
    assert inner == outer == "".join(str(piece.content) for piece in pieces)


def test_a_stream_may_be_left_early_and_errors_pass_through(lm: LocalLM) -> None:
    for _ in LlmrecChat(lm=lm, max_tokens=20).stream("Heat is"):
        break
    with pytest.raises(UnsupportedError, match="nobody"):
        list(LlmrecChat(lm=lm, adapter="nobody").stream("Heat is"))


def test_concurrent_answers_share_a_batch(lm: LocalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    run = lm._run_generate

    def counted(jobs: Sequence[Any]) -> list[Any]:
        sizes.append(len(jobs))
        return run(jobs)

    monkeypatch.setattr(lm, "_run_generate", counted)
    chat = LlmrecChat(lm=lm, max_tokens=4)

    async def main() -> None:
        await asyncio.gather(*(chat.ainvoke(f"film {number}") for number in range(6)))

    asyncio.run(main())
    assert sizes == [6]
