"""The recommender's graph, driven by a scripted language model over the small films."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import pytest

from llmrec.data.splits import leave_one_out
from llmrec.errors import ModelError, UnsupportedError
from llmrec.lm.scripted import Call, ScriptedLM
from llmrec.retrieval.popularity import PopularityRecommender
from llmrec.roles.brain import AnswerFacts, GrammarBrain
from llmrec.roles.loading import load_agent
from llmrec.roles.observation import Observation, Reply, Shown
from llmrec.roles.recommender import RecommenderConfig, plain_observation, respond
from llmrec.roles.turn_log import TurnLog
from llmrec.tools.resources import Resources
from llmrec.tools.wishes import Wish

DONE = '{"name":"done","arguments":{}}'
RECOMMEND = '{"name":"recommend","arguments":{}}'
COMEDY, HORROR = Wish(attribute="genres", value="Comedy"), Wish(attribute="genres", value="Horror")

Turn = Callable[..., Any]


def build(resources: Resources, lm: Any, **changes: Any) -> Any:
    agent = load_agent("recommender", **changes)
    return agent.build(agent.config, resources=resources, brain=GrammarBrain(lm))


async def turn(resources: Resources, script: Sequence[str], observation: Observation, **changes: Any) -> Reply:
    lm = ScriptedLM(list(script))
    reply = await respond(build(resources, lm, **changes), observation, seed=1)
    assert reply.failed is None
    return reply


def search(*where: str) -> str:
    return json.dumps({"name": "search", "arguments": {"where": list(where)}}, separators=(",", ":"))


async def test_a_message_becomes_a_slate_with_reasons(resources: Resources) -> None:
    script = ['{"turn":"new","genres=Comedy":"want","genres=Horror":"avoid","query":""}', search("genres=Comedy"), DONE]
    message = "a comedy, no horror please"
    reply = await turn(resources, script, Observation(messages=(message,)), n=3)
    assert reply.request is not None
    assert (reply.request.want, reply.request.avoid) == ((COMEDY,), (HORROR,))
    assert set(reply.slate) == {3, 4, 9}
    assert reply.reasons == ("Comedy", "Comedy", "Comedy")
    assert resources.dataset.catalogue.display(reply.slate[0]) in reply.prose
    assert [event.name for event in reply.events] == ["search"]
    assert reply.notes == ()


async def test_refusals_are_enforced_whatever_the_model_plans(resources: Resources) -> None:
    """The model asks for horror although the user refused it: no horror film reaches the slate."""
    script = ['{"turn":"new","genres=Horror":"avoid","query":""}', search("genres=Horror"), DONE]
    reply = await turn(resources, script, Observation(messages=("no horror",)), n=8)
    catalogue = resources.dataset.catalogue
    assert len(reply.slate) == 8
    assert not any(HORROR.holds(catalogue, row) for row in reply.slate)


async def test_a_feed_without_a_message_follows_the_history(resources: Resources) -> None:
    reply = await turn(resources, [RECOMMEND, DONE], Observation(history=(0, 1)))
    assert reply.slate[0] == 2
    assert not {0, 1} & set(reply.slate)
    assert reply.events[0].note == "by knn"


async def test_feedback_extends_the_history_and_nothing_is_shown_twice(resources: Resources) -> None:
    feedback = ((Shown(5, "like"), Shown(3, "skip"), Shown(4, "rate", 2), Shown(9, "rate", 5)),)
    view = Observation(history=(0,), feedback=feedback, turn=1)
    assert view.full_history == (0, 5, 9)
    reply = await turn(resources, [RECOMMEND, DONE], view, n=5)
    assert not {0, 3, 4, 5, 9} & set(reply.slate)
    assert len(reply.slate) == 5


async def test_liked_titles_steer_and_are_not_recommended(resources: Resources) -> None:
    script = [
        '{"turn":"new","title=Alien (1979)":"like","query":""}',
        '{"name":"similar","arguments":{"titles":["Alien (1979)"]}}',
        DONE,
    ]
    reply = await turn(resources, script, Observation(messages=("I loved Alien",)), n=2)
    assert set(reply.slate) == {1, 2}
    assert reply.reasons[0] == "similar to Alien (1979)"


@pytest.mark.parametrize("answer", ["certainly!", '{"turn":"new"}', '{"turn":"new","query":""}'])
async def test_a_message_that_cannot_be_read_is_searched_for_and_said_so(resources: Resources, answer: str) -> None:
    script = [answer, '{"name":"search","arguments":{"query":"bear london"}}', DONE]
    reply = await turn(resources, script, Observation(messages=("bear london",)))
    assert reply.request is not None
    assert reply.request.unread
    assert reply.request.query == "bear london"
    assert reply.slate[0] == 9
    assert "not sure that I understood" in reply.prose
    assert any("searched for as it is" in note for note in reply.notes)


async def test_a_wrong_call_goes_back_to_the_model_once(resources: Resources) -> None:
    script = ['{"turn":"open","query":""}', search("genres=Komedy"), search("genres=Comedy"), DONE]
    lm = ScriptedLM(script)
    reply = await respond(build(resources, lm), Observation(messages=("anything good",)), seed=1)
    assert "nearest values: Comedy" in lm.calls[2].text
    assert [bool(event.error) for event in reply.events[:2]] == [True, False]
    twice = [script[0], search("genres=Komedy"), search("genre=Comedy"), search("genres=Comedy")]
    lm = ScriptedLM(twice)
    reply = await respond(build(resources, lm), Observation(messages=("anything good",)), seed=1)
    assert len(lm.calls) == 3  # after two errors the plan is over
    assert len(reply.slate) == 5


async def test_a_plan_ends_after_four_calls(resources: Resources) -> None:
    reply = await turn(resources, [RECOMMEND] * 4, Observation(history=(0,)))
    assert [event.name for event in reply.events] == ["recommend"] * 4


async def test_wishes_that_few_items_meet_are_reported(resources: Resources) -> None:
    script = ['{"turn":"new","directors=Michael Mann":"want","runtime_min=..120":"want","query":""}', RECOMMEND, DONE]
    view = Observation(history=(0,), messages=("something by Michael Mann under two hours",))
    reply = await turn(resources, script, view, n=3)
    assert reply.slate[:2] == (8, 7)  # Collateral has both, Heat only the director
    assert reply.reasons[0].startswith("by Michael Mann, 120 minutes")
    assert reply.notes == ("1 of 3 are films by Michael Mann, runtime up to 120 minutes; the others come close",)


async def test_small_talk_gets_no_list_in_a_chat_and_one_in_a_feed(resources: Resources) -> None:
    chat = '{"turn":"chat","query":""}'
    reply = await turn(resources, [chat], Observation(messages=("hello",), slate_required=False))
    assert reply.slate == ()
    assert reply.prose
    reply = await turn(resources, [chat, RECOMMEND, DONE], Observation(history=(0,), messages=("hello",)))
    assert len(reply.slate) == 5


async def test_a_later_turn_refines_the_request(resources: Resources) -> None:
    first = await turn(
        resources, ['{"turn":"new","genres=Sci-Fi":"want","query":""}', search("genres=Sci-Fi"), DONE],
        Observation(messages=("science fiction",)), n=2,
    )  # fmt: skip
    shown = tuple(Shown(row, "view") for row in first.slate)
    script = ['{"turn":"refine","genres=Drama":"want","query":""}', search("genres=Sci-Fi", "genres=Drama"), DONE]
    view = Observation(
        messages=("science fiction", "more of a drama"), feedback=(shown,), turn=1, request=first.request
    )
    second = await turn(resources, script, view, n=2)
    assert set(second.slate) == {5, 6}
    assert second.request is not None
    assert [wish.value for wish in second.request.want] == ["Sci-Fi", "Drama"]


async def test_earlier_messages_are_read_again_when_nobody_kept_the_request(resources: Resources) -> None:
    lm = ScriptedLM(
        ['{"turn":"new","genres=Sci-Fi":"want","query":""}', '{"turn":"refine","genres=Drama":"want","query":""}', DONE]
    )
    view = Observation(messages=("science fiction", "more of a drama"), turn=1)
    reply = await respond(build(resources, lm), view, seed=1)
    assert reply.request is not None
    assert [wish.value for wish in reply.request.want] == ["Sci-Fi", "Drama"]


async def test_a_model_that_fails_gives_a_failed_reply(resources: Resources) -> None:
    def fail(call: Call) -> str:
        raise ModelError("out of memory")

    reply = await respond(build(resources, ScriptedLM(fail)), Observation(history=(0,)), seed=1)
    assert reply.failed == "ModelError: out of memory"
    assert reply.slate == ()


async def test_an_adapter_that_is_not_there_is_never_replaced_by_the_backbone(resources: Resources) -> None:
    agent = load_agent("recommender")
    graph = agent.build(
        agent.config, resources=resources, brain=GrammarBrain(ScriptedLM([DONE]), adapter="recommender")
    )
    reply = await respond(graph, Observation(history=(0,)), seed=1)
    assert reply.failed is not None
    assert UnsupportedError.__name__ in reply.failed


async def test_a_seed_gives_the_same_reply_and_another_seed_other_words(resources: Resources) -> None:
    replies = [
        await respond(build(resources, ScriptedLM([RECOMMEND, DONE])), Observation(history=(0, 1)), seed=seed)
        for seed in (1, 1, 2, 3, 4)
    ]
    assert replies[0] == replies[1]
    assert len({reply.prose for reply in replies}) > 1
    assert len({reply.slate for reply in replies}) == 1


class Talker(GrammarBrain):
    """Plans by the script and writes prose of its own."""

    def __init__(self, lm: Any, text: str) -> None:
        super().__init__(lm)
        self.text = text

    async def prose(self, facts: AnswerFacts, *, seed: int, log: TurnLog | None = None) -> str | None:
        return self.text


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("You will like Aliens (1986).", False),
        ("You liked Alien (1979), so here is Aliens (1986).", False),
        ('My tip is "The Moonlit Accountant" (2003).', True),
        ("Watch Paddington (2014) instead.", True),
    ],
)
async def test_prose_that_names_anything_else_is_repaired_and_reported(
    resources: Resources, text: str, repaired: bool
) -> None:
    agent = load_agent("recommender", n=2)
    graph = agent.build(agent.config, resources=resources, brain=Talker(ScriptedLM([RECOMMEND, DONE]), text))
    reply = await respond(graph, Observation(history=(0,)), seed=1)
    assert 1 in reply.slate
    assert 9 not in reply.slate
    assert (reply.prose != text) == repaired
    assert ("check" in [event.name for event in reply.events]) == repaired
    assert any("was rewritten" in note for note in reply.notes) == repaired


def test_an_observation_has_no_room_for_private_state() -> None:
    assert {field.name for field in fields(Observation)} == {
        "history", "profile", "feedback", "messages", "turn", "request", "slate_required", "answered",
    }  # fmt: skip
    assert {field.name for field in fields(Shown)} == {"item", "action", "rating"}
    assert set(plain_observation(Observation())) == {field.name for field in fields(Observation)}


async def test_prompts_hold_nothing_but_the_message_and_the_catalogue(resources: Resources) -> None:
    """Every prompt of a turn is captured: what somebody put into the profile or into feedback is not in it."""
    lm = ScriptedLM(['{"turn":"new","genres=Comedy":"want","query":""}', search("genres=Comedy"), DONE])
    view = Observation(
        history=(0,),
        profile={"age": 25, "mindset": "satisfaction=0.13 fatigue=0.77"},
        feedback=((Shown(1, "skip"), Shown(2, "like")),),
        messages=("a comedy",),
        turn=1,
    )
    await respond(build(resources, lm), view, seed=1)
    prompts = " ".join(call.text for call in lm.calls)
    assert len(lm.calls) == 3
    for private in ("0.13", "0.77", "satisfaction", "fatigue", "mindset", "like\n", "skip"):
        assert private not in prompts, private


async def test_a_chat_keeps_its_turns_and_undoes_them(resources: Resources) -> None:
    from langgraph.checkpoint.memory import InMemorySaver

    from llmrec.roles.chat_session import ChatSession

    lm = ScriptedLM(
        [
            '{"turn":"new","genres=Sci-Fi":"want","query":""}', search("genres=Sci-Fi"), DONE,
            '{"turn":"refine","shown=last list":"seen","query":""}', search("genres=Sci-Fi"), DONE,
            '{"turn":"refine","genres=Horror":"avoid","query":""}', search("genres=Sci-Fi"), DONE,
        ]
    )  # fmt: skip
    agent = load_agent("recommender", n=2)
    graph = agent.build(agent.config, resources=resources, brain=GrammarBrain(lm), checkpointer=InMemorySaver())
    talk = ChatSession(graph, resources.dataset.catalogue, thread="t", history=["f5"], seed=3)
    first = await talk.say("science fiction")
    second = await talk.say("not those again")
    assert not {5, *first.slate} & set(second.slate)
    assert len(await talk.turns()) == 2
    assert await talk.undo() == "not those again"
    again = ChatSession(graph, resources.dataset.catalogue, thread="t")
    third = await again.say("no horror please")
    assert [one["message"] for one in await again.turns()] == ["science fiction", "no horror please"]
    assert third.request is not None
    assert third.request.seen_titles == ()
    assert 5 not in third.slate  # the history was kept with the thread
    assert await ChatSession(graph, resources.dataset.catalogue, thread="new").undo() is None


def test_settings_refuse_unknown_keys_and_tools() -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError):
        RecommenderConfig(slate=3)  # type: ignore[call-arg]


async def test_a_ranker_of_its_own_orders_what_the_tools_found_unless_the_plan_did(resources: Resources) -> None:
    ranker = PopularityRecommender()
    split = leave_one_out(resources.dataset.interactions)
    ranker.fit(resources.dataset, split)
    both = dataclasses.replace(resources, ranker=ranker)
    feed = Observation(history=(0, 1))
    plain = await turn(resources, [RECOMMEND, DONE], feed)
    ranked = await turn(both, [RECOMMEND, DONE], feed)
    assert [event.name for event in plain.events] == ["recommend"]
    assert [event.name for event in ranked.events] == ["recommend", "rank"]
    counts = split.train.item_counts()[list(ranked.slate)].tolist()
    assert counts == sorted(counts, reverse=True)
    assert ranked.slate != plain.slate
    planned = await turn(both, [RECOMMEND, '{"name":"rank","arguments":{"by":"-year"}}', DONE], feed)
    assert [dict(event.arguments) for event in planned.events] == [{}, {"by": "-year"}]
    without = await turn(both, [RECOMMEND, DONE], feed, tools=("recommend", "popular"))
    assert [event.name for event in without.events] == ["recommend"]
