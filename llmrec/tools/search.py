"""`search`: words and conditions over the whole catalogue."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llmrec.errors import ToolError
from llmrec.tools.base import ToolContext, ToolEvent, event
from llmrec.tools.pool import CandidatePool

MAX_CANDIDATES = 200


class SearchArguments(BaseModel):
    """Arguments of `Search`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str = Field(
        default="", max_length=500, description="Words to look for in titles, people, keywords and texts."
    )
    where: tuple[str, ...] = Field(
        default=(), max_length=12, description="Conditions: attribute=value, attribute!=value, attribute=low..high."
    )
    n: int = Field(default=100, ge=1, le=MAX_CANDIDATES, description="How many candidates to add at most.")


class Search:
    """BM25 over all text of an item, among the items that satisfy every condition.

    With a query only items that share a word with it are found; without one, the most popular items that satisfy the
    conditions.
    """

    name = "search"
    description = "Add items that match words and conditions on attributes to the candidates."
    Arguments = SearchArguments

    async def run(
        self, pool: CandidatePool, arguments: SearchArguments, context: ToolContext
    ) -> tuple[CandidatePool, ToolEvent]:
        """Search and merge."""
        if not arguments.query.strip() and not arguments.where:
            raise ToolError("search needs a query or a condition; to list what is popular call popular")
        resources = context.resources
        conditions = context.conditions(arguments.where)
        allowed = resources.attributes.allowed(conditions)
        if arguments.query.strip():
            allowed &= resources.bm25.matches(arguments.query)
            scores = resources.bm25.scores(arguments.query)
        else:
            scores = resources.popularity.astype(np.float64)
        reason = _reason(arguments.query.strip(), [condition.text() for condition in conditions])
        found = context.best(scores, arguments.n, source=self.name, reason=reason, allowed=allowed)
        after = pool.merged(found)
        return after, event(self, arguments, pool, after, "" if found else "nothing matches")


def _reason(query: str, where: list[str]) -> str:
    parts = [f"matches the words: {query}"] if query else []
    return "; ".join([*parts, *where])
