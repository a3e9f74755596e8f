"""`rank`: brings the candidates into another order."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llmrec.errors import ToolError
from llmrec.tools.base import ToolContext, ToolEvent, event
from llmrec.tools.pool import Candidate, CandidatePool, ranked_pool
from llmrec.tools.recommend import configured, history_scores

Key = Callable[[Candidate], float]


class RankArguments(BaseModel):
    """Arguments of `Rank`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: str = Field(
        default="match",
        max_length=60,
        description="match (score so far), taste (fit to the history), popularity, a numeric attribute such as year "
        "(smallest first), or -year (largest first).",
    )


class Rank:
    """`match` keeps the scores of the tools so far; `taste` adds the place in the ranker's order to them (or
    takes that order alone when nothing but `recommend` brought the candidates); the
    others replace the order.
    """

    name = "rank"
    description = "Order the candidates by match, taste, popularity or a numeric attribute."
    Arguments = RankArguments

    async def run(
        self, pool: CandidatePool, arguments: RankArguments, context: ToolContext
    ) -> tuple[CandidatePool, ToolEvent]:
        """Reorder the pool."""
        if not pool:
            raise ToolError(
                "rank needs candidates and there are none yet; call search, similar, recommend or popular first"
            )
        match arguments.by:
            case "match":
                after, note = pool.ordered(lambda candidate: candidate.score), ""
            case "taste":
                after, note = await _by_taste(pool, context)
            case "popularity":
                counts = context.resources.popularity
                after, note = pool.ordered(lambda candidate: float(counts[candidate.item])), ""
            case _:
                after, note = pool.ordered(_number_key(arguments.by, context)), ""
        return after, event(self, arguments, pool, after, note)


async def _by_taste(pool: CandidatePool, context: ToolContext) -> tuple[CandidatePool, str]:
    model = configured(context.resources.ranker, "rank by taste")
    scores = await history_scores(context, model, "rank by taste")
    rows = np.array(pool.rows, dtype=np.int64)
    order = rows[np.argsort(-scores[rows], kind="stable")]
    if all(candidate.source == "recommend" for candidate in pool.candidates):
        # The same history brought them, so the two orders are no two pieces of evidence: the ranker's is taken.
        return ranked_pool(order, source="recommend+taste", reason="fits what you took before"), f"by {model.name}"
    liked = ranked_pool(order, source="taste", reason="fits what you took before")
    return pool.merged(liked), f"by {model.name}"


def _number_key(by: str, context: ToolContext) -> Key:
    name = by.removeprefix("-")
    catalogue = context.catalogue
    numeric = [known for known in catalogue.attribute_names if catalogue.kind(known) == "number"]
    if name not in numeric:
        raise ToolError(
            f"cannot rank by {by!r}; use match, taste, popularity or one of {', '.join(numeric) or 'no numbers'}"
        )
    numbers = context.resources.attributes.numbers(name)
    sign = 1.0 if by.startswith("-") else -1.0

    def key(candidate: Candidate) -> float:
        value = float(numbers[candidate.item])
        return -math.inf if math.isnan(value) else sign * value  # missing values come last either way

    return key
