"""`similar`: what resembles given items, by content and by who took both."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from llmrec.errors import ToolError
from llmrec.tools.base import ToolContext, ToolEvent, event
from llmrec.tools.pool import CandidatePool


class SimilarArguments(BaseModel):
    """Arguments of `Similar`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    titles: tuple[str, ...] = Field(min_length=1, max_length=8, description="Titles of items in the catalogue.")
    n: int = Field(default=100, ge=1, le=200, description="How many candidates to add at most.")


class Similar:
    """Half the score is BM25 with the given items' text as the query, half the item-item model where there is one.

    Both parts are scaled to [0, 1] by their largest value before they are added.
    """

    name = "similar"
    description = "Add items that are similar to the given titles to the candidates."
    Arguments = SimilarArguments

    async def run(
        self, pool: CandidatePool, arguments: SimilarArguments, context: ToolContext
    ) -> tuple[CandidatePool, ToolEvent]:
        """Find neighbours and merge."""
        rows = [context.item(title) for title in arguments.titles]
        catalogue = context.catalogue
        content = np.sum([_scaled(context.resources.bm25.scores(_content(context, row))) for row in rows], axis=0)
        total = _scaled(content)
        by = "content"
        if context.resources.neighbours is not None:
            scores = await context.resources.neighbours.score([np.array(rows, dtype=np.int64)], seed=context.seed)
            total = total + _scaled(np.asarray(scores[0], dtype=np.float64))
            by = f"content and {context.resources.neighbours.name}"
        total[rows] = -np.inf
        reason = "similar to " + " and ".join(catalogue.display(row) for row in rows)
        found = context.best(total, arguments.n, source=self.name, reason=reason, above=0.0)
        if not found:
            raise ToolError(f"nothing is similar to {', '.join(arguments.titles)}; try search or recommend")
        after = pool.merged(found)
        return after, event(self, arguments, pool, after, f"by {by}")


def _content(context: ToolContext, row: int) -> str:
    """Attribute values without the title: titles share words by accident."""
    catalogue = context.catalogue
    names = [name for name in catalogue.attribute_names if catalogue.kind(name) != "number"]
    text = " ".join(str(value) for name in names for value in catalogue.values(row, name))
    return text or catalogue.title(row)


def _scaled(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scores in [0, 1]; what is not finite or below zero is 0."""
    finite = np.where(np.isfinite(scores) & (scores > 0), scores, 0.0)
    top = float(finite.max(initial=0.0))
    return finite / top if top > 0 else finite
