"""`recommend`: what the configured recommender expects the user to take next."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llmrec.errors import ToolError
from llmrec.retrieval.base import FilteredRecommender, Recommender
from llmrec.tools.attributes import BoolArray
from llmrec.tools.base import ToolContext, ToolEvent, event
from llmrec.tools.pool import CandidatePool


class RecommendArguments(BaseModel):
    """Arguments of `Recommend`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(default=100, ge=1, le=200, description="How many candidates to add at most.")
    where: tuple[str, ...] = Field(
        default=(),
        max_length=12,
        description="Only items with: attribute=value, attribute!=value, attribute=low..high.",
    )


class Recommend:
    """The recommender named in the settings (the fine-tuned language model, or item-kNN), given the history."""

    name = "recommend"
    description = "Add items that fit what the user took before to the candidates. Needs a history."
    Arguments = RecommendArguments

    async def run(
        self, pool: CandidatePool, arguments: RecommendArguments, context: ToolContext
    ) -> tuple[CandidatePool, ToolEvent]:
        """Score the catalogue for the history and merge the best."""
        model = configured(context.resources.recommender, self.name)
        wanted = context.resources.attributes.allowed(context.conditions(arguments.where))
        if not wanted.any():
            raise ToolError(f"no item satisfies {' and '.join(arguments.where)}; leave a condition out")
        scores = await history_scores(context, model, self.name, wanted=wanted)
        found = context.best(scores, arguments.n, source=self.name, reason="fits what you took before", allowed=wanted)
        after = pool.merged(found)
        return after, event(self, arguments, pool, after, f"by {model.name}")


def configured(model: Recommender | None, tool: str) -> Recommender:
    """The model behind a tool.

    Raises:
        ToolError: none is configured.
    """
    if model is None:
        raise ToolError(f"{tool} is not available: no recommender is configured; call search or popular instead")
    return model


async def history_scores(
    context: ToolContext, model: Recommender, tool: str, *, wanted: BoolArray | None = None
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Scores of all items for the history, shape (n_items,); what the model left unscored is -inf.

    Args:
        wanted: items that may be found, for a model that searches: with it, the search also spends no place on items
            that are banned or refused.

    Raises:
        ToolError: there is no history.
    """
    if not context.history:
        raise ToolError(f"{tool} needs a history and this user has none; call popular or search instead")
    users = None if context.user is None else [context.user]
    histories = [np.array(context.history, dtype=np.int64)]
    if wanted is not None and isinstance(model, FilteredRecommender):
        allowed = _reachable(context, wanted)
        scores = await model.score_among(histories, allowed=[allowed], users=users, seed=context.seed)
    else:
        scores = await model.score(histories, users=users, seed=context.seed)
    row = np.asarray(scores[0], dtype=np.float64)
    return np.where(np.isnan(row), -np.inf, row)


def _reachable(context: ToolContext, wanted: BoolArray) -> BoolArray:
    """The wanted items that this turn can show; all wanted ones where it can show none of them."""
    allowed = wanted.copy() if context.not_refused is None else wanted & context.not_refused
    allowed[list(context.banned)] = False
    return allowed if allowed.any() else wanted
