"""Contract tests of a language model: subclass `LanguageModelContract` in a test file and give it a fixture `lm`.

    class TestMyEngine(LanguageModelContract):
        @pytest.fixture
        def lm(self) -> LanguageModel:
            return MyEngine()

Tests of what an engine says it cannot do check that it refuses; nothing is skipped in silence.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from llmrec.errors import ConfigError, PromptTooLong, UnsupportedError
from llmrec.lm.protocol import Completion, Constraint, LanguageModel, Message, Sampling, Verb
from llmrec.lm.toolcalls import tool_grammar

PROMPT = "Alien is a film about"
OTHERS = ("Heat is", "The crew finds a creature in the ship and", "please recommend")
CONTINUATIONS = (" a", " the sea and its crew", " a thief", "")
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 6}, "liked": {"type": "boolean"}},
    "required": ["title", "liked"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name} items",
            "parameters": {
                "type": "object",
                "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
                "required": ["n"],
            },
        },
    }
    for name in ("search", "rank")
]
CHAT = [{"role": "user", "content": "something funny please"}]


def _tokens(completions: Sequence[Completion]) -> list[tuple[str, int, str]]:
    return [(completion.raw, completion.n_tokens, completion.finish_reason) for completion in completions]


class LanguageModelContract:
    """What every engine must do. Override `reference_score` where a direct computation is possible."""

    tolerance = 1e-4
    """Largest difference of a summed log-probability between batches; engines in half precision need more."""
    reference_tolerance = 1e-3
    """Largest difference of a summed log-probability to the reference."""
    json_tokens = 80
    """Enough new tokens for any object of `SCHEMA`; engines whose grammars allow white space need more."""
    always_logprobs = True
    """Whether every sample has a log-probability; False lets it be NaN where a server leaves tokens out."""

    def reference_score(self, lm: LanguageModel, prompt: str, continuation: str, adapter: str | None) -> float | None:
        """Log-probability computed without the engine's own batching, or None."""
        return None

    def rendered(self, lm: LanguageModel, messages: Sequence[Message]) -> str | None:
        """Chat messages as the prompt text that the model reads, or None."""
        render = getattr(lm, "render", None)  # not part of the protocol
        return None if render is None else render(messages)

    def _refuses(self, lm: LanguageModel, verb: Verb) -> bool:
        """Whether the engine lacks the verb; then it must refuse it."""
        if verb in lm.capabilities.verbs:
            return False
        call = lm.score(PROMPT, CONTINUATIONS) if verb == "score" else lm.embed([PROMPT])
        with pytest.raises(UnsupportedError):
            asyncio.run(call)
        return True

    # ---- generate

    def test_generate_gives_n_completions(self, lm: LanguageModel) -> None:
        completions = asyncio.run(lm.generate(PROMPT, sampling=Sampling(n=3, max_tokens=5, seed=1)))
        assert len(completions) == 3
        for completion in completions:
            assert 1 <= completion.n_tokens <= 5
            assert completion.logprob < 0 or (math.isnan(completion.logprob) and not self.always_logprobs)
            assert completion.finish_reason in ("stop", "length")

    def test_samples_differ_and_repeat_with_their_seed(self, lm: LanguageModel) -> None:
        first = asyncio.run(lm.generate(PROMPT, sampling=Sampling(n=4, max_tokens=6, seed=7)))
        again = asyncio.run(lm.generate(PROMPT, sampling=Sampling(n=4, max_tokens=6, seed=7)))
        other = asyncio.run(lm.generate(PROMPT, sampling=Sampling(n=4, max_tokens=6, seed=8)))
        assert _tokens(first) == _tokens(again)
        assert _tokens(first) != _tokens(other)
        assert len(set(_tokens(first))) > 1

    def test_a_sample_depends_on_its_index_and_not_on_n(self, lm: LanguageModel) -> None:
        few = asyncio.run(lm.generate(PROMPT, sampling=Sampling(n=2, max_tokens=6, seed=7)))
        many = asyncio.run(lm.generate(PROMPT, sampling=Sampling(n=4, max_tokens=6, seed=7)))
        assert _tokens(few) == _tokens(many[:2])

    def test_a_draw_is_the_same_alone_and_in_a_batch(self, lm: LanguageModel) -> None:
        async def together() -> list[list[Completion]]:
            calls = [lm.generate(text, sampling=Sampling(n=2, max_tokens=6, seed=3)) for text in (PROMPT, *OTHERS)]
            return list(await asyncio.gather(*calls))

        batched = asyncio.run(together())
        for text, in_batch in zip((PROMPT, *OTHERS), batched, strict=True):
            alone = asyncio.run(lm.generate(text, sampling=Sampling(n=2, max_tokens=6, seed=3)))
            assert _tokens(alone) == _tokens(in_batch)
            for one, other in zip(alone, in_batch, strict=True):
                assert one.logprob == pytest.approx(other.logprob, abs=self.tolerance, nan_ok=not self.always_logprobs)

    def test_temperature_zero_is_greedy(self, lm: LanguageModel) -> None:
        completions = [
            asyncio.run(lm.generate(PROMPT, sampling=Sampling(n=2, max_tokens=6, temperature=0, seed=seed)))
            for seed in (1, 2)
        ]
        assert len({entry for answers in completions for entry in _tokens(answers)}) == 1

    def test_a_stop_text_ends_a_sample_and_is_cut_off(self, lm: LanguageModel) -> None:
        free = asyncio.run(lm.generate(PROMPT, sampling=Sampling(max_tokens=8, seed=11)))[0]
        assert len(free.raw) >= 3, "the contract's prompt gave too short an answer to cut"
        stop = free.raw[2]
        cut = asyncio.run(lm.generate(PROMPT, sampling=Sampling(max_tokens=8, seed=11, stop=(stop,))))[0]
        assert cut.raw == free.raw[: free.raw.index(stop)]
        assert cut.finish_reason == "stop"
        assert cut.n_tokens <= free.n_tokens

    def test_a_short_limit_is_reported(self, lm: LanguageModel) -> None:
        completion = asyncio.run(lm.generate(PROMPT, sampling=Sampling(max_tokens=1, seed=11)))[0]
        assert (completion.n_tokens, completion.finish_reason) == (1, "length")

    def test_a_prompt_longer_than_the_context_is_refused(self, lm: LanguageModel) -> None:
        context = getattr(lm, "context", None)
        if context is None:
            pytest.skip("the engine does not tell its context")
        long = "x y z " * context
        with pytest.raises(PromptTooLong, match="context"):
            asyncio.run(lm.generate(long, sampling=Sampling(max_tokens=2)))
        assert len(asyncio.run(lm.generate(PROMPT, sampling=Sampling(max_tokens=2)))) == 1

    def test_settings_without_sense_are_refused(self, lm: LanguageModel) -> None:
        for sampling in (Sampling(n=0), Sampling(max_tokens=0), Sampling(temperature=-1), Sampling(stop=("",))):
            with pytest.raises(ConfigError):
                asyncio.run(lm.generate(PROMPT, sampling=sampling))

    # ---- score and embed

    def test_scores_equal_the_reference(self, lm: LanguageModel) -> None:
        if self._refuses(lm, "score"):
            return
        for adapter in (None, *lm.capabilities.adapters):
            scores = asyncio.run(lm.score(PROMPT, CONTINUATIONS, adapter=adapter))
            assert len(scores) == len(CONTINUATIONS)
            for continuation, score in zip(CONTINUATIONS, scores, strict=True):
                expected = self.reference_score(lm, PROMPT, continuation, adapter)
                if expected is not None:
                    assert score == pytest.approx(expected, abs=self.reference_tolerance)
                assert score < 0 or continuation == ""

    def test_scores_do_not_depend_on_the_batch(self, lm: LanguageModel) -> None:
        if self._refuses(lm, "score"):
            return

        async def together() -> list[list[float]]:
            return list(await asyncio.gather(*(lm.score(text, CONTINUATIONS) for text in (PROMPT, *OTHERS))))

        for text, in_batch in zip((PROMPT, *OTHERS), asyncio.run(together()), strict=True):
            alone = asyncio.run(lm.score(text, CONTINUATIONS))
            assert np.abs(np.subtract(alone, in_batch)).max() < self.tolerance

    def test_scores_after_chat_messages(self, lm: LanguageModel) -> None:
        """A continuation begins the assistant's answer, so a change of the question changes its score."""
        if self._refuses(lm, "score"):
            return
        options = ("watch", "no film", "")
        scores = asyncio.run(lm.score(CHAT, options))
        assert asyncio.run(lm.score(CHAT, options)) == pytest.approx(scores, abs=self.tolerance)
        assert scores[0] < 0
        assert scores[1] < 0
        assert scores[2] == 0
        other = asyncio.run(lm.score([{"role": "user", "content": "no horror"}], options))
        assert np.abs(np.subtract(scores, other)).max() > 100 * self.tolerance
        text = self.rendered(lm, CHAT)
        if text is not None:
            same = asyncio.run(lm.score(text, options))
            assert scores == pytest.approx(same, abs=self.tolerance)

    def test_embeddings_are_one_vector_for_each_text(self, lm: LanguageModel) -> None:
        if self._refuses(lm, "embed"):
            return
        vectors = asyncio.run(lm.embed([PROMPT, *OTHERS]))
        assert vectors.dtype == np.float32
        assert vectors.ndim == 2
        assert len(vectors) == 1 + len(OTHERS)
        assert np.isfinite(vectors).all()
        alone = asyncio.run(lm.embed([OTHERS[0]]))
        assert np.abs(vectors[1] - alone[0]).max() < self.tolerance
        assert np.abs(vectors[0] - vectors[1]).max() > 100 * self.tolerance

    # ---- adapters

    def test_adapters_differ_and_leave_the_bare_backbone_unchanged(self, lm: LanguageModel) -> None:
        names = lm.capabilities.adapters
        if not names:
            with pytest.raises(UnsupportedError, match="red"):
                asyncio.run(lm.generate(PROMPT, adapter="red"))
            return
        assert len(names) >= 2, "run the contract with an engine that has two adapters, or none"
        bare = asyncio.run(lm.score(PROMPT, CONTINUATIONS))
        adapted = [asyncio.run(lm.score(PROMPT, CONTINUATIONS, adapter=name)) for name in names]
        assert asyncio.run(lm.score(PROMPT, CONTINUATIONS)) == pytest.approx(bare, abs=self.tolerance)
        for scores in adapted:
            assert np.abs(np.subtract(scores, bare)).max() > 100 * self.tolerance
        assert np.abs(np.subtract(adapted[0], adapted[1])).max() > 100 * self.tolerance

    def test_concurrent_calls_of_several_adapters_do_not_mix(self, lm: LanguageModel) -> None:
        if self._refuses(lm, "score"):
            return
        names = (None, *lm.capabilities.adapters)

        async def together() -> list[list[float]]:
            return list(await asyncio.gather(*(lm.score(PROMPT, CONTINUATIONS, adapter=name) for name in names)))

        for name, in_batch in zip(names, asyncio.run(together()), strict=True):
            alone = asyncio.run(lm.score(PROMPT, CONTINUATIONS, adapter=name))
            assert np.abs(np.subtract(alone, in_batch)).max() < self.tolerance

    def test_an_unknown_adapter_is_refused(self, lm: LanguageModel) -> None:
        with pytest.raises(UnsupportedError, match="nobody"):
            asyncio.run(lm.generate(PROMPT, adapter="nobody"))
        with pytest.raises(UnsupportedError, match="nobody"):
            asyncio.run(lm.score(PROMPT, [" a"], adapter="nobody"))

    # ---- constraints

    def test_a_choice_is_one_of_the_options(self, lm: LanguageModel) -> None:
        options = ("watched", 'skipped "it"', "liked")
        constraint = Constraint("choice", options)
        if "choice" not in lm.capabilities.constraints:
            with pytest.raises(UnsupportedError):
                asyncio.run(lm.generate(PROMPT, constraint=constraint))
            return
        completions = asyncio.run(lm.generate(PROMPT, constraint=constraint, sampling=Sampling(n=8, max_tokens=40)))
        assert {completion.text for completion in completions} <= set(options)
        assert all(completion.finish_reason == "stop" for completion in completions)

    def test_a_schema_gives_valid_json(self, lm: LanguageModel) -> None:
        constraint = Constraint("json_schema", SCHEMA)
        if "json_schema" not in lm.capabilities.constraints:
            with pytest.raises(UnsupportedError):
                asyncio.run(lm.generate(PROMPT, constraint=constraint))
            return
        sampling = Sampling(n=8, max_tokens=self.json_tokens, seed=5)
        for completion in asyncio.run(lm.generate(PROMPT, constraint=constraint, sampling=sampling)):
            assert completion.finish_reason == "stop"
            value = json.loads(completion.text)
            assert set(value) == {"title", "liked"}
            assert isinstance(value["liked"], bool)
            assert len(value["title"]) <= 6

    def test_cut_json_is_reported(self, lm: LanguageModel) -> None:
        if "json_schema" not in lm.capabilities.constraints:
            pytest.skip("the engine has no JSON grammars")
        sampling = Sampling(max_tokens=3, seed=5)
        completion = asyncio.run(lm.generate(PROMPT, constraint=Constraint("json_schema", SCHEMA), sampling=sampling))[
            0
        ]
        assert completion.finish_reason == "length"
        assert completion.n_tokens == 3

    def test_a_tool_grammar_gives_a_known_tool(self, lm: LanguageModel) -> None:
        constraint = tool_grammar(TOOLS, allow_text=False)
        if "lark" not in lm.capabilities.constraints:
            with pytest.raises(UnsupportedError):
                asyncio.run(lm.generate(CHAT, tools=TOOLS, constraint=constraint))
            return
        sampling = Sampling(n=8, max_tokens=60, seed=5)
        for completion in asyncio.run(lm.generate(CHAT, tools=TOOLS, constraint=constraint, sampling=sampling)):
            (call,) = completion.tool_calls
            assert call.name in ("search", "rank")
            assert set(call.arguments) == {"n"}
            assert 1 <= call.arguments["n"] <= 9
            assert completion.text == ""

    def test_constrained_and_free_calls_may_run_together(self, lm: LanguageModel) -> None:
        if "choice" not in lm.capabilities.constraints:
            pytest.skip("the engine has no choice grammars")
        choice = Constraint("choice", ["yes", "no"])

        async def together() -> tuple[list[Completion], list[Completion]]:
            return await asyncio.gather(
                lm.generate(PROMPT, sampling=Sampling(n=2, max_tokens=6, seed=3)),
                lm.generate(OTHERS[0], sampling=Sampling(n=2, max_tokens=20, seed=3), constraint=choice),
            )

        free, chosen = asyncio.run(together())
        alone = asyncio.run(lm.generate(PROMPT, sampling=Sampling(n=2, max_tokens=6, seed=3)))
        assert _tokens(free) == _tokens(alone)
        assert {completion.text for completion in chosen} <= {"yes", "no"}

    def test_a_bad_grammar_is_the_callers_error_alone(self, lm: LanguageModel) -> None:
        if "lark" not in lm.capabilities.constraints:
            pytest.skip("the engine has no Lark grammars")

        async def together() -> list[object]:
            bad = lm.generate(PROMPT, constraint=Constraint("lark", "start: nowhere"))
            good = lm.generate(PROMPT, sampling=Sampling(max_tokens=4))
            return list(await asyncio.gather(bad, good, return_exceptions=True))

        bad, good = asyncio.run(together())
        assert isinstance(bad, ConfigError)
        assert isinstance(good, list)

    # ---- concurrency

    def test_a_cancelled_call_does_not_harm_its_batch(self, lm: LanguageModel) -> None:
        sampling = Sampling(n=2, max_tokens=6, seed=3)

        async def together() -> list[Completion]:
            doomed = asyncio.create_task(lm.generate(OTHERS[0], sampling=sampling))
            kept = asyncio.create_task(lm.generate(PROMPT, sampling=sampling))
            await asyncio.sleep(0)  # both calls are queued now
            doomed.cancel()
            await asyncio.gather(doomed, return_exceptions=True)
            return await kept

        kept = asyncio.run(together())
        assert _tokens(kept) == _tokens(asyncio.run(lm.generate(PROMPT, sampling=sampling)))
