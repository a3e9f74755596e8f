"""The agent on a chat model behind an engine: JSON schemas where it takes them, mended free text where it does not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from llmrec.errors import ConfigError, OutputError
from llmrec.lm.protocol import Capabilities, ConstraintKind
from llmrec.lm.scripted import ScriptedLM
from llmrec.roles import understand
from llmrec.roles.brain import GrammarBrain
from llmrec.roles.form_brain import FormBrain
from llmrec.roles.loading import load_agent
from llmrec.roles.matching import Reader
from llmrec.roles.observation import Observation, Reply
from llmrec.roles.planner import ALL_TOOLS, plan_form
from llmrec.roles.planner_schema import plan_schema, read_plan
from llmrec.roles.recommender import respond
from llmrec.roles.request import Request
from llmrec.roles.serving import brain_for
from llmrec.tools.base import ToolEvent
from llmrec.tools.resources import Resources
from llmrec.tools.wishes import Wish

COMEDY, HORROR = Wish(attribute="genres", value="Comedy"), Wish(attribute="genres", value="Horror")
FUNNY = "a comedy, no horror please"
READ = '{"turn":"new","genres=Comedy":"want","genres=Horror":"avoid","query":""}'
PLAN = '{"calls":[{"name":"search","arguments":{"where":["genres=Comedy","genres!=Horror"]}}]}'


class Engine(ScriptedLM):
    """A script that takes constraints of these kinds only."""

    kinds: tuple[ConstraintKind, ...] = ()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(frozenset({"generate"}), frozenset(self.kinds))


def engine(script: Sequence[str], *kinds: ConstraintKind) -> ScriptedLM:
    lm = Engine(list(script))
    lm.kinds = kinds
    return lm


async def turn(resources: Resources, lm: ScriptedLM, message: str, **changes: Any) -> Reply:
    agent = load_agent("recommender", **{"n": 3, "brain": "chat"} | changes)
    brain = brain_for(agent.config, lm, noun="film")
    graph = agent.build(agent.config, resources=resources, brain=brain)
    reply = await respond(graph, Observation(messages=(message,)), seed=0)
    assert reply.failed is None
    return reply


async def test_a_turn_takes_three_answers_held_by_schemas(resources: Resources) -> None:
    lm = engine([READ, PLAN, "Three funny films. I would start at the top."], "json_schema")
    reply = await turn(resources, lm, FUNNY)
    assert reply.request is not None
    assert (reply.request.want, reply.request.avoid) == ((COMEDY,), (HORROR,))
    assert set(reply.slate) == {3, 4, 9}
    assert reply.prose == "Three funny films. I would start at the top."
    assert [call.constraint.kind if call.constraint else None for call in lm.calls] == ["json_schema"] * 2 + [None]
    jsonschema.validate(json.loads(READ), lm.calls[0].constraint.value)  # type: ignore[union-attr]
    jsonschema.validate(json.loads(PLAN), lm.calls[1].constraint.value)  # type: ignore[union-attr]
    record = dict(reply.record)
    assert set(record.pop("seconds")) == {"understand", "plan", "tools", "prose"}
    assert record.pop("tokens_written") > 0
    assert record == {
        "calls_asked": 1,
        "calls_valid": 1,
        "calls_repaired": 0,
        "calls_refused": 0,
        "repairs": {},
        "corrections": [],
        "model_calls": 3,
    }


async def test_the_constant_part_of_a_prompt_stands_first(resources: Resources) -> None:
    first, second = engine([READ, PLAN], "json_schema"), engine([READ, PLAN], "json_schema")
    await turn(resources, first, FUNNY, prose=False)
    await turn(resources, second, "a comedy, no horror at all", prose=False)
    for one, other in zip(first.calls, second.calls, strict=True):
        assert one.prompt[0] == other.prompt[0]
        assert one.prompt[-1] != other.prompt[-1]


async def test_without_prose_the_templates_write(resources: Resources) -> None:
    lm = engine([READ, PLAN], "json_schema")
    reply = await turn(resources, lm, FUNNY, prose=False)
    assert len(lm.calls) == 2
    assert resources.dataset.catalogue.display(reply.slate[0]) in reply.prose


async def test_a_misread_refusal_is_corrected_recorded_and_kept(resources: Resources) -> None:
    """The model wants horror where the user said "no horror": no horror film reaches the slate, and it is said."""
    wrong = READ.replace('"avoid"', '"want"')
    plan = '{"calls":[{"name":"search","arguments":{"where":["genres=Comedy"]}}]}'
    reply = await turn(resources, engine([wrong, plan], "json_schema"), FUNNY, prose=False)
    assert reply.request is not None
    assert reply.request.avoid == (HORROR,)
    assert reply.record["corrections"] == ["genres=Horror read as refused"]
    assert "corrected: genres=Horror read as refused" in reply.notes
    assert not any(HORROR.holds(resources.dataset.catalogue, row) for row in reply.slate)
    plain = await turn(resources, engine([wrong, plan], "json_schema"), FUNNY, prose=False, polarity=False)
    assert plain.request is not None
    assert HORROR in plain.request.want


async def test_without_schemas_free_answers_are_mended_and_recorded(resources: Resources) -> None:
    script = [f"Sure!\n```json\n{READ}\n```", 'search(where: ["genres=Comedy"])']
    lm = engine(script)
    reply = await turn(resources, lm, FUNNY, prose=False)
    assert set(reply.slate) == {3, 4, 9}
    assert all(call.constraint is None for call in lm.calls)
    assert lm.calls[1].tools[0]["function"]["name"] == "search"
    assert reply.record["repairs"] == {"fenced": 1, "python call": 1}
    assert (reply.record["calls_asked"], reply.record["calls_valid"], reply.record["calls_repaired"]) == (1, 1, 1)


async def test_a_form_with_gaps_is_filled_and_said(resources: Resources) -> None:
    lm = engine(['{"turn":"new","genres=Comedy":"want"}', 'search(where: ["genres=Comedy"])'])
    reply = await turn(resources, lm, FUNNY, prose=False)
    assert reply.record["repairs"]["missing field"] == 2
    assert reply.record["corrections"] == [
        "genres=Horror read as refused"
    ]  # the model said nothing about it, the words did


@pytest.mark.parametrize("answer", ["I cannot help with that.", 'search(query: "sea', "delete(all=True)"])
async def test_free_answers_without_a_call_still_give_a_slate(resources: Resources, answer: str) -> None:
    reply = await turn(resources, engine([READ, answer, answer]), FUNNY, prose=False)
    assert len(reply.slate) == 3
    assert reply.record["calls_valid"] == 0
    assert reply.record["calls_asked"] >= 1


async def test_an_unreadable_form_is_an_output_error(resources: Resources) -> None:
    reader = Reader(resources.dataset.catalogue)
    for answer in ("well", '{"genres=Comedy":"want"}', '{"turn":"never","genres=Comedy":"want"}'):
        with pytest.raises(OutputError):
            await FormBrain(engine([answer])).understand(understand.form("a comedy", reader), seed=0)


async def test_a_plan_that_found_something_is_done(resources: Resources) -> None:
    lm = engine([PLAN], "json_schema")
    plan = plan_form(Request(want=(COMEDY,)), resources.dataset.catalogue, history=False)
    found = replace(plan, done=(ToolEvent("search", n_after=3),))
    assert await FormBrain(lm).calls(found, {}, seed=0) == []
    assert lm.calls == []
    nothing = replace(plan, done=(ToolEvent("search", n_after=0),))
    assert len(await FormBrain(lm).calls(nothing, {}, seed=0)) == 1


def test_the_plan_schema_offers_what_the_request_has(resources: Resources) -> None:
    catalogue = resources.dataset.catalogue
    request = Request(want=(COMEDY,), avoid=(HORROR,), query="bear", like_titles=(0,))

    def takes(plan: dict[str, Any], *, history: bool = True, tools: tuple[str, ...] = ALL_TOOLS) -> bool:
        schema = plan_schema(plan_form(request, catalogue, history=history, tools=tools))
        assert schema is not None
        return bool(jsonschema.Draft202012Validator(schema).is_valid({"calls": [plan]}))

    assert takes({"name": "search", "arguments": {"query": "bear", "where": ["genres!=Horror"]}})
    assert takes({"name": "similar", "arguments": {"titles": [catalogue.display(0)]}})
    assert takes({"name": "rank", "arguments": {"by": "taste"}})
    assert not takes({"name": "rank", "arguments": {"by": "taste"}}, history=False)
    assert takes({"name": "recommend", "arguments": {"where": ["genres=Comedy"]}})
    assert not takes({"name": "recommend", "arguments": {}}, history=False)
    assert not takes({"name": "search", "arguments": {"query": "bear"}}, tools=("popular",))
    assert not takes({"name": "search", "arguments": {"query": "beer"}})
    assert not takes({"name": "search", "arguments": {"where": ["genres=Western"]}})


def test_repeated_calls_count_once() -> None:
    call = {"name": "search", "arguments": {"where": ["a=b", "a=b"]}}
    [read] = read_plan(json.dumps({"calls": [call, call]}))
    assert read.arguments == {"where": ["a=b"]}
    for text in ("[]", '{"calls": [{"name": "x"}]}', "no"):
        with pytest.raises(OutputError):
            read_plan(text)


def test_auto_takes_grammars_where_there_are_any() -> None:
    auto = load_agent("recommender").config
    assert isinstance(brain_for(auto, engine([], "lark"), noun="film"), GrammarBrain)
    assert isinstance(brain_for(auto, engine([], "json_schema"), noun="film"), FormBrain)
    assert isinstance(brain_for(auto, engine([]), noun="film"), FormBrain)
    with pytest.raises(ConfigError, match="Lark"):
        brain_for(load_agent("recommender", brain="grammar").config, engine([]), noun="film")


async def test_a_form_that_was_cut_counts_as_unread_and_refusals_still_hold(resources: Resources) -> None:
    """What the model had written by then looks like a whole form once its end is mended."""
    from llmrec.lm.protocol import Completion

    cut = Completion('{"turn":"new","genres=Comedy":"want"', 0.0, 200, "length")
    reply = await turn(resources, Engine([cut, PLAN, "Here."]), FUNNY, prose=False)
    assert reply.request is not None
    assert reply.request.unread
    assert reply.request.avoid == (HORROR,)
    assert any("cut at 200 tokens" in note for note in reply.notes)
    catalogue = resources.dataset.catalogue
    assert reply.slate
    assert not any(HORROR.holds(catalogue, row) for row in reply.slate)


async def test_a_plan_that_cannot_be_read_counts_as_a_call(resources: Resources) -> None:
    reply = await turn(resources, engine([READ, '{"calls":[{"na', "x"], "json_schema"), FUNNY, prose=False)
    assert reply.record["calls_asked"] >= 1
    assert reply.record["calls_valid"] == 0
    assert reply.slate


async def test_words_that_the_user_did_not_say_are_not_searched_for(resources: Resources) -> None:
    read = READ.replace('"query":""', '"query":"zombies on a ship"')
    reply = await turn(resources, engine([read, PLAN], "json_schema"), FUNNY, prose=False)
    assert reply.request is not None
    assert reply.request.query == ""
    assert reply.record["repairs"] == {"unknown query": 1}


def test_no_schema_without_a_call_that_fits(resources: Resources) -> None:
    form = plan_form(Request(turn="open"), resources.dataset.catalogue, history=False, tools=("search", "similar"))
    assert plan_schema(form) is None
