"""The thinking part of the recommender: one protocol, one implementation for small models and two for chat models.

`GrammarBrain` asks any `LanguageModel` to fill in short forms under a grammar, so a model of a million parameters
cannot write an invalid call. `llmrec.roles.form_brain.FormBrain` asks a chat model behind an engine the same things in
messages, and `llmrec.roles.chat_brain.ChatBrain` talks to a tool-calling chat model of LangChain. The graph is the
same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from llmrec.errors import OutputError
from llmrec.lm.protocol import Completion, Constraint, LanguageModel, Sampling, ToolCall
from llmrec.roles import planner, understand
from llmrec.roles.planner import PlanForm
from llmrec.roles.request import Request
from llmrec.roles.turn_log import TurnLog
from llmrec.roles.understand import Form
from llmrec.tools.base import Tool

MAX_ANSWER_TOKENS = 320
"""Of one filled-in form. The grammar ends every form well before that; it bounds byte-level worst cases."""


@dataclass(frozen=True)
class AnswerFacts:
    """What prose may be made of."""

    message: str
    """The user's words; empty in a feed."""
    titles: tuple[str, ...]
    """The slate, as displayed."""
    reasons: tuple[str, ...]
    """One per title."""
    notes: tuple[str, ...]


class Brain(Protocol):
    """Understands, plans, and perhaps writes. What that took is counted in the log, where one is given."""

    @property
    def name(self) -> str:
        """Model behind it, for records."""
        ...

    async def understand(self, blank: Form, *, seed: int, log: TurnLog | None = None) -> Request:
        """Read a message.

        Raises:
            OutputError: the model's answer could not be read.
        """
        ...

    async def calls(
        self, plan: PlanForm, tools: Mapping[str, Tool], *, seed: int, log: TurnLog | None = None
    ) -> list[ToolCall]:
        """The next tool calls; none when the plan is done.

        Raises:
            OutputError: the model's answer could not be read.
        """
        ...

    async def prose(self, facts: AnswerFacts, *, seed: int, log: TurnLog | None = None) -> str | None:
        """Text for the user, or None to leave it to the templates."""
        ...


class GrammarBrain:
    """Fills in forms under a grammar; greedy, so the seed changes nothing but the phrasing of the templates.

    Args:
        lm: any language model that supports Lark constraints.
        adapter: LoRA adapter of the recommender role; None is the bare backbone.
    """

    def __init__(self, lm: LanguageModel, *, adapter: str | None = None) -> None:
        self._lm = lm
        self._adapter = adapter

    @property
    def name(self) -> str:
        """Name of the language model and adapter."""
        return self._lm.name if self._adapter is None else f"{self._lm.name}/{self._adapter}"

    async def understand(self, blank: Form, *, seed: int, log: TurnLog | None = None) -> Request:
        """Read a message by choosing among what the catalogue found in it."""
        answer = await self._fill(understand.prompt(blank), understand.constraint(blank), seed, log)
        return understand.parse(blank, answer.text)

    async def calls(
        self, plan: PlanForm, tools: Mapping[str, Tool], *, seed: int, log: TurnLog | None = None
    ) -> list[ToolCall]:
        """One call at a time, with arguments from the request."""
        answer = await self._fill(planner.prompt(plan), planner.constraint(plan), seed, log)
        try:
            call = planner.parse(answer.text)
        except OutputError:
            if log is not None:
                log.calls_asked += 1
            raise
        if log is not None:
            log.calls_asked += call is not None
        return [] if call is None else [call]

    async def prose(self, facts: AnswerFacts, *, seed: int, log: TurnLog | None = None) -> str | None:
        """Small models do not write prose; the templates do."""
        return None

    async def _fill(self, prompt: str, constraint: Constraint, seed: int, log: TurnLog | None) -> Completion:
        sampling = Sampling(max_tokens=MAX_ANSWER_TOKENS, temperature=0.0, seed=seed)
        answers = await self._lm.generate(prompt, sampling=sampling, constraint=constraint, adapter=self._adapter)
        if log is not None:
            log.answered(answers[0])
        return answers[0]
