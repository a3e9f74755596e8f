"""The recommender's brain on any tool-calling chat model that LangChain knows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmrec.errors import OutputError, ToolError
from llmrec.lm.protocol import ToolCall
from llmrec.prompting import render
from llmrec.retrieval.grounding import CONFIDENT
from llmrec.roles.brain import AnswerFacts
from llmrec.roles.planner import PlanForm
from llmrec.roles.request import Request, Turn
from llmrec.roles.turn_log import TurnLog
from llmrec.roles.understand import Form
from llmrec.tools.base import Tool, ToolEvent, function_schema
from llmrec.tools.resources import Resources
from llmrec.tools.wishes import Wish, parse_condition

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import BaseMessage


class RequestDraft(BaseModel):
    """What the user asks for, in the chat model's words; checked against the catalogue afterwards."""

    model_config = ConfigDict(extra="forbid")

    turn: Turn = Field(
        default="new",
        description="new: an own request; refine: a change to the one before; open: anything good; chat: small talk.",
    )
    want: list[str] = Field(default=[], description="Conditions asked for: attribute=value or attribute=low..high.")
    avoid: list[str] = Field(default=[], description="Conditions refused: attribute=value or attribute=low..high.")
    like_titles: list[str] = Field(default=[], description="Titles the user likes or wants something like.")
    dislike_titles: list[str] = Field(default=[], description="Titles the user dislikes.")
    seen_titles: list[str] = Field(default=[], description="Titles the user knows already, without a judgement.")
    query: str = Field(default="", description="Words of the user that no condition covers.")


class ChatBrain:
    """Uses `with_structured_output` to understand, `bind_tools` to plan, and writes the prose itself.

    Args:
        model: a chat model with tool calling.
        resources: the catalogue that drafts are checked against.
        writes: whether it writes the prose; else the templates do.
    """

    def __init__(self, model: BaseChatModel, resources: Resources, *, writes: bool = True) -> None:
        self._model = model
        self._resources = resources
        self._writes = writes

    @property
    def name(self) -> str:
        """Class and name of the chat model."""
        return f"{type(self._model).__name__}:{getattr(self._model, 'model_name', getattr(self._model, 'model', ''))}"

    async def understand(self, blank: Form, *, seed: int, log: TurnLog | None = None) -> Request:
        """Read a message; a draft with a wrong condition or title goes back to the model once."""
        from langchain_core.messages import HumanMessage, SystemMessage

        drafter = self._model.with_structured_output(RequestDraft)
        messages: list[BaseMessage] = [
            SystemMessage(render("agent/chat_understand", attributes=self._attributes())),
            HumanMessage(_asked(blank)),
        ]
        for attempt in range(2):
            if log is not None:
                log.model_calls += 1
            try:
                return self._checked(_draft(await drafter.ainvoke(messages)))
            except ToolError as error:
                if attempt == 1:
                    raise OutputError(f"the request names what the catalogue does not have: {error}") from error
                messages = [*messages, HumanMessage(f"That cannot be used: {error}. Answer again, corrected.")]
        raise AssertionError("the loop returns or raises")

    async def calls(
        self, plan: PlanForm, tools: Mapping[str, Tool], *, seed: int, log: TurnLog | None = None
    ) -> list[ToolCall]:
        """The calls of the model's next message."""
        from langchain_core.messages import HumanMessage, SystemMessage

        bound = self._model.bind_tools([function_schema(tool) for tool in tools.values()])
        told = HumanMessage(
            render(
                "agent/chat_plan_request",
                message=plan.message,
                want=[wish.text() for wish in plan.request.want],
                avoid=[wish.text() for wish in plan.request.avoid],
                like=list(plan.liked),
                query=plan.request.query,
                history=plan.history,
            )
        )
        answer = await bound.ainvoke([SystemMessage(render("agent/chat_plan")), told, *_so_far(plan.done)])
        if log is not None:
            log.model_calls += 1
            log.calls_asked += len(answer.tool_calls) + len(answer.invalid_tool_calls)
            mended = tuple(answer.response_metadata.get("repairs", ()))
            log.calls_repaired += len(answer.tool_calls) if mended else 0
            log.mended(mended)
        return [ToolCall(call["name"], call["args"]) for call in answer.tool_calls]

    async def prose(self, facts: AnswerFacts, *, seed: int, log: TurnLog | None = None) -> str | None:
        """Two or three sentences about the slate; None leaves it to the templates."""
        if not self._writes:
            return None
        from langchain_core.messages import HumanMessage

        answer = await self._model.ainvoke(
            [
                HumanMessage(
                    render(
                        "agent/chat_answer",
                        message=facts.message,
                        items=[{"title": t, "reason": r} for t, r in zip(facts.titles, facts.reasons, strict=True)],
                        notes=list(facts.notes),
                    )
                )
            ]
        )
        if log is not None:
            log.model_calls += 1
        return str(answer.text).strip() or None

    def _attributes(self) -> list[dict[str, str]]:
        catalogue = self._resources.dataset.catalogue
        lines: list[dict[str, str]] = []
        for name in catalogue.attribute_names:
            match catalogue.kind(name):
                case "number":
                    lines.append({"name": name, "values": f"a number; write {name}=low..high"})
                case "text":
                    pass
                case _:
                    lines.append({"name": name, "values": ", ".join(list(catalogue.vocabulary(name))[:30])})
        return lines

    def _checked(self, draft: RequestDraft) -> Request:
        return Request(
            turn=draft.turn,
            want=self._wishes(draft.want),
            avoid=self._wishes(draft.avoid),
            like_titles=self._rows(draft.like_titles),
            dislike_titles=self._rows(draft.dislike_titles),
            seen_titles=self._rows(draft.seen_titles),
            query=draft.query,
        )

    def _wishes(self, texts: Sequence[str]) -> tuple[Wish, ...]:
        return tuple(parse_condition(text, self._resources.dataset.catalogue).wish for text in texts)

    def _rows(self, titles: Sequence[str]) -> tuple[int, ...]:
        rows: list[int] = []
        for title in titles:
            found = self._resources.grounder.ground(title)
            if found and found[0].score >= CONFIDENT:  # a title that is not in the catalogue cannot steer anything
                rows.append(found[0].row)
        return tuple(dict.fromkeys(rows))


def _draft(answer: object) -> RequestDraft:
    if isinstance(answer, RequestDraft):
        return answer
    try:
        return RequestDraft.model_validate(answer)
    except ValidationError as error:
        raise OutputError(f"not a request, got {str(answer)[:200]!r}") from error


def _asked(blank: Form) -> str:
    before = blank.before.model_dump_json(exclude_defaults=True) if blank.before else ""
    found = [{"words": one.words, "label": one.label} for one in blank.found]
    return render("agent/chat_understand_message", message=blank.message, before=before, found=found)


def _so_far(done: Sequence[ToolEvent]) -> list[Any]:
    from langchain_core.messages import AIMessage, ToolMessage

    messages: list[Any] = []
    for index, event in enumerate(done):
        call = {"name": event.name, "args": dict(event.arguments), "id": f"call_{index}", "type": "tool_call"}
        result = {"error": event.error} if event.error else {"candidates": event.n_after, "note": event.note}
        messages.append(AIMessage(content="", tool_calls=[call]))
        messages.append(ToolMessage(json.dumps(result, ensure_ascii=False), tool_call_id=f"call_{index}"))
    return messages
