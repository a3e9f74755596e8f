"""`popular`: what most people took."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llmrec.tools.base import ToolContext, ToolEvent, event
from llmrec.tools.pool import CandidatePool


class PopularArguments(BaseModel):
    """Arguments of `Popular`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    where: tuple[str, ...] = Field(
        default=(), max_length=12, description="Conditions: attribute=value, attribute!=value, attribute=low..high."
    )
    n: int = Field(default=100, ge=1, le=200, description="How many candidates to add at most.")


class Popular:
    """Most interactions in the training part first."""

    name = "popular"
    description = "Add the most popular items, all or those that satisfy conditions, to the candidates."
    Arguments = PopularArguments

    async def run(
        self, pool: CandidatePool, arguments: PopularArguments, context: ToolContext
    ) -> tuple[CandidatePool, ToolEvent]:
        """Merge the most popular."""
        conditions = context.conditions(arguments.where)
        found = context.best(
            context.resources.popularity.astype(np.float64),
            arguments.n,
            source=self.name,
            reason=" and ".join(["popular", *(condition.text() for condition in conditions)]),
            allowed=context.resources.attributes.allowed(conditions),
        )
        after = pool.merged(found)
        return after, event(self, arguments, pool, after, "" if found else "nothing matches")
