"""What is sent to each kind of server, and what is made of its answers."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable
from typing import Any

import pytest

from llmrec.errors import ConfigError, ModelError, UnsupportedError
from llmrec.lm import toolcalls
from llmrec.lm.endpoint.engine import EndpointLM
from llmrec.lm.endpoint.settings import EndpointSettings
from llmrec.lm.protocol import Constraint, Message, Sampling
from llmrec.testing.language_model import CHAT, SCHEMA, TOOLS
from tests.lm.endpoint import server
from tests.lm.endpoint.server import Fake, chat_text, logprob, status

CALL = {"id": "x", "type": "function", "function": {"name": "search", "arguments": '{"n": 3}'}}


def connect(fake: Fake, **settings: Any) -> EndpointLM:
    model = "small" if fake.kind == "openai" else None
    return EndpointLM.connect(EndpointSettings(base_url=fake.url, **{"model": model, **settings}))


def generate(lm: EndpointLM, prompt: Any = "ab", **arguments: Any) -> Any:
    return asyncio.run(lm.generate(prompt, **arguments))


async def _awaited(call: Awaitable[Any]) -> Any:
    return await call


def expected_score(prompt: str, continuation: str, *, start: bool) -> float:
    """Sum over bytes of the fake's made-up model."""
    tokens = [2, *prompt.encode()] if start else list(prompt.encode())
    total = 0.0
    for token in continuation.encode():
        total += logprob(tokens, token)
        tokens.append(token)
    return total


# ---- who is there


def test_servers_are_recognised(llamacpp: Fake, vllm: Fake, openai_server: Fake) -> None:
    one, two, three = connect(llamacpp), connect(vllm), connect(openai_server)
    assert one.name == "endpoint:tiny.gguf(F32,9)+blue,red"
    assert one.context == 512
    assert one.capabilities.constraints == {"choice", "json_schema"}
    assert two.name == "endpoint:tiny+red"
    assert two.capabilities.adapters == ("red",)
    assert two.context == 64
    assert two.capabilities.constraints == {"choice", "json_schema", "lark"}
    assert three.name == "endpoint:small"
    assert three.context is None
    assert three.capabilities.adapters == ()


def test_the_name_does_not_depend_on_the_port(llamacpp: Fake) -> None:
    assert llamacpp.url.rsplit(":", 1)[1] not in connect(llamacpp).name


def test_one_of_several_models_must_be_named(openai_server: Fake, vllm: Fake) -> None:
    with pytest.raises(ConfigError, match=r"2 models.*#MODEL: small, large"):
        connect(openai_server, model=None)
    with pytest.raises(ConfigError, match=r"no model 'huge'; it has: tiny"):
        connect(vllm, model="huge")


def test_a_large_service_may_serve_what_it_does_not_list(openai_server: Fake) -> None:
    lm = connect(openai_server, model="huge")
    assert generate(lm)[0].text == "fine"
    assert openai_server.bodies("completions")[-1]["model"] == "huge"
    openai_server.faults = [status(404, "The model `huge` does not exist.")]
    with pytest.raises(ConfigError, match="it has: small, large"):
        generate(lm)


def test_adapters_with_one_file_name_are_told_apart_by_their_folders(
    llamacpp: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ["/x/red/adapter.gguf", "/x/blue/adapter.gguf", "/x/green.gguf"]
    monkeypatch.setattr(server, "LORAS", [{"id": number, "path": path} for number, path in enumerate(paths)])
    lm = connect(llamacpp)
    assert lm.capabilities.adapters == ("red/adapter", "blue/adapter", "green")
    generate(lm, adapter="blue/adapter")
    assert [lora["scale"] for lora in llamacpp.bodies("completions")[-1]["lora"]] == [0.0, 1.0, 0.0]
    paths[1] = "/y/red/adapter.gguf"
    monkeypatch.setattr(server, "LORAS", [{"id": number, "path": path} for number, path in enumerate(paths)])
    with pytest.raises(ConfigError, match="several adapters 'red/adapter'; rename"):
        connect(llamacpp)


def test_verbs_are_those_that_the_server_has(openai_server: Fake) -> None:
    assert connect(openai_server).capabilities.verbs == {"generate", "score"}
    assert connect(openai_server, logprobs=False).capabilities.verbs == {"generate"}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (501, "This server does not support completions. Start it without `--embeddings`"),
        (500, "the current context does not support logits computation. skipping"),
    ],
)
def test_a_server_that_only_embeds_neither_writes_nor_scores(
    llamacpp: Fake, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    monkeypatch.setitem(server.ROUTES, ("llamacpp", "/v1/embeddings"), server.ROUTES["openai", "/v1/embeddings"])
    monkeypatch.setitem(
        server.ROUTES,
        ("llamacpp", "/completion"),
        lambda handler, body: handler.reply({"error": {"message": said}}, status=code),
    )
    lm = connect(llamacpp)
    assert lm.capabilities.verbs == {"embed"}
    assert asyncio.run(lm.embed(["a"])).shape == (1, 2)
    for call in (lm.generate("ab"), lm.score("ab", ["c"]), anext(lm.stream("ab"))):
        with pytest.raises(UnsupportedError, match="only embeds; start it"):
            asyncio.run(_awaited(call))


def test_a_server_that_embeds_and_writes_has_all_verbs(llamacpp: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(server.ROUTES, ("llamacpp", "/v1/embeddings"), server.ROUTES["openai", "/v1/embeddings"])
    monkeypatch.setitem(server.ROUTES, ("llamacpp", "/completion"), lambda handler, body: handler.reply({}))
    assert connect(llamacpp).capabilities.verbs == {"generate", "score", "embed"}


# ---- generate


def test_every_sample_has_its_own_seed_whatever_n_is(vllm: Fake) -> None:
    vllm.text = "{seed}"
    lm = connect(vllm)
    few = generate(lm, sampling=Sampling(n=2, seed=7))
    many = generate(lm, sampling=Sampling(n=4, seed=7))
    assert few == many[:2]
    assert len({sample.text for sample in many}) == 4
    assert len({sample.text for sample in generate(lm, sampling=Sampling(n=2, seed=8))} | {few[0].text}) == 3


def test_seeds_of_llamacpp_fit_32_bits_and_are_never_random(llamacpp: Fake) -> None:
    generate(connect(llamacpp), sampling=Sampling(n=20))
    seeds = [body["seed"] for body in llamacpp.bodies("/completions")]
    assert len(set(seeds)) == 20
    assert all(0 <= seed < 2**32 - 1 for seed in seeds)


@pytest.mark.parametrize("kind", ["llamacpp", "vllm"])
@pytest.mark.parametrize("prompt", ["ab", CHAT])
def test_no_sampler_of_the_server_bends_the_distribution(kind: str, prompt: Any, request: Any) -> None:
    fake: Fake = request.getfixturevalue(kind)
    generate(connect(fake), prompt, sampling=Sampling(temperature=1.0))
    (body,) = fake.bodies("completions")
    assert body["temperature"] == 1.0
    assert body["top_p"] == 1.0
    assert body["min_p"] == 0.0
    assert body["top_k"] == (0 if kind == "llamacpp" else -1)
    assert body.get("repeat_penalty", body.get("repetition_penalty")) == 1.0


def test_logprobs_are_summed_when_every_token_has_one(vllm: Fake, openai_server: Fake) -> None:
    (sample,) = generate(connect(vllm))
    assert (sample.logprob, sample.n_tokens) == (-0.25 * 4, 4)
    (silent,) = generate(connect(openai_server, logprobs=False))
    assert math.isnan(silent.logprob)
    assert "logprobs" not in openai_server.bodies("completions")[-1]


def test_a_stop_text_that_the_server_returns_is_cut_off(openai_server: Fake) -> None:
    openai_server.text = "one END two"
    stops = ("1", "2", "3", "4", "END")
    (sample,) = generate(connect(openai_server), CHAT, sampling=Sampling(stop=stops))
    assert openai_server.bodies("completions")[-1]["stop"] == ["1", "2", "3", "4"]  # the API takes four
    assert (sample.text, sample.raw, sample.finish_reason) == ("one ", "one ", "stop")
    assert math.isnan(sample.logprob)


@pytest.mark.parametrize(("said", "meant"), [("stop", "stop"), ("tool_calls", "stop"), ("length", "length")])
def test_reasons_are_translated(vllm: Fake, said: str, meant: str) -> None:
    vllm.finish_reason = said
    assert generate(connect(vllm))[0].finish_reason == meant


@pytest.mark.parametrize("said", ["content_filter", None])
def test_an_answer_that_did_not_end_is_no_answer(vllm: Fake, said: str | None) -> None:
    vllm.finish_reason = said
    with pytest.raises(ModelError, match="content_filter" if said else "middle of an answer"):
        generate(connect(vllm))


def test_an_adapter_is_a_model_of_vllm_and_a_scale_of_llamacpp(vllm: Fake, llamacpp: Fake) -> None:
    generate(connect(vllm), adapter="red")
    assert vllm.bodies("completions")[-1]["model"] == "red"
    lm = connect(llamacpp)
    generate(lm, adapter="blue")
    assert llamacpp.bodies("completions")[-1]["lora"] == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]
    generate(lm)
    assert llamacpp.bodies("completions")[-1]["lora"] == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]
    with pytest.raises(UnsupportedError, match=r"'green'.*red, blue"):
        generate(lm, adapter="green")


# ---- tools


def test_calls_that_the_server_parsed_are_in_raw_again(vllm: Fake) -> None:
    vllm.text, vllm.finish_reason, vllm.answer = "", "tool_calls", {"tool_calls": [CALL], "content": None}
    (sample,) = generate(connect(vllm), CHAT, tools=TOOLS)
    assert [(call.name, call.arguments) for call in sample.tool_calls] == [("search", {"n": 3})]
    assert sample.text == ""
    assert toolcalls.parse(sample.raw).calls == sample.tool_calls
    assert vllm.bodies("completions")[-1]["tools"] == TOOLS


def test_calls_written_as_text_are_read(vllm: Fake) -> None:
    vllm.answer = {"content": 'Well.\n```json\n{"name": "search", "arguments": {"n": 3}}\n```'}
    (sample,) = generate(connect(vllm), CHAT, tools=TOOLS)
    assert [(call.name, call.arguments) for call in sample.tool_calls] == [("search", {"n": 3})]


def test_messages_with_calls_go_out_in_the_apis_form(vllm: Fake) -> None:
    function = {"name": "search", "arguments": {"n": 3}}
    messages: list[Message] = [
        *CHAT,
        {"role": "assistant", "content": "", "tool_calls": [{"function": function}]},
        {"role": "tool", "content": "found"},
    ]
    generate(connect(vllm), messages, tools=TOOLS)
    _, asked, answered = vllm.bodies("completions")[-1]["messages"]
    (call,) = asked["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"n": 3}
    assert (call["type"], call["id"]) == ("function", answered["tool_call_id"])
    assert function["arguments"] == {"n": 3}, "the caller's message must stay as it was"


# ---- constraints


def test_constraints_go_out_in_the_servers_words(llamacpp: Fake, vllm: Fake, openai_server: Fake) -> None:
    schema, choice = Constraint("json_schema", SCHEMA), Constraint("choice", ["yes", 'say "no"'])
    one, two, three = connect(llamacpp), connect(vllm), connect(openai_server)
    generate(one, constraint=schema)
    assert llamacpp.bodies("completions")[-1]["json_schema"] == SCHEMA
    generate(one, CHAT, constraint=schema)
    assert llamacpp.bodies("completions")[-1]["response_format"]["json_schema"]["schema"] == SCHEMA
    generate(one, constraint=choice)
    assert llamacpp.bodies("completions")[-1]["grammar"] == r'root ::= "yes" | "say \"no\""'
    generate(two, constraint=choice)
    assert vllm.bodies("completions")[-1]["structured_outputs"] == {"choice": ["yes", 'say "no"']}
    generate(two, CHAT, constraint=Constraint("lark", 'start: "a"'))
    assert vllm.bodies("completions")[-1]["structured_outputs"] == {"grammar": 'start: "a"'}
    openai_server.text = json.dumps({"answer": 'say "no"'}).replace("{", "{{").replace("}", "}}")
    (chosen,) = generate(three, CHAT, constraint=choice)
    assert (chosen.text, chosen.raw) == ('say "no"', 'say "no"')


def test_what_a_server_cannot_hold_is_refused_before_it_is_asked(llamacpp: Fake, openai_server: Fake) -> None:
    one, two = connect(llamacpp), connect(openai_server)
    for lm, prompt, constraint, tools in (
        (one, CHAT, Constraint("lark", 'start: "a"'), []),
        (one, CHAT, Constraint("choice", ["a"]), TOOLS),
        (two, CHAT, Constraint("lark", 'start: "a"'), []),
        (two, "ab", Constraint("json_schema", SCHEMA), []),
    ):
        with pytest.raises(UnsupportedError, match=r"use a|leave the tools"):
            generate(lm, prompt, constraint=constraint, tools=tools)
    with pytest.raises(ConfigError, match="non-empty texts"):
        generate(one, constraint=Constraint("choice", []))
    assert not llamacpp.bodies("completions")
    assert not openai_server.bodies("completions")


# ---- score and embed


@pytest.mark.parametrize("kind", ["llamacpp", "vllm"])
def test_scores_are_the_models_own(kind: str, request: Any) -> None:
    fake: Fake = request.getfixturevalue(kind)
    lm = connect(fake)
    texts = ["a", "abc", "abd", "~", "", "é"]  # near and far from the last byte, and two parts of one character
    for prompt, text, start in (("ab", "ab", True), (CHAT, chat_text(CHAT), kind == "llamacpp")):
        scores = asyncio.run(lm.score(prompt, texts))
        assert scores == pytest.approx([expected_score(text, end, start=start) for end in texts], abs=1e-9)
        assert scores[4] == 0


def test_equal_beginnings_share_requests(llamacpp: Fake) -> None:
    lm = connect(llamacpp)
    asyncio.run(lm.score("ab", ["bc", "bd", "b"]))
    prompts = [tuple(body["prompt"]) for body in llamacpp.bodies("/completion")]
    assert prompts == [(2, 97, 98), (2, 97, 98, 98)]


def test_plain_openai_scores_single_likely_tokens_after_messages(openai_server: Fake) -> None:
    lm = connect(openai_server)
    assert asyncio.run(lm.score(CHAT, ["No", "Yes", ""])) == [-1.0, -0.5, 0.0]
    assert openai_server.bodies("completions")[-1]["top_logprobs"] == 20
    with pytest.raises(UnsupportedError, match="'Maybe' is not among the 2 first tokens"):
        asyncio.run(lm.score(CHAT, ["Yes", "Maybe"]))
    with pytest.raises(UnsupportedError, match="logprobs: false"):
        asyncio.run(connect(openai_server, logprobs=False).score(CHAT, ["Yes"]))


def test_embeddings_keep_the_order_of_the_texts(openai_server: Fake) -> None:
    lm = connect(openai_server, embedding_model="embedder")
    assert asyncio.run(lm.embed(["a", "abc"])).tolist() == [[1.0, 1.0], [3.0, 1.0]]
    assert openai_server.bodies("embeddings")[-1]["model"] == "embedder"


def test_a_server_without_embeddings_refuses(vllm: Fake) -> None:
    lm = connect(vllm)
    assert "embed" not in lm.capabilities.verbs
    with pytest.raises(UnsupportedError, match="does not embed"):
        asyncio.run(lm.embed(["a"]))


# ---- streams


@pytest.mark.parametrize("prompt", ["ab", CHAT])
def test_a_stream_gives_text_as_it_comes_and_the_sample_at_its_end(vllm: Fake, prompt: Any) -> None:
    vllm.text = "one END two"

    async def collect() -> list[Any]:
        return [piece async for piece in connect(vllm).stream(prompt, sampling=Sampling(stop=("END",)))]

    pieces = asyncio.run(collect())
    assert "".join(piece.text for piece in pieces) == "one "
    assert len(pieces) > 2
    assert pieces[-1].completion.raw == "one "


def test_a_streamed_call_is_pieced_together(vllm: Fake) -> None:
    vllm.text, vllm.finish_reason, vllm.answer = "ok", "tool_calls", {"tool_calls": [CALL]}

    async def collect() -> list[Any]:
        return [piece async for piece in connect(vllm).stream(CHAT, tools=TOOLS)]

    pieces = asyncio.run(collect())
    (call,) = pieces[-1].completion.tool_calls
    assert (call.name, call.arguments) == ("search", {"n": 3})
    assert "".join(piece.text for piece in pieces) == pieces[-1].completion.raw
