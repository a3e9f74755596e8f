"""The recipe of a backbone with id tokens: `finetune/semantic_ids.yaml`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from llmrec.semid.quantiser import QuantiserKind
from llmrec.training.recipe import MixRecipe


class IdSettings(BaseModel):
    """Which semantic ids the tokens stand for."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    folder: str | None = None
    """Ids that were built earlier (llmrec semid build); None builds them with the settings below."""
    vectors: str = "tfidf"
    """Item vectors they are made from (llmrec.retrieval.item_vectors)."""
    quantiser: QuantiserKind = "kmeans"
    levels: tuple[PositiveInt, ...] | None = None
    """Codes per level; None fits the size of the catalogue. More codes: fewer collisions, more rows to train."""


class SemanticRecipe(MixRecipe):
    """Id tokens and a LoRA adapter trained together."""

    script: Literal["semantic_ids.py"] = "semantic_ids.py"
    validation_examples: NonNegativeInt = 100
    """Examples of the same tasks in the same shares, whose loss is watched. Histories end in validation targets, which
    no training example holds; texts, titles and many queries stand in training too
    (`llmrec.training.semantic.tasks.validation_examples`)."""
    ids: IdSettings = IdSettings()
    start_rows: Literal["texts", "noise"] = "texts"
    """Where the rows of codes start: what their items' texts have in common, or a mean row with a little noise."""
    history_items: PositiveInt = 25
    """Longest history in items; an item is one token per level."""

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """Tasks of its own."""
        from llmrec.training.semantic.tasks import BUILDERS

        return tuple(BUILDERS)
