"""VllmLM against the contract, on a real vLLM engine with a tiny model and two adapters.

    pytest tests/lm/models/test_vllm_contract.py -m models -W ignore::ResourceWarning

vLLM leaves a socket context of its start to the garbage collector, which complains after the last test; hence the `-W`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmrec.errors import ConfigError, ModelError, UnsupportedError
from llmrec.lm.local import LocalLM, _ScoreJob
from llmrec.lm.protocol import Capabilities, Completion, Constraint, LanguageModel, Piece, Sampling
from llmrec.lm.vllm_engine import VllmLM
from llmrec.testing.language_model import CHAT, CONTINUATIONS, PROMPT, SCHEMA, TOOLS, LanguageModelContract
from tests.lm.conftest import Folders, save_adapter, save_model

pytest.importorskip("vllm", reason="needs vLLM, in an environment of its own")
pytestmark = [
    pytest.mark.models,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # vLLM's, about its own dependencies
]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A tiny model whose heads are wide enough for vLLM's attention kernels."""
    root = tmp_path_factory.mktemp("wide")
    base = save_model(root / "base", head_dim=32)
    return Folders(base, save_adapter(root / "red", base, seed=1), save_adapter(root / "blue", base, seed=2))


@pytest.fixture(scope="module")
def lm(wide: Folders) -> Iterator[VllmLM]:
    settings = wide.base.parent / "engine.yaml"
    settings.write_text(f"model: {wide.base}\nkv_cache_gib: 0.25\nmax_num_seqs: 16\n", encoding="utf-8")
    lm = VllmLM.from_spec(settings, adapters={"red": wide.red, "blue": wide.blue}, dtype="float32")
    yield lm
    lm.close()
    with pytest.raises(ModelError, match="closed"):
        asyncio.run(lm.generate(PROMPT))


@pytest.fixture(scope="module")
def local(wide: Folders) -> LocalLM:
    adapters = {"red": wide.red, "blue": wide.blue}
    return LocalLM.from_folder(wide.base, adapters=adapters, dtype="float32", device="cpu")


class TestVllm(LanguageModelContract):
    @pytest.fixture(autouse=True)
    def _reference(self, local: LocalLM) -> None:
        self.local = local

    def reference_score(self, lm: LanguageModel, prompt: str, continuation: str, adapter: str | None) -> float | None:
        (score,) = asyncio.run(self.local.score(prompt, [continuation], adapter=adapter))
        return score

    def test_embeddings_are_one_vector_for_each_text(self, lm: LanguageModel) -> None:
        assert "embed" not in lm.capabilities.verbs
        with pytest.raises(UnsupportedError, match="cannot embed"):
            asyncio.run(lm.embed([PROMPT]))


def test_it_is_known_by_its_weights_and_says_what_it_can(lm: VllmLM, local: LocalLM) -> None:
    assert lm.name == f"vllm:{local.name}"
    assert lm.context == local.context == 256
    assert lm.capabilities == Capabilities(
        verbs=frozenset({"generate", "score"}),
        constraints=frozenset({"choice", "json_schema", "lark"}),
        adapters=("red", "blue"),
    )


@pytest.mark.parametrize("adapter", [None, "red"])
def test_greedy_answers_and_scores_after_messages_are_those_of_the_local_engine(
    lm: VllmLM, local: LocalLM, adapter: str | None
) -> None:
    greedy = Sampling(max_tokens=12, temperature=0)
    for prompt in (PROMPT, CHAT):
        (mine,) = asyncio.run(lm.generate(prompt, sampling=greedy, adapter=adapter))
        (other,) = asyncio.run(local.generate(prompt, sampling=greedy, adapter=adapter))
        assert (mine.raw, mine.n_tokens, mine.finish_reason) == (other.raw, other.n_tokens, other.finish_reason)
        assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)
        scores = asyncio.run(lm.score(prompt, CONTINUATIONS, adapter=adapter))
        assert scores == pytest.approx(asyncio.run(local.score(prompt, CONTINUATIONS, adapter=adapter)), abs=1e-3)
    assert asyncio.run(lm.score(PROMPT, [], adapter=adapter)) == []


@pytest.mark.parametrize("adapter", [None, "blue"])
@pytest.mark.parametrize(
    "constraint",
    [None, Constraint("json_schema", SCHEMA), Constraint("choice", ["watched", "skipped"])],
    ids=["free", "json_schema", "choice"],
)
def test_logprob_is_that_before_temperature_and_grammar(
    lm: VllmLM, local: LocalLM, constraint: Constraint | None, adapter: str | None
) -> None:
    order = lm._order(PROMPT, Sampling(max_tokens=60, temperature=0.5, seed=4), (), constraint, adapter)
    (output,) = asyncio.run(lm._host.run([lm._request(order, 0)]))
    tokens, reason = lm._end(output.outputs[0], order)
    (completion,) = asyncio.run(lm._completions([output.outputs[0]], order))
    (expected,) = asyncio.run(local._batcher.submit(("score", adapter), _ScoreJob(order.prompt, (tokens,))))
    assert completion.logprob == pytest.approx(expected, abs=1e-3)
    assert (completion.n_tokens, completion.finish_reason) == (len(tokens), reason)
    assert constraint is None or reason == "stop"


def test_json_is_written_as_models_read_it_and_ends_with_its_grammar(lm: VllmLM) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    sampling = Sampling(n=6, max_tokens=60, seed=2)
    for completion in asyncio.run(lm.generate(PROMPT, constraint=Constraint("json_schema", schema), sampling=sampling)):
        values = [f'{{"a": {a}, "b": {b}}}' for a in ("true", "false") for b in ("true", "false")]
        assert completion.raw in values
        assert completion.finish_reason == "stop"
        assert lm._codec.decode(lm._codec.encode(completion.raw)) == completion.raw


def test_a_streamed_sample_equals_a_generated_one(lm: VllmLM) -> None:
    async def pieces(sampling: Sampling) -> list[Piece]:
        return [piece async for piece in lm.stream(PROMPT, sampling=sampling, adapter="red")]

    sampling = Sampling(max_tokens=24, seed=6)
    (expected,) = asyncio.run(lm.generate(PROMPT, sampling=sampling, adapter="red"))
    streamed = asyncio.run(pieces(sampling))
    assert len(streamed) > 1
    assert "".join(piece.text for piece in streamed) == expected.raw
    assert streamed[-1].completion is not None
    assert streamed[-1].completion.raw == expected.raw
    stop = expected.raw[4:6]
    stopped = asyncio.run(pieces(Sampling(max_tokens=24, seed=6, stop=(stop,))))
    assert "".join(piece.text for piece in stopped) == expected.raw[: expected.raw.index(stop)]


def test_a_stream_may_be_left_early(lm: VllmLM) -> None:
    async def first() -> Piece:
        stream = lm.stream(PROMPT, sampling=Sampling(max_tokens=200, seed=6))
        piece = await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        return piece

    piece = asyncio.run(first())
    assert piece.completion is None
    assert len(asyncio.run(lm.generate(PROMPT, sampling=Sampling(max_tokens=4)))) == 1


def test_a_cancelled_call_is_aborted_in_the_engine(lm: VllmLM) -> None:
    async def abandon() -> None:
        call = asyncio.create_task(lm.generate(PROMPT, sampling=Sampling(max_tokens=200, n=8, seed=6)))
        await asyncio.sleep(0.2)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        for _ in range(50):
            await asyncio.sleep(0.1)
            if not lm._host._started.engine.get_num_unfinished_requests():
                return
        raise AssertionError("the engine still works on a cancelled call")

    asyncio.run(abandon())


def test_two_threads_share_one_engine(lm: VllmLM) -> None:
    answers: dict[int, list[Completion]] = {}

    def ask(seed: int) -> None:
        answers[seed] = asyncio.run(lm.generate(PROMPT, sampling=Sampling(max_tokens=6, seed=seed)))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        alone = asyncio.run(lm.generate(PROMPT, sampling=Sampling(max_tokens=6, seed=seed)))
        assert [sample.raw for sample in answers[seed]] == [sample.raw for sample in alone]


def test_a_tool_call_is_read_from_messages(lm: VllmLM) -> None:
    grammar = Constraint(
        "lark", 'start: <tool_call> "\\n{\\"name\\": \\"rank\\", \\"arguments\\": {}}\\n" </tool_call>'
    )
    (completion,) = asyncio.run(lm.generate(CHAT, tools=TOOLS, constraint=grammar, sampling=Sampling(max_tokens=80)))
    assert [call.name for call in completion.tool_calls] == ["rank"]
    assert completion.text == ""


def test_the_end_of_the_context_is_reached_and_not_passed(lm: VllmLM, local: LocalLM) -> None:
    prompt = "a thief " * 115
    used = lm.count_tokens(prompt)
    assert used == local.count_tokens(prompt)
    assert 200 < used < 250
    long = Sampling(max_tokens=500, temperature=0)
    (mine,), (other,) = (
        asyncio.run(lm.generate(prompt, sampling=long)),
        asyncio.run(local.generate(prompt, sampling=long)),
    )
    assert (mine.n_tokens, mine.finish_reason) == (other.n_tokens, other.finish_reason)
    digits = Constraint("lark", "start: /[0-9]{300}/")
    (cut,) = asyncio.run(lm.generate(prompt, sampling=long, constraint=digits))
    assert cut.finish_reason == "length"
    assert cut.n_tokens == lm.context - used - 1
    with pytest.raises(ModelError, match="257 tokens, the model's context is 256"):
        asyncio.run(lm.generate(lm._codec.decode([5]) * 256))
    with pytest.raises(ModelError, match="context is 256"):
        asyncio.run(lm.score(prompt, [prompt]))


def test_wrong_calls_are_named(lm: VllmLM) -> None:
    for sampling in (Sampling(n=0), Sampling(max_tokens=0), Sampling(temperature=3), Sampling(stop=("",))):
        with pytest.raises(ConfigError, match="got"):
            asyncio.run(lm.generate(PROMPT, sampling=sampling))
    with pytest.raises(ConfigError, match="one text"):
        asyncio.run(lm.score(PROMPT, "a"))
    with pytest.raises(ConfigError, match="n=2"):
        asyncio.run(anext(lm.stream(PROMPT, sampling=Sampling(n=2))))  # type: ignore[arg-type]


def test_settings_that_vllm_refuses_are_named(wide: Folders, tmp_path: Path) -> None:
    settings = tmp_path / "long.yaml"
    settings.write_text(f"model: {wide.base}\nmax_model_len: 100000\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"100000"):
        VllmLM.from_spec(settings, dtype="float32")
    with pytest.raises(ConfigError, match=r"runs on '(cpu|cuda)', got device '(cpu|cuda)'"):
        VllmLM.from_spec(wide.base, device="cuda" if _on_cpu() else "cpu")


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def test_a_killed_engine_is_an_error_of_the_model(lm: VllmLM) -> None:
    """The last test of this file: it leaves no engine."""

    async def work_until_killed() -> None:
        call = asyncio.create_task(lm.generate(PROMPT, sampling=Sampling(max_tokens=240, n=16)))
        await asyncio.sleep(0.2)
        for process in lm._host._started.engine.engine_core.resources.engine_manager.processes:
            process.kill()
        await call

    with pytest.raises(ModelError, match="vLLM engine"):
        asyncio.run(work_until_killed())
    with pytest.raises(ModelError, match="vLLM engine"):
        asyncio.run(lm.score(PROMPT, CONTINUATIONS))
