"""The contract of a tool: typed arguments in, a pool and an event out, and errors that a model can repair.

A tool that brings items gets them through `ToolContext.best`, so nothing from the history and nothing excluded ever
enters a pool; `call` checks that once more for every tool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from llmrec.data.catalogue import Catalogue
from llmrec.errors import ToolError
from llmrec.lm.protocol import ToolCall
from llmrec.retrieval.grounding import CONFIDENT
from llmrec.tools.attributes import BoolArray
from llmrec.tools.pool import CandidatePool, ranked_pool
from llmrec.tools.resources import Resources
from llmrec.tools.wishes import Condition, nearest, parse_condition


@dataclass(frozen=True)
class ToolEvent:
    """What one tool call did."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    n_before: int = 0
    """Size of the pool before the call."""
    n_after: int = 0
    """Size of the pool after the call."""
    note: str = ""
    """What the model and the journal should know about it."""
    error: str = ""
    """Why the call did nothing; empty when it worked."""


@dataclass(frozen=True)
class ToolContext:
    """One turn's view of the shared resources."""

    resources: Resources
    history: tuple[int, ...] = ()
    """Rows the user took, oldest first."""
    excluded: frozenset[int] = frozenset()
    """Rows that must not be recommended: rejected, or shown before."""
    named: Mapping[str, int] = field(default_factory=dict)
    """Titles that the dialogue settled already -> row; two items may share a title."""
    not_refused: BoolArray | None = None
    """Items that the request does not refuse, shape (n_items,); for searches that have few places to give away."""
    user: int | None = None
    """User index in the interactions, where it is known."""
    seed: int = 0

    @property
    def catalogue(self) -> Catalogue:
        """The catalogue of the dataset."""
        return self.resources.dataset.catalogue

    @property
    def banned(self) -> frozenset[int]:
        """Rows that never enter a pool."""
        return self.excluded.union(self.history)

    def conditions(self, where: Sequence[str]) -> list[Condition]:
        """Parsed conditions. Raises `ToolError` on the first wrong one."""
        return [parse_condition(text, self.catalogue) for text in where]

    def item(self, title: str) -> int:
        """Row of a title as a model writes it.

        Raises:
            ToolError: no item has this title; the message names the nearest.
        """
        if title in self.named:
            return self.named[title]
        found = self.resources.grounder.ground(title, n=3)
        if not found or found[0].score < CONFIDENT:
            close = ", ".join(self.catalogue.display(hit.row) for hit in found)
            raise ToolError(f"no item with the title {title!r}; nearest: {close or 'none'}")
        return int(found[0].row)

    def best(
        self,
        scores: npt.NDArray[Any],
        n: int,
        *,
        source: str,
        reason: str,
        allowed: BoolArray | None = None,
        above: float = -np.inf,
    ) -> CandidatePool:
        """The n best rows by score that are allowed, not banned and score above the bound; ties in catalogue order.

        Args:
            scores: shape (n_items,), higher is better.
            allowed: shape (n_items,).
        """
        scores = np.asarray(scores, dtype=np.float64).copy()
        if allowed is not None:
            scores[~allowed] = -np.inf
        scores[list(self.banned)] = -np.inf
        order = np.argsort(-scores, kind="stable")[:n]
        rows = order[scores[order] > above]
        return ranked_pool(rows, source=source, reason=reason)


class Tool(Protocol):
    """One tool. Stateless: all it needs is in the context."""

    name: str
    """Snake case; what the model writes."""
    description: str
    """One or two sentences for the model."""

    @property
    def Arguments(self) -> type[BaseModel]:  # noqa: N802 (a class)
        """Typed arguments; unknown ones are refused."""
        ...

    async def run(self, pool: CandidatePool, arguments: Any, context: ToolContext) -> tuple[CandidatePool, ToolEvent]:
        """Apply the tool.

        Raises:
            ToolError: the arguments are well-formed but wrong.
        """
        ...


def event(tool: Tool, arguments: BaseModel, before: CandidatePool, after: CandidatePool, note: str = "") -> ToolEvent:
    """The event of a call that worked."""
    given = arguments.model_dump(mode="json", exclude_defaults=True)
    return ToolEvent(tool.name, given, n_before=len(before), n_after=len(after), note=note)


def function_schema(tool: Tool) -> dict[str, Any]:
    """The tool in OpenAI's function form."""
    parameters = tool.Arguments.model_json_schema()
    parameters.pop("title", None)
    parameters.pop("description", None)
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


async def call(
    tools: Mapping[str, Tool], wanted: ToolCall, pool: CandidatePool, context: ToolContext
) -> tuple[CandidatePool, ToolEvent]:
    """Run a model's tool call.

    Raises:
        ToolError: unknown tool, wrong arguments, or the tool refused; the message says how to repair the call.
    """
    tool = tools.get(wanted.name)
    if tool is None:
        close = nearest(wanted.name, list(tools), n=1)
        raise ToolError(f"no tool {wanted.name!r}; did you mean {close[0]!r}? The tools are {', '.join(tools)}")
    try:
        arguments = tool.Arguments.model_validate(dict(wanted.arguments))
    except ValidationError as error:
        raise ToolError(f"{tool.name}: {_readable(error, tool)}") from error
    after, done = await tool.run(pool, arguments, context)
    strays = (after.items() - pool.items()) & context.banned
    if strays:
        raise AssertionError(f"tool {tool.name} let banned items into the pool: {sorted(strays)}")
    return after, done


def _readable(error: ValidationError, tool: Tool) -> str:
    known = list(tool.Arguments.model_fields)
    parts: list[str] = []
    for problem in error.errors():
        place = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            parts.append(f"no argument {place!r}; the arguments are {', '.join(known) or 'none'}")
        else:
            parts.append(f"{place}: {problem['msg'].lower()}, got {problem['input']!r}")
    return "; ".join(parts)
