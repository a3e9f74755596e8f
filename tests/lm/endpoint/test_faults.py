"""Servers that misbehave: who must act, and in one line what to do."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from llmrec.errors import ConfigError, LlmrecError, ModelError, ServerDownError, UnsupportedError
from llmrec.lm.endpoint.engine import EndpointLM
from llmrec.lm.endpoint.settings import EndpointSettings
from llmrec.lm.loading import load_backbone
from llmrec.lm.protocol import Constraint, LanguageModel, Sampling
from llmrec.lm.scripted import RecordingLM
from llmrec.testing.language_model import CHAT
from tests.lm.endpoint.server import KEY, Fake, Handler, Running, chat_text, status
from tests.lm.endpoint.test_dialects import connect, generate

OVERFLOWS = {
    "llama.cpp": {"message": "too long", "type": "exceed_context_size_error", "n_prompt_tokens": 900, "n_ctx": 512},
    "vLLM": {"message": "This model's maximum context length is 512 tokens. However, you requested 900 tokens"},
    "OpenAI": {"message": "512 tokens at most, got 900", "code": "context_length_exceeded"},
}


def collect(lm: EndpointLM, **arguments: Any) -> list[Any]:
    async def pieces() -> list[Any]:
        return [piece async for piece in lm.stream(CHAT, **arguments)]

    return asyncio.run(pieces())


def free_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# ---- nobody there, or somebody else


def test_no_server_at_the_start_is_told_at_once() -> None:
    url, started = free_url(), time.monotonic()
    with pytest.raises(ServerDownError, match=r"llmrec models serve FILE\.gguf") as caught:
        load_backbone(f"endpoint:{url}")
    assert f"{url}/v1" in str(caught.value)
    assert time.monotonic() - started < 2


def test_a_server_that_goes_away_ends_the_run_and_is_no_failed_session() -> None:
    """A user error, so that a journal does not record the rest of a run as sessions that failed."""
    with Running() as fake:
        lm = connect(fake)
    with pytest.raises(ServerDownError, match="start it again"):
        generate(lm)


def test_a_server_that_is_loading_gets_its_time(llamacpp: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.lm.endpoint import server

    asked = 0

    def loading(handler: Handler, body: Any) -> None:
        nonlocal asked
        asked += 1
        if asked < 4:
            return handler.reply({"error": {"message": "Loading model"}}, status=503)
        handler.reply({"data": llamacpp.models})

    monkeypatch.setitem(server.ROUTES, ("llamacpp", "/v1/models"), loading)
    assert connect(llamacpp).context == 512


@pytest.mark.parametrize(
    ("status_code", "page"), [(200, b"<html>Welcome</html>"), (404, b"<html>Nothing</html>"), (200, b"{}")]
)
def test_another_kind_of_server_is_recognised(llamacpp: Fake, status_code: int, page: bytes, monkeypatch: Any) -> None:
    from tests.lm.endpoint import server

    def website(handler: Handler, body: Any) -> None:
        handler.reply(page, status=status_code, headers={"Content-Type": "text/html"})

    monkeypatch.setitem(server.ROUTES, ("llamacpp", "/v1/models"), website)
    with pytest.raises(LlmrecError, match="no OpenAI-compatible server"):
        connect(llamacpp)


def test_a_wrong_base_path_is_no_wrong_model(vllm: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.lm.endpoint import server

    said = {"error": {"message": "no model route GET /v1/models"}}
    monkeypatch.setitem(server.ROUTES, ("vllm", "/v1/models"), lambda handler, body: handler.reply(said, status=404))
    with pytest.raises(ConfigError, match=r"has no /v1/models.*check base_url"):
        connect(vllm)
    monkeypatch.undo()
    vllm.faults = [status(404, "the remodelled API has moved")]
    with pytest.raises(UnsupportedError, match="has no /v1/completions"):
        generate(connect(vllm))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/models", {"data": [{"id": "a", "owned_by": ["x"]}]}),
        ("/v1/models", {"data": [{"id": "a", "owned_by": "llamacpp", "meta": 5}]}),
        ("/lora-adapters", [1]),
        ("/lora-adapters", {"error": "none"}),
        ("/props", {"default_generation_settings": {"n_ctx": "many"}}),
    ],
)
def test_what_a_server_says_of_itself_may_be_garbage(
    llamacpp: Fake, monkeypatch: pytest.MonkeyPatch, path: str, said: Any
) -> None:
    from tests.lm.endpoint import server

    monkeypatch.setitem(server.ROUTES, ("llamacpp", path), lambda handler, body: handler.reply(said))
    with pytest.raises(ModelError, match="says of itself cannot be read"):
        connect(llamacpp)


def test_adapters_belong_to_the_server(llamacpp: Fake) -> None:
    with pytest.raises(ConfigError, match="start the server with them"):
        load_backbone(f"endpoint:{llamacpp.url}", adapters={"user": Path("user")})
    lm: LanguageModel = load_backbone(f"endpoint:{llamacpp.url}")
    assert isinstance(lm, EndpointLM)


# ---- overload and failures


def test_a_short_storm_is_waited_out(vllm: Fake) -> None:
    vllm.faults = [status(429, retry_after="0.2"), status(503), status(500)]
    lm, started = connect(vllm), time.monotonic()
    assert generate(lm)[0].text == "fine"
    assert time.monotonic() - started > 0.2, "Retry-After is honoured"
    assert (lm.usage.requests, lm.usage.retries) == (1, 3)


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_long_storm_is_an_error_that_says_how_often_it_was_tried(vllm: Fake, code: int) -> None:
    vllm.faults = [status(code)] * 9
    lm = connect(vllm, max_retries=3)
    with pytest.raises(ModelError, match=rf"status {code}\), asked 4 times: busy; "):
        generate(lm)
    assert (lm.usage.requests, lm.usage.retries) == (1, 3)
    assert bool(lm.usage.tokens) == (code >= 500), "what failed at the server may have been computed there"


def test_an_account_without_quota_is_not_asked_on(vllm: Fake) -> None:
    said = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    vllm.faults = [lambda handler: handler.reply(said, status=429)] * 2
    with pytest.raises(ConfigError, match="no quota left"):
        generate(connect(vllm, max_retries=1))


def test_a_server_that_hangs_is_given_up(vllm: Fake) -> None:
    vllm.delay_s = 0.5
    lm = connect(vllm, timeout_s=0.1, max_retries=1)
    with pytest.raises(ModelError, match=r"no answer within 0\.1 s, asked 2 times.*raise timeout_s"):
        generate(lm)


def test_a_connection_that_breaks_is_an_error(vllm: Fake) -> None:
    def hang_up(handler: Handler) -> None:
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    vllm.faults = [hang_up] * 3
    with pytest.raises(ModelError, match="broke"):
        generate(connect(vllm, max_retries=2))
    vllm.faults = [hang_up]
    assert generate(connect(vllm))[0].text == "fine"


@pytest.mark.parametrize("garbage", [b"<html>", b"[]", b'{"choices": []}', b'{"choices": [{"text": "x"}]}'])
def test_garbage_is_no_answer(vllm: Fake, garbage: bytes) -> None:
    vllm.faults = [lambda handler: handler.reply(garbage)]
    with pytest.raises(ModelError):
        generate(connect(vllm))


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": [{"type": "text", "text": "x"}]}},
        {"message": {"content": "x"}, "logprobs": {"content": [{"logprob": "low"}]}},
        {"text": 5},
        {"message": {"content": "x", "tool_calls": [{"function": "search"}]}},
    ],
)
def test_an_answer_of_another_form_is_a_model_error(vllm: Fake, choice: dict[str, Any]) -> None:
    lm = connect(vllm)
    answer = {"choices": [{"finish_reason": "stop", **choice}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    vllm.faults = [lambda handler: handler.reply(answer)]
    with pytest.raises(ModelError, match="not the form of a completion"):
        generate(lm, CHAT)
    assert lm._client.meter._held_tokens == 0


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ("x", None),  # no usage at all: as reserved
        ([1], None),
        ({"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": [1]}, 5),
        ({"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": "some"}}, 5),
        ({"prompt_tokens": "many", "completion_tokens": 2}, 2),
        ({"prompt_tokens": 3, "completion_tokens": "many"}, 3),
        ({"prompt_tokens": 3, "completion_tokens": [2]}, 3),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_broken_usage_breaks_nothing_and_leaves_nothing_reserved(
    vllm: Fake, usage: Any, tokens: int | None, streamed: bool
) -> None:
    lm = connect(vllm)
    choice = {"index": 0, "finish_reason": "stop"}
    whole = {"choices": [{**choice, "message": {"content": "x"}}], "usage": usage}
    piece = {"choices": [{**choice, "delta": {"content": "x"}}], "usage": usage}
    vllm.faults = [lambda handler: handler.send_events([piece]) if streamed else handler.reply(whole)]
    with suppress(ModelError):  # where the number of new tokens is missing
        _ = collect(lm) if streamed else generate(lm, CHAT)
    assert lm._client.meter._held_tokens == pytest.approx(0)
    assert lm.usage.tokens == tokens or (tokens is None and lm.usage.tokens > 2)


@pytest.mark.parametrize(
    "event",
    [
        [1],
        "x",
        5,
        {"choices": [1]},
        {"choices": [{"delta": {"content": ["x"]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": None, "function": {"name": "x"}}]}}]},
        {"choices": [{"delta": {"content": "x"}, "logprobs": {"content": [{"logprob": "low"}]}}]},
    ],
)
def test_garbage_in_a_stream_is_a_model_error(vllm: Fake, event: Any) -> None:
    lm = connect(vllm)
    vllm.faults = [lambda handler: handler.send_events([event])]
    with pytest.raises(ModelError):
        collect(lm)
    assert lm._client.meter._held_tokens == pytest.approx(0)
    assert lm.usage.requests == 1


def test_tokens_that_cannot_be_read_are_a_model_error(llamacpp: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.lm.endpoint import server

    lm = connect(llamacpp)
    monkeypatch.setitem(server.ROUTES, ("all", "/tokenize"), lambda handler, body: handler.reply({"tokens": ["x"]}))
    with pytest.raises(ModelError, match="tokens cannot be read"):
        asyncio.run(lm.score("ab", ["c"]))
    monkeypatch.setitem(server.ROUTES, ("llamacpp", "/apply-template"), lambda handler, body: handler.reply({}))
    with pytest.raises(ModelError, match="gave no prompt"):
        asyncio.run(lm.score(CHAT, ["c"]))


@pytest.mark.parametrize("body", OVERFLOWS.values(), ids=OVERFLOWS)
def test_a_prompt_that_is_too_long_is_told_with_both_numbers(vllm: Fake, body: dict[str, Any]) -> None:
    vllm.faults = [lambda handler: handler.reply({"error": body}, status=400)]
    with pytest.raises(ModelError, match=r"context.*shorten it") as caught:
        generate(connect(vllm), "x" * 900)
    assert "900" in str(caught.value)
    assert "512" in str(caught.value)


def test_an_answer_that_would_pass_the_context_is_cut_there(vllm: Fake) -> None:
    """vLLM refuses it: the call is made again with the room that is left, 64 tokens less the prompt's 4."""
    body = {"message": "maximum context length is 64 tokens. However, you requested 104 tokens"}
    vllm.faults = [lambda handler: handler.reply({"error": body}, status=400)]
    vllm.finish_reason = "length"
    (sample,) = generate(connect(vllm), "abc", sampling=Sampling(max_tokens=100))
    assert [body["max_tokens"] for body in vllm.bodies("completions")] == [100, 60]  # a begin token and 3 bytes
    assert sample.finish_reason == "length"


def test_a_stream_that_would_pass_the_context_is_cut_there(vllm: Fake) -> None:
    body = {"message": "maximum context length is 64 tokens. However, you requested 104 tokens"}
    vllm.faults = [lambda handler: handler.reply({"error": body}, status=400)]
    vllm.finish_reason = "length"
    room = 64 - len(chat_text(CHAT))
    pieces = collect(connect(vllm), sampling=Sampling(max_tokens=100))
    assert [body["max_tokens"] for body in vllm.bodies("completions")] == [100, room]
    assert "".join(piece.text for piece in pieces) == "fine"
    assert pieces[-1].completion.finish_reason == "length"
    vllm.faults = [lambda handler: handler.reply({"error": body}, status=400)] * 2
    with pytest.raises(ModelError, match="shorten it"):
        collect(connect(vllm), sampling=Sampling(max_tokens=100))


def test_a_constraint_that_the_server_refuses_is_the_callers_fault(vllm: Fake) -> None:
    vllm.faults = [status(400, "grammar is not valid")]
    with pytest.raises(ConfigError, match=r"lark constraint.*grammar is not valid"):
        generate(connect(vllm), constraint=Constraint("lark", "start: nowhere"))


def test_a_model_that_is_gone_is_told_with_those_that_are_there(vllm: Fake) -> None:
    vllm.faults = [status(404, "The model `tiny` does not exist.")]
    with pytest.raises(ConfigError, match="it has: tiny, red"):
        generate(connect(vllm))


def test_a_server_without_text_completions_says_so(openai_server: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.lm.endpoint import server

    monkeypatch.delitem(server.ROUTES, ("all", "/v1/completions"))
    lm = connect(openai_server)
    with pytest.raises(UnsupportedError, match="has no /v1/completions"):
        generate(lm)
    assert generate(lm, CHAT)[0].text == "fine"


@pytest.mark.parametrize("done", [True, False])
def test_half_a_stream_is_no_answer(vllm: Fake, done: bool) -> None:
    half = [{"choices": [{"index": 0, "delta": {"content": "The film is"}, "finish_reason": None}]}]
    vllm.faults = [lambda handler: handler.send_events(half, done=done)]
    with pytest.raises(ModelError, match="middle of an answer"):
        collect(connect(vllm))


def test_a_stream_that_breaks_off_or_reports_an_error_is_no_answer(vllm: Fake) -> None:
    def cut(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'data: {"choices": [{"index": 0, "delta": {"content": "The"}}]}\n\n')
        handler.close_connection = True

    failing = [{"error": {"message": "out of memory", "code": 500}}]
    vllm.faults = [cut, lambda handler: handler.send_events(failing)]
    lm = connect(vllm)
    with pytest.raises(ModelError, match="broke"):
        collect(lm)
    with pytest.raises(ModelError, match="out of memory"):
        collect(lm)
    assert collect(lm)[-1].completion.text == "fine"


# ---- keys


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_key_names_the_variable_and_shows_the_key_nowhere(
    vllm: Fake, code: int, monkeypatch: pytest.MonkeyPatch, caplog: Any, capfd: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    vllm.key = KEY
    lm = connect(vllm, key_variable="MY_KEY")
    recording = RecordingLM(lm, tmp_path / "calls.jsonl")
    asyncio.run(recording.generate("ab", sampling=Sampling(seed=1)))
    vllm.faults = [status(code, f"Incorrect API key provided: {KEY}")]
    shown = [lm.name, repr(lm.settings), lm.settings.model_dump_json(), repr(lm.usage), repr(vars(lm))]
    for call in (generate, collect, lambda lm: asyncio.run(lm.score("ab", ["c"]))):
        vllm.faults = [status(code, f"Incorrect API key provided: {KEY}")]
        with pytest.raises(
            ConfigError, match=rf"refuses the key in the environment variable MY_KEY \(status {code}\)"
        ) as caught:
            call(lm)
        shown += traceback.format_exception(caught.value, chain=True)
        error: BaseException | None = caught.value
        while error is not None:
            shown += [repr(error), repr(vars(error))]
            error = error.__cause__ or error.__context__
    vllm.faults = [status(400, f"bad request of {KEY}")]
    with pytest.raises(ModelError) as refused:
        generate(lm)
    shown += [str(refused.value), caplog.text, *capfd.readouterr(), (tmp_path / "calls.jsonl").read_text()]
    assert KEY not in "\n".join(map(str, shown))
    assert "***" in str(refused.value)


def test_a_missing_key_names_the_variable(vllm: Fake) -> None:
    vllm.key = KEY
    with pytest.raises(ConfigError, match="the environment variable OPENAI_API_KEY is empty"):
        connect(vllm)


def test_a_key_goes_only_where_its_variable_says(vllm: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", KEY)
    lm = connect(vllm, key_variable="OTHER_KEY")
    generate(lm)
    assert KEY not in str([request.headers for request in vllm.received])
    generate(connect(vllm))
    assert vllm.received[-1].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in str([request.body for request in vllm.received])


def test_nothing_of_the_environment_goes_to_a_server(vllm: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Gateway-Key: {KEY}\nAuthorization: Bearer {KEY}")
    monkeypatch.setenv("OPENAI_ORG_ID", KEY)
    monkeypatch.setenv("OPENAI_PROJECT_ID", KEY)
    for name in ("", "MY_KEY"):
        monkeypatch.setenv("MY_KEY", name)
        lm = connect(vllm, key_variable="MY_KEY")
        generate(lm)
        collect(lm)
    assert len(vllm.received) >= 6
    assert KEY not in str([request.headers for request in vllm.received])
    assert not [name for request in vllm.received for name in request.headers if name.startswith("openai-")]


@pytest.mark.parametrize("url", ["http://192.0.2.7:8000", "http://models.example", "http://127.0.0.1.example"])
def test_the_common_key_does_not_leave_the_machine_in_clear(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ConfigError, match=r"OPENAI_API_KEY would go to http://.* in clear; use https, or set key_var"):
        EndpointLM.connect(url)
    asked = EndpointSettings(base_url=url, key_variable="OPENAI_API_KEY")
    assert asked.key_to_send() == KEY
    assert EndpointSettings(base_url=url.replace("http:", "https:")).key_to_send() == KEY
    monkeypatch.delenv("OPENAI_API_KEY")
    assert EndpointSettings(base_url=url).key_to_send() == ""


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "127.3.2.1", "a.localhost"])
def test_the_common_key_may_go_to_this_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert EndpointSettings(base_url=f"http://{host}").key_to_send() == KEY


@pytest.mark.parametrize("key", ["sk-planted\nsecret", "sk-planted-sécret", "sk-planted\x00"])
def test_a_key_with_foreign_characters_is_named_and_not_shown(
    vllm: Fake, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an environment cannot hold every such key
    monkeypatch.setattr("os.environ", {**os.environ, "MY_KEY": key})
    with pytest.raises(ConfigError, match="the key in MY_KEY has characters no key has; paste it again") as caught:
        connect(vllm, key_variable="MY_KEY")
    assert "planted" not in "".join(traceback.format_exception(caught.value))
    assert not vllm.received


def test_settings_may_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert KEY not in repr(EndpointSettings(base_url="http://host"))
