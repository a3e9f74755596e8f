"""Budgets, counting, limits on concurrency, event loops and cancelled calls."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest

from llmrec.errors import BudgetError, ConfigError, LlmrecError, ModelError, ServerDownError, UserError
from llmrec.lm.chat import Streaming
from llmrec.lm.endpoint.budget import Meter
from llmrec.lm.endpoint.settings import BudgetSettings
from llmrec.lm.protocol import LanguageModel, Sampling
from tests.lm.endpoint.server import Fake, Running, status
from tests.lm.endpoint.test_dialects import connect, generate


def test_it_is_a_language_model_that_streams(vllm: Fake) -> None:
    lm = connect(vllm)
    assert isinstance(lm, LanguageModel)
    assert isinstance(lm, Streaming)


def test_usage_is_counted_and_priced(vllm: Fake) -> None:
    prices = BudgetSettings(price_per_million_input=2.0, price_per_million_cached=1.0, price_per_million_output=10.0)
    lm = connect(vllm, budget=prices)
    generate(lm, "x" * 10, sampling=Sampling(n=2))  # each reads 10 tokens, 5 of them cached, and writes 4
    usage = lm.usage
    assert (usage.requests, usage.input_tokens, usage.cached_tokens, usage.output_tokens) == (2, 20, 10, 8)
    assert usage.cost == pytest.approx((10 * 2 + 10 * 1 + 8 * 10) / 1e6)


def test_a_call_over_the_budget_is_not_made(vllm: Fake) -> None:
    """The third call could read 10 and write 4 more tokens; 28 of 40 are used and 14 more could be."""
    lm = connect(vllm, budget=BudgetSettings(max_tokens=40))
    for _ in range(2):
        generate(lm, "x" * 10, sampling=Sampling(max_tokens=4))
    made = len(vllm.bodies("completions"))
    with pytest.raises(BudgetError, match=r"40 tokens.*28 are used and 14 more.*raise budget\.max_tokens"):
        generate(lm, "x" * 10, sampling=Sampling(max_tokens=4))
    assert len(vllm.bodies("completions")) == made == 2
    assert issubclass(BudgetError, UserError), "it must end a run, not become a failed session"


def test_a_budget_of_money_holds_for_scores_too(vllm: Fake) -> None:
    budget = BudgetSettings(max_cost=1e-4, price_per_million_input=1.0, price_per_million_output=10.0)
    lm = connect(vllm, budget=budget)
    for _ in range(4):  # each reads 12 tokens and writes one: 22 of the 100 millionths
        asyncio.run(lm.score("x" * 10, ["a"]))
    with pytest.raises(BudgetError, match=r"0\.0001 does not allow"):
        asyncio.run(lm.score("x" * 10, ["a"]))
    assert lm.usage.requests == 4
    assert lm.usage.cost == pytest.approx(88e-6)


def test_a_budget_holds_between_threads(vllm: Fake) -> None:
    """Calls under way count: 8 threads get no more out of the budget than one."""
    lm = connect(vllm, budget=BudgetSettings(max_tokens=100))
    generate(lm, "x" * 10, sampling=Sampling(max_tokens=4))  # 14 tokens; tells that a byte is a token here
    refused = []

    def spend() -> None:
        for _ in range(5):
            try:
                generate(lm, "x" * 10, sampling=Sampling(max_tokens=4))
            except BudgetError as error:
                refused.append(error)

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = lm.usage
    assert used.requests + len(refused) == 41
    assert used.requests == len(vllm.bodies("completions"))
    assert used.requests == 7
    assert used.tokens == 7 * 14


def test_no_more_requests_are_under_way_than_allowed(vllm: Fake) -> None:
    vllm.delay_s = 0.02
    generate(connect(vllm, max_concurrency=3), sampling=Sampling(n=12))
    assert vllm.most == 3


def test_samples_of_llamacpp_follow_each_other(llamacpp: Fake) -> None:
    """Its prompt cache belongs to a slot: samples at once would each read the prompt."""
    llamacpp.delay_s = 0.02
    generate(connect(llamacpp), sampling=Sampling(n=3))
    assert llamacpp.most == 1


def test_one_engine_serves_many_loops_and_threads_and_leaves_nothing_open(vllm: Fake) -> None:
    lm = connect(vllm)
    for _ in range(3):
        assert generate(lm)[0].text == "fine"
    threads = [threading.Thread(target=generate, args=(lm,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lm.usage.requests == 7
    assert not lm._client._open


async def test_connections_can_be_closed_and_open_again(vllm: Fake) -> None:
    lm = connect(vllm)
    await lm.generate("ab")
    assert len(lm._client._open) == 1
    await lm.aclose()
    await lm.aclose()
    assert not lm._client._open
    assert (await lm.generate("ab"))[0].text == "fine"


def test_a_cancelled_call_gives_its_place_back_and_counts_as_spent(vllm: Fake) -> None:
    """The server had it and may have written all of it: one token of the prompt (estimated) and 100 new ones."""
    vllm.delay_s = 0.2
    lm = connect(vllm, max_concurrency=1, budget=BudgetSettings(max_tokens=150))

    async def cancel_and_ask() -> str:
        doomed = asyncio.create_task(lm.generate("ab", sampling=Sampling(max_tokens=100)))
        await asyncio.sleep(0.05)
        doomed.cancel()
        await asyncio.gather(doomed, return_exceptions=True)
        assert lm.usage.tokens == 101
        with pytest.raises(BudgetError):
            await lm.generate("ab", sampling=Sampling(max_tokens=100))
        return (await lm.generate("ab", sampling=Sampling(max_tokens=40)))[0].text

    started = time.monotonic()
    assert asyncio.run(cancel_and_ask()) == "fine"
    assert time.monotonic() - started < 2


def test_streams_that_are_left_count_with_what_was_seen(vllm: Fake) -> None:
    """Each with a prompt of one token (estimated) and one piece; 20 of them leave no room for 21 more tokens of 60."""
    lm = connect(vllm, budget=BudgetSettings(max_tokens=60))

    async def leave(times: int) -> None:
        for _ in range(times):
            stream = lm.stream("ab", sampling=Sampling(max_tokens=10))
            assert (await anext(stream)).text == "f"
            await stream.aclose()  # type: ignore[attr-defined]

    # The SDK leaves the inner generators of an abandoned response to the garbage collector; run in the thread of the
    # server while the loop closes one of them, it would complain of a generator that is executing.
    gc.collect()
    gc.disable()
    try:
        asyncio.run(leave(20))
        gc.collect()
    finally:
        gc.enable()
    used = lm.usage
    assert (used.requests, used.input_tokens, used.output_tokens) == (20, 20, 20)
    with pytest.raises(BudgetError, match="40 are used"):
        generate(lm, "ab", sampling=Sampling(max_tokens=20))


def test_a_call_that_timed_out_counts_as_its_reservation(vllm: Fake) -> None:
    vllm.delay_s = 0.3
    lm = connect(vllm, timeout_s=0.05, max_retries=0)
    with pytest.raises(ModelError, match="no answer"):
        generate(lm, "x" * 10, sampling=Sampling(max_tokens=7))
    assert (lm.usage.requests, lm.usage.input_tokens, lm.usage.output_tokens) == (1, 4, 7)


def test_calls_that_reached_no_model_cost_nothing() -> None:
    with Running("vllm") as fake:
        lm = connect(fake)
        fake.faults = [status(400, "no"), status(404, "no")]
        for _ in range(2):
            with pytest.raises(LlmrecError):
                generate(lm)
    with pytest.raises(ServerDownError):
        generate(lm)
    assert (lm.usage.requests, lm.usage.tokens) == (3, 0)


def test_a_short_prompt_teaches_an_offset_and_no_rate() -> None:
    """10 bytes that are 40 tokens, most of a chat template: 36 more than estimated, for a prompt of any length."""
    meter = Meter(BudgetSettings())
    meter.settle(meter.reserve(n_bytes=10, n_tokens=0, max_tokens=1), {"prompt_tokens": 40}, retries=0)
    assert meter.reserve(n_bytes=1000, n_tokens=0, max_tokens=1).prompt == pytest.approx(36 + 400)
    assert meter.reserve(n_bytes=0, n_tokens=50, max_tokens=1).prompt == 50


def test_a_long_prompt_teaches_a_rate_of_at_most_a_token_per_byte() -> None:
    for told, expected in ((250, 500), (100, 400), (900, 1000)):
        meter = Meter(BudgetSettings())
        meter.settle(meter.reserve(n_bytes=500, n_tokens=0, max_tokens=1), {"prompt_tokens": told}, retries=0)
        assert meter.reserve(n_bytes=1000, n_tokens=0, max_tokens=1).prompt == pytest.approx(expected)


def test_a_stream_that_is_left_gives_its_place_back(vllm: Fake) -> None:
    lm = connect(vllm, max_concurrency=1)

    async def leave_and_ask() -> str:
        async for piece in lm.stream("ab"):
            assert piece.text == "f"
            break
        return (await asyncio.wait_for(lm.generate("ab"), 5))[0].text

    assert asyncio.run(leave_and_ask()) == "fine"


def test_wrong_calls_are_refused_before_they_are_sent(vllm: Fake) -> None:
    lm = connect(vllm)
    for sampling in (Sampling(n=0), Sampling(max_tokens=0), Sampling(temperature=-1), Sampling(stop=("",))):
        with pytest.raises(ConfigError):
            generate(lm, sampling=sampling)
    with pytest.raises(ConfigError, match="sequence of texts"):
        asyncio.run(lm.score("ab", "text"))
    with pytest.raises(ConfigError, match="pass messages"):
        generate(lm, tools=[{"function": {"name": "x"}}])
    assert asyncio.run(lm.score("ab", [])) == []
    assert not vllm.bodies("completions")
