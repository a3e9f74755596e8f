"""The assembled recommender with a model that knows nothing: the grammar alone keeps every call valid."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from llmrec.assets import asset
from llmrec.errors import ConfigError
from llmrec.lm.local import LocalLM
from llmrec.roles import phrases
from llmrec.roles.brain import GrammarBrain
from llmrec.roles.checking import count_out_of_catalogue
from llmrec.roles.loading import load_agent
from llmrec.roles.observation import Observation, Reply
from llmrec.roles.recommender import respond
from llmrec.roles.serving import resources_for
from llmrec.roles.voices import VOICES
from llmrec.seeding import rng
from llmrec.testing.models import save_tiny_model

N = 14


async def test_an_untrained_model_stays_inside_the_catalogue(tmp_path: Path) -> None:
    agent = load_agent("recommender")
    resources = resources_for(agent.config)
    catalogue = resources.dataset.catalogue
    texts = [catalogue.document(row) for row in range(200)]
    lm = LocalLM.from_folder(save_tiny_model(tmp_path / "tiny", texts=texts), dtype="float32", device="cpu")
    graph = agent.build(agent.config, resources=resources, brain=GrammarBrain(lm))

    async def one(index: int) -> tuple[Observation, Reply]:
        said = phrases.utterance(catalogue, rng(7, index), family=list(VOICES)[index % len(VOICES)])
        history = tuple(int(row) for row in resources.dataset.interactions.history(index)[:8])
        view = Observation(history=history, messages=(said.message,) if index % 4 else ())
        return view, await respond(graph, view, seed=index)

    answers = await asyncio.gather(*(one(index) for index in range(N)))
    for view, reply in answers:
        assert reply.failed is None
        assert len(reply.slate) == len(set(reply.slate)) == 5
        assert not set(view.history) & set(reply.slate)
        assert count_out_of_catalogue(reply, catalogue) == 0
        assert reply.request is not None
        assert not reply.request.unread or reply.notes
        assert all(reply.request.allows(catalogue, row) for row in reply.slate)
        assert [event.error for event in reply.events if event.error] == []
    alone = await respond(graph, answers[0][0], seed=0)
    assert alone == answers[0][1]  # the same turn by itself, not in a batch


async def test_langgraph_json_names_a_factory_that_loads_on_call(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    graphs = json.loads(asset("langgraph.json").read_text(encoding="utf-8"))["graphs"]
    path, name = graphs["recommender"].split(":")
    spec = importlib.util.spec_from_file_location("served_recommender", asset(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("LLMREC_BACKBONE", raising=False)
    with pytest.raises(ConfigError, match="LLMREC_BACKBONE"):
        await getattr(module, name)()
