"""`recommend`: what the configured recommender expects the user to take next."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llmrec.errors import ToolError
from llmrec.retrieval.base import Recommender
from llmrec.tools.base import ToolContext, ToolEvent, event
from llmrec.tools.pool import CandidatePool


class RecommendArguments(BaseModel):
    """Arguments of `Recommend`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(default=100, ge=1, le=200, description="How many candidates to add at most.")


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
        scores = await history_scores(context, model, self.name)
        found = context.best(scores, arguments.n, source=self.name, reason="fits what you took before")
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
    context: ToolContext, model: Recommender, tool: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Scores of all items for the history, shape (n_items,); what the model left unscored is -inf.

    Raises:
        ToolError: there is no history.
    """
    if not context.history:
        raise ToolError(f"{tool} needs a history and this user has none; call popular or search instead")
    users = None if context.user is None else [context.user]
    scores = await model.score([np.array(context.history, dtype=np.int64)], users=users, seed=context.seed)
    row = np.asarray(scores[0], dtype=np.float64)
    return np.where(np.isnan(row), -np.inf, row)
