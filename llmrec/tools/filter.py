"""`filter`: keeps the candidates that satisfy conditions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from llmrec.errors import ToolError
from llmrec.tools.base import ToolContext, ToolEvent, event
from llmrec.tools.pool import CandidatePool


class FilterArguments(BaseModel):
    """Arguments of `Filter`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    where: tuple[str, ...] = Field(
        min_length=1, max_length=12, description="Conditions: attribute=value, attribute!=value, attribute=low..high."
    )


class Filter:
    """Drops every candidate that fails a condition; candidates keep their order."""

    name = "filter"
    description = "Keep only the candidates that satisfy every condition."
    Arguments = FilterArguments

    async def run(
        self, pool: CandidatePool, arguments: FilterArguments, context: ToolContext
    ) -> tuple[CandidatePool, ToolEvent]:
        """Filter the pool."""
        if not pool:
            raise ToolError("filter needs candidates and there are none yet; call search with these conditions instead")
        allowed = context.resources.attributes.allowed(context.conditions(arguments.where))
        after = pool.restricted(lambda item: bool(allowed[item]))
        return after, event(self, arguments, pool, after, "" if after else "no candidate is left")
