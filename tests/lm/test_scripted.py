"""The scripted double, recordings and their replay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from llmrec.errors import ConfigError, ModelError, ModelNotFoundError, ReplayError, UnsupportedError
from llmrec.lm.loading import load_backbone
from llmrec.lm.local import LocalLM
from llmrec.lm.protocol import Constraint, LanguageModel, Sampling, ToolCall
from llmrec.lm.scripted import Call, RecordingLM, ReplayLM, ScriptedLM
from llmrec.lm.toolcalls import tool_grammar
from llmrec.testing.language_model import CHAT, PROMPT, TOOLS, LanguageModelContract
from tests.lm.conftest import Folders


class TestRecording(LanguageModelContract):
    """A recorder behaves as the engine behind it."""

    @pytest.fixture
    def lm(self, lm: LocalLM, tmp_path: Path) -> LanguageModel:
        return RecordingLM(lm, tmp_path / "calls.jsonl")


def test_a_list_is_answered_in_order_and_ends() -> None:
    lm = ScriptedLM(["one", "two", '<tool_call>{"name": "rank", "arguments": {"n": 3}}</tool_call>'])
    first, second = asyncio.run(lm.generate("a", sampling=Sampling(n=2)))
    assert (first.text, second.text) == ("one", "two")
    assert asyncio.run(lm.generate("b"))[0].tool_calls == (ToolCall("rank", {"n": 3}),)
    with pytest.raises(ModelError, match="no answer left for call 4"):
        asyncio.run(lm.generate("c"))
    assert [call.prompt for call in lm.calls] == ["a", "a", "b", "c"]


def test_a_function_sees_the_whole_call() -> None:
    def respond(call: Call) -> str:
        return f"{call.text}/{call.adapter}/{call.sample}/{call.sampling.seed}"

    lm = ScriptedLM(respond, adapters=["user"])
    answers = asyncio.run(lm.generate(CHAT, sampling=Sampling(n=2, seed=5), adapter="user"))
    assert [answer.text for answer in answers] == [f"something funny please/user/{sample}/5" for sample in (0, 1)]


def test_verbs_without_a_script_are_refused() -> None:
    lm = ScriptedLM(["one"], score=lambda prompt, texts, adapter: [-1.0 * len(text) for text in texts])
    assert asyncio.run(lm.score("p", ["a", "bb"])) == [-1.0, -2.0]
    with pytest.raises(UnsupportedError, match="cannot embed"):
        asyncio.run(lm.embed(["a"]))
    with pytest.raises(UnsupportedError, match="no adapter 'x'"):
        asyncio.run(lm.generate("a", adapter="x"))


def test_a_replay_equals_the_recorded_engine(lm: LocalLM, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    recorder = RecordingLM(lm, path)
    sampling = Sampling(n=3, max_tokens=40, seed=2)
    grammar = tool_grammar(TOOLS, allow_text=False)
    choice = Constraint("choice", ("yes", "no"))
    texts = asyncio.run(recorder.generate(PROMPT, sampling=sampling, adapter="red"))
    calls = asyncio.run(recorder.generate(CHAT, sampling=sampling, tools=TOOLS, constraint=grammar))
    chosen = asyncio.run(recorder.generate(PROMPT, constraint=choice))
    scores = asyncio.run(recorder.score(PROMPT, [" a", " b"]))
    vectors = asyncio.run(recorder.embed([PROMPT]))

    replay = load_backbone(f"scripted:{path}")
    assert (replay.name, replay.capabilities) == (lm.name, lm.capabilities)
    assert asyncio.run(replay.generate(PROMPT, sampling=sampling, adapter="red")) == texts
    assert asyncio.run(replay.generate(CHAT, sampling=sampling, tools=TOOLS, constraint=grammar)) == calls
    assert asyncio.run(replay.generate(PROMPT, constraint=Constraint("choice", ["yes", "no"]))) == chosen
    assert asyncio.run(replay.score(PROMPT, [" a", " b"])) == scores
    np.testing.assert_array_equal(asyncio.run(replay.embed([PROMPT])), vectors)
    fewer = Sampling(n=2, max_tokens=40, seed=2)
    assert asyncio.run(replay.generate(PROMPT, sampling=fewer, adapter="red")) == texts[:2]


def test_an_unrecorded_call_names_the_nearest(lm: LocalLM, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    recorder = RecordingLM(lm, path)
    asyncio.run(recorder.generate("Heat is", sampling=Sampling(n=2, max_tokens=3, seed=1)))
    asyncio.run(recorder.generate(PROMPT, sampling=Sampling(n=2, max_tokens=3, seed=1)))
    replay = ReplayLM(path)
    with pytest.raises(ReplayError, match=r"differs in sampling .*'seed': 9.* instead of .*'seed': 1"):
        asyncio.run(replay.generate(PROMPT, sampling=Sampling(n=2, max_tokens=3, seed=9)))
    with pytest.raises(ReplayError, match="sample 2 instead of"):
        asyncio.run(replay.generate(PROMPT, sampling=Sampling(n=3, max_tokens=3, seed=1)))
    with pytest.raises(ReplayError, match="adapter 'red' instead of None"):
        asyncio.run(replay.generate(PROMPT, sampling=Sampling(max_tokens=3, seed=1), adapter="red"))
    with pytest.raises(ReplayError, match="'Heat was' instead of 'Heat is'"):
        asyncio.run(replay.generate("Heat was", sampling=Sampling(max_tokens=3, seed=1)))
    with pytest.raises(ReplayError, match="nothing was recorded for 'score'"):
        asyncio.run(replay.score(PROMPT, [" a"]))


def test_a_recording_is_continued_and_only_by_its_engine(lm: LocalLM, folders: Folders, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    asyncio.run(RecordingLM(lm, path).score(PROMPT, [" a"]))
    asyncio.run(RecordingLM(lm, path).score(PROMPT, [" a"]))
    asyncio.run(RecordingLM(lm, path).score(PROMPT, [" b"]))
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3  # header, two calls
    with pytest.raises(ConfigError, match="choose another file"):
        RecordingLM(LocalLM.from_folder(folders.base, dtype="float32"), path)


@pytest.mark.parametrize("content", ["", "{", '{"format": "other"}', "[]", '{"key": 1}\n'])
def test_a_damaged_recording_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="recording"):
        ReplayLM(path)


def test_a_missing_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        load_backbone(f"scripted:{tmp_path / 'nowhere.jsonl'}")
