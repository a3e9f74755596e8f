"""The same graph with a tool-calling chat model, here one that answers from a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import Field

from llmrec.roles.chat_brain import ChatBrain
from llmrec.roles.loading import load_agent
from llmrec.roles.observation import Observation, Reply
from llmrec.roles.recommender import respond
from llmrec.tools.resources import Resources


class ScriptedChat(BaseChatModel):
    """Answers messages and structured requests from two queues; remembers what it was told."""

    answers: list[AIMessage]
    drafts: list[dict[str, Any]] = Field(default_factory=list)
    told: list[list[BaseMessage]] = Field(default_factory=list)
    bound: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.told.append(messages)
        return ChatResult(generations=[ChatGeneration(message=self.answers.pop(0))])

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any) -> Any:
        self.bound[:] = [tool["function"]["name"] for tool in tools if isinstance(tool, dict)]
        return self

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Runnable[Any, Any]:
        def answer(messages: list[BaseMessage]) -> Any:
            self.told.append(messages)
            return schema.model_validate(self.drafts.pop(0))

        return RunnableLambda(answer)


def calling(name: str, **arguments: Any) -> AIMessage:
    return AIMessage(content="", tool_calls=[{"name": name, "args": arguments, "id": "1", "type": "tool_call"}])


async def turn(resources: Resources, model: ScriptedChat, message: str) -> Reply:
    agent = load_agent("recommender", n=2)
    graph = agent.build(agent.config, resources=resources, brain=ChatBrain(model, resources))
    return await respond(graph, Observation(messages=(message,)), seed=0)


async def test_a_chat_model_understands_plans_and_writes(resources: Resources) -> None:
    model = ScriptedChat(
        drafts=[{"want": ["genres=Crime"], "like_titles": ["heat"]}],
        answers=[
            calling("similar", titles=["Heat"]),
            calling("filter", where=["genres=Crime"]),
            AIMessage("done"),
            AIMessage("Collateral (2004) has the same cool nights as Heat (1995)."),
        ],
    )
    reply = await turn(resources, model, "like heat, but another crime film")
    assert reply.slate[0] == 8
    assert reply.prose.startswith("Collateral (2004)")
    assert [event.name for event in reply.events if not event.note.startswith("added")] == ["similar", "filter"]
    assert model.bound == ["search", "similar", "recommend", "popular", "filter", "rank"]
    assert [message.type for message in model.told[2]] == ["system", "human", "ai", "tool"]


async def test_a_draft_with_a_wrong_value_goes_back_once(resources: Resources) -> None:
    model = ScriptedChat(
        drafts=[{"want": ["genres=Komedy"]}, {"want": ["genres=Comedy"]}],
        answers=[calling("search", where=["genres=Comedy"]), AIMessage("done"), AIMessage("Here you are.")],
    )
    reply = await turn(resources, model, "a komedy")
    assert set(reply.slate) < {3, 4, 9}
    assert "nearest values: Comedy" in str(model.told[1][-1].content)
    assert not reply.request or not reply.request.unread


@pytest.mark.parametrize("text", ['Try "The Moonlit Accountant" (2003)!', "Better watch Paddington (2014)."])
async def test_an_invented_title_is_never_shown(resources: Resources, text: str) -> None:
    model = ScriptedChat(
        drafts=[{"want": ["genres=Crime"]}],
        answers=[calling("search", where=["genres=Crime"]), AIMessage("done"), AIMessage(text)],
    )
    reply = await turn(resources, model, "crime")
    assert set(reply.slate) == {7, 8}
    assert text not in reply.prose
    assert any("was rewritten" in note for note in reply.notes)


async def test_drafts_that_stay_wrong_become_a_search(resources: Resources) -> None:
    model = ScriptedChat(
        drafts=[{"want": ["mood=blue"]}, {"want": ["mood=blue"]}],
        answers=[calling("search", query="bear"), AIMessage("done"), AIMessage("Here you are.")],
    )
    reply = await turn(resources, model, "bear in london")
    assert reply.request is not None
    assert reply.request.unread
    assert reply.slate[0] == 9
