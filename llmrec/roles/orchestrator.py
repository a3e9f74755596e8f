"""Choose a tool, then write its arguments: a brain with an adapter for each (DualTune, arXiv 2510.00229).

A tool is sampled n times at temperature 1 and the majority is taken; its share of the votes goes to the turn's log,
since a narrow majority is a model that does not know. Then the adapter of that tool writes the arguments. A backbone
that has only the joint adapter writes name and arguments in one go.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from llmrec.errors import ConfigError, OutputError
from llmrec.lm.protocol import Completion, Constraint, LanguageModel, Sampling, ToolCall
from llmrec.roles import marks, planner
from llmrec.roles.brain import AnswerFacts
from llmrec.roles.choices import grammar, literal
from llmrec.roles.planner import PlanForm
from llmrec.roles.request import Request
from llmrec.roles.tool_text import ANSWER, READ, acting_prompt, reading_prompt
from llmrec.roles.turn_log import TurnLog
from llmrec.roles.understand import Form
from llmrec.tools.base import Tool

SELECT, ARGUMENTS, JOINT = "tool_select", "tool_args", "tools"
"""Names of adapters: the choice of a tool, the arguments of all tools without an adapter of their own, and both."""
_MAX_NAME, _MAX_ARGUMENTS = 8, 480  # tokens; a grammar ends both well before that
_NAME = re.compile(r"\s*([a-z_]+)")


def adapter_of(tool: str) -> str:
    """Name of the adapter that writes the arguments of one tool alone."""
    return f"tool_{tool}"


def is_tool_adapter(name: str) -> bool:
    """Whether an adapter of this name calls tools."""
    return name in (SELECT, ARGUMENTS, JOINT, *map(adapter_of, (READ, *planner.ALL_TOOLS)))


@dataclass(frozen=True)
class ToolAdapters:
    """Which adapter does what; None is the bare backbone."""

    select: str | None = None
    arguments: str | None = None
    own: Mapping[str, str] = field(default_factory=dict)
    """Tool -> the adapter that writes its arguments."""
    joint: bool = False
    """Name and arguments come from `arguments` in one go; `select` is not asked."""

    @classmethod
    def of(cls, adapters: Sequence[str]) -> ToolAdapters | None:
        """Those among the adapters of a backbone; None where there are none for tools.

        Raises:
            ConfigError: a choice of tools without anything that writes arguments.
        """
        if SELECT in adapters:
            own = {tool: adapter_of(tool) for tool in (READ, *planner.ALL_TOOLS) if adapter_of(tool) in adapters}
            if ARGUMENTS not in adapters and len(own) < len(planner.ALL_TOOLS) + 1:
                raise ConfigError(
                    f"the adapter {SELECT!r} chooses tools, but nothing writes the arguments of all of them, got "
                    f"{', '.join(adapters)}; train {ARGUMENTS!r} too (llmrec finetune tools)"
                )
            return cls(SELECT, ARGUMENTS if ARGUMENTS in adapters else None, own)
        return cls(arguments=JOINT, joint=True) if JOINT in adapters else None

    def writer(self, tool: str) -> str | None:
        """The adapter that writes the arguments of a tool."""
        return self.own.get(tool, self.arguments)


class Vote(NamedTuple):
    """Outcome of a vote."""

    name: str
    share: float
    """Of all samples, those that name it."""


class ToolBrain:
    """Understands and plans with tool calls (see `llmrec.roles.brain.Brain`).

    Args:
        lm: any language model; Lark grammars are needed where `constrained` is set.
        adapters: who chooses and who writes.
        votes: samples for the choice of a tool (10 in the paper).
        temperature: of these samples (1 in the paper).
        constrained: a grammar holds names and arguments; without it, what is written may fail to parse.
    """

    def __init__(
        self,
        lm: LanguageModel,
        adapters: ToolAdapters,
        *,
        votes: int = 10,
        temperature: float = 1.0,
        constrained: bool = True,
    ) -> None:
        if votes < 1:
            raise ConfigError(f"a vote needs at least one sample, got votes={votes!r}")
        self._lm, self._adapters, self._votes = lm, adapters, votes
        self._temperature, self._constrained = temperature, constrained

    @property
    def name(self) -> str:
        """Name of the language model, and of what chooses and writes."""
        if self._adapters.joint:
            return f"{self._lm.name}/{self._adapters.arguments}"
        return f"{self._lm.name}/{self._adapters.select}+{self._adapters.arguments or 'own'}"

    async def understand(self, blank: Form, *, seed: int, log: TurnLog | None = None) -> Request:
        """Read a message, unless it is small talk or asks for what no tool can do."""
        prompt, rule = reading_prompt(blank), marks.constraint(blank)
        tool, text = await self.call(prompt, prompt, {READ: rule, ANSWER: None}, seed=seed, log=log)
        return Request(turn="chat") if tool == ANSWER else marks.parse(blank, text)

    async def calls(
        self, plan: PlanForm, tools: Mapping[str, Tool], *, seed: int, log: TurnLog | None = None
    ) -> list[ToolCall]:
        """One call at a time; none when `answer` is chosen."""
        options = call_options(plan)
        tool, text = await self.call(
            acting_prompt(plan, full=False), acting_prompt(plan, full=True), options, seed=seed, log=log
        )
        if tool == ANSWER:
            return []
        if log is not None:
            log.calls_asked += 1
        try:
            arguments = json.loads(text)
        except ValueError as error:
            raise OutputError(f"the arguments of {tool} are not JSON, got {text[:200]!r}") from error
        if not isinstance(arguments, dict):
            raise OutputError(f"the arguments of {tool} must be an object, got {text[:200]!r}")
        return [ToolCall(tool, arguments)]

    async def prose(self, facts: AnswerFacts, *, seed: int, log: TurnLog | None = None) -> str | None:
        """Small models do not write prose; the templates do."""
        return None

    async def select(self, prompt: str, options: Sequence[str], *, seed: int, log: TurnLog | None = None) -> Vote:
        """The tool that most samples name; of equals the one that was named first.

        Raises:
            OutputError: no sample names one of the options.
        """
        sampling = Sampling(max_tokens=_MAX_NAME, temperature=self._temperature, n=self._votes, seed=seed, stop=("\n",))
        rule = Constraint("choice", tuple(options)) if self._constrained else None
        answers = await self._lm.generate(prompt, sampling=sampling, constraint=rule, adapter=self._adapters.select)
        named = [match[1] for one in answers if (match := _NAME.match(one.text)) and match[1] in options]
        self._count(answers, log)
        if not named:
            raise OutputError(f"no tool among {', '.join(options)} was named, got {answers[0].text[:60]!r}")
        name, n = Counter(named).most_common(1)[0]
        vote = Vote(name, n / len(answers))
        if log is not None:
            log.votes.append([vote.name, round(vote.share, 3)])
        return vote

    async def write(
        self, prompt: str, tool: str, rule: Constraint | None, *, seed: int, log: TurnLog | None = None
    ) -> str:
        """The arguments of a chosen tool, as JSON text.

        Args:
            prompt: up to the line that names the tool.
            rule: grammar of the arguments; not used where the brain is not constrained.
        """
        answer = await self._greedy(f"{prompt}{tool}\n", rule, self._adapters.writer(tool), seed, log)
        return answer.text.strip()

    async def call(
        self,
        choosing: str,
        writing: str,
        options: Mapping[str, Constraint | None],
        *,
        seed: int,
        log: TurnLog | None = None,
    ) -> tuple[str, str]:
        """Name and arguments (JSON text, empty for `answer`) of one call.

        Args:
            choosing: prompt for the choice of the tool.
            writing: prompt for its arguments; the joint adapter reads this one alone.
            options: tools that make sense, each with the grammar of its arguments.

        Raises:
            OutputError: no tool was named.
        """
        if self._adapters.joint:
            return await self._joint(writing, options, seed, log)
        tool = (await self.select(choosing, tuple(options), seed=seed, log=log)).name
        return tool, "" if tool == ANSWER else await self.write(writing, tool, options[tool], seed=seed, log=log)

    async def _joint(
        self, prompt: str, options: Mapping[str, Constraint | None], seed: int, log: TurnLog | None
    ) -> tuple[str, str]:
        answer = await self._greedy(prompt, joint_grammar(options), self._adapters.arguments, seed, log)
        name, _, text = answer.text.strip().partition("\n")
        if name not in options:
            raise OutputError(f"no tool among {', '.join(options)} was named, got {name[:60]!r}")
        return name, text.partition("\n")[0]

    async def _greedy(
        self, prompt: str, rule: Constraint | None, adapter: str | None, seed: int, log: TurnLog | None
    ) -> Completion:
        stop = () if self._constrained else ("\nCall:", "\nResult:", "\n\n", "\n###")
        sampling = Sampling(max_tokens=_MAX_ARGUMENTS, temperature=0.0, seed=seed, stop=stop)
        used = rule if self._constrained else None
        answers = await self._lm.generate(prompt, sampling=sampling, constraint=used, adapter=adapter)
        self._count(answers, log)
        return answers[0]

    def _count(self, answers: Sequence[Completion], log: TurnLog | None) -> None:
        if log is not None:
            log.model_calls += 1
            log.tokens_written += sum(one.n_tokens for one in answers)


def call_options(plan: PlanForm) -> dict[str, Constraint | None]:
    """The calls that make sense now, each with the grammar of its arguments; a plan has at least one call."""
    bodies, rules = planner.argument_rules(plan)
    options: dict[str, Constraint | None] = {
        name: grammar(f"{literal('{')} {body} {literal('}')}", rules) for name, body in bodies.items()
    }
    return options | ({ANSWER: None} if plan.done else {})


def joint_grammar(options: Mapping[str, Constraint | None]) -> Constraint:
    """Grammar of a name and, on the next line, its arguments."""
    lines: dict[str, None] = {}
    heads = []
    for place, (name, rule) in enumerate(options.items()):
        if rule is None:
            heads.append(literal(name))
            continue
        start, *rest = str(rule.value).strip().splitlines()
        heads.append(f"{literal(name)} /\\n/ inside_{place}")
        lines |= dict.fromkeys([f"inside_{place}: {start.removeprefix('start: ')}", *rest])
    return Constraint("lark", "\n".join([f"start: {' | '.join(heads)}", *lines]) + "\n")
