"""`details`: the facts about named items."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from llmrec.prompting import as_data
from llmrec.tools.base import ToolContext, ToolEvent, event
from llmrec.tools.pool import CandidatePool


class DetailsArguments(BaseModel):
    """Arguments of `Details`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    titles: tuple[str, ...] = Field(min_length=1, max_length=5, description="Titles of items in the catalogue.")


class Details:
    """The candidates stay as they are; the facts are in the note of the event."""

    name = "details"
    description = "Read the facts about items by title, candidates or not."
    Arguments = DetailsArguments

    async def run(
        self, pool: CandidatePool, arguments: DetailsArguments, context: ToolContext
    ) -> tuple[CandidatePool, ToolEvent]:
        """Look the items up."""
        facts = [_facts(context, context.item(title)) for title in arguments.titles]
        return pool, event(self, arguments, pool, pool, " | ".join(facts))


def _facts(context: ToolContext, row: int) -> str:
    catalogue = context.catalogue
    parts = [catalogue.display(row)]
    for name in catalogue.attribute_names:
        values = catalogue.values(row, name)
        if values:
            parts.append(f"{name}: {', '.join(str(value) for value in values)}")
    return as_data("; ".join(parts), max_characters=600)
