"""Ranks candidates by how likely the language model finds them as the next item.

A first recommender names the candidates; the backbone reads the history in CALRec's prompt once and gives the
log-probability of every candidate's text behind it. Nothing is sampled, so nothing has to be matched to the catalogue.

Sources: the prompt is that of Li et al., CALRec (RecSys 2024, arXiv 2405.02429); ranking candidates by their likelihood
follows Sileo et al., Zero-shot recommendation as language modeling (ECIR 2022, arXiv 2112.04184).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveInt

from llmrec.errors import ConfigError, ModelError, UnsupportedError
from llmrec.prompting import as_data
from llmrec.ranking.stages import candidates, promoted
from llmrec.retrieval.base import FloatArray, IntArray, Recommender, checked_histories, require_fitted
from llmrec.retrieval.calrec import ask_about, flat_items
from llmrec.retrieval.item_knn import ItemKnnRecommender

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.lm.protocol import LanguageModel


class LmLikelihoodConfig(BaseModel):
    """Settings of prompt and scoring."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidates: PositiveInt = 50
    """Best items of the first recommender that are scored; the cost grows with it."""
    history_items: PositiveInt = 15
    """Newest items of a history that enter the prompt; less where they would not fit the model's context."""
    text: Literal["title", "flat"] = "title"
    """What of an item is scored: its title, or all of its flattened text."""
    length: Literal["sum", "byte"] = "sum"
    """"sum": log-probability of the whole text, which shorter texts find easier; "byte": per byte of its UTF-8 form,
    which means the same for every tokenizer."""
    inline: bool = False
    """The prompt ends behind the cue, on its line (see `CalrecConfig.inline`)."""
    ending: str = ""
    """Text behind every candidate, such as a line break for models that were not trained on the prompt. [D]"""
    others: Literal["first", "unscored"] = "first"
    """What becomes of items that are no candidates: behind them in the first recommender's order, or not ranked."""
    concurrency: PositiveInt = 32
    """Users that are asked about at once."""


@dataclass(frozen=True)
class Failure:
    """One history that the language model could not score."""

    user: int | None
    """User number, where it was given."""
    reason: str


class LmLikelihoodRecommender:
    """Orders the candidates of a first recommender by the language model's likelihood.

    A history that the model fails on is recorded in `failures` and gets a row of ``nan``. An empty history cannot be
    prompted: it keeps the first recommender's order, or nothing is ranked, as `LmLikelihoodConfig.others` says.

    Args:
        lm: the backbone; needs the verb score.
        first: names the candidates; None takes item-kNN. `fit` fits it too unless it is said to be fitted.
        first_is_fitted: the first recommender is fitted on the same split already.
        adapter: LoRA adapter of the recommender role; None asks the bare backbone.
        config: settings.
        name: in tables.

    Raises:
        ConfigError: the backbone cannot score texts.
    """

    def __init__(
        self,
        lm: LanguageModel,
        first: Recommender | None = None,
        *,
        first_is_fitted: bool = False,
        adapter: str | None = "recommender",
        config: LmLikelihoodConfig | None = None,
        name: str = "lm-likelihood",
    ) -> None:
        verbs = lm.capabilities.verbs
        if "score" not in verbs:
            raise ConfigError(
                f"{name} needs a model that scores texts, got {lm.name!r} with {sorted(verbs)}; use another"
            )
        self.lm, self.adapter = lm, adapter
        self.first: Recommender = ItemKnnRecommender() if first is None else first
        self.config = config or LmLikelihoodConfig()
        self.name = name
        self.failures: list[Failure] = []
        """What went wrong so far, in the order of the histories."""
        self._first_is_fitted = first_is_fitted
        self._items: list[str] | None = None
        self._continuations: list[str] = []

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Fit the first recommender and read the catalogue; the language model is trained elsewhere (finetune/)."""
        if not self._first_is_fitted:
            self.first.fit(dataset, split)
        config, catalogue = self.config, dataset.catalogue
        rows = range(len(catalogue))
        self._items = flat_items(catalogue, rows)
        texts = self._items if config.text == "flat" else [title_text(catalogue, row) for row in rows]
        self._continuations = [f"{' ' if config.inline else ''}{text}{config.ending}" for text in texts]
        self.failures = []

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Log-probabilities (nats) of candidates, the others below them, shape (batch, n_items).

        Raises:
            DataError: a history holds a row that the catalogue does not have.
            UnsupportedError: the backbone lacks the adapter.
            UserError: an endpoint is down, or its budget is spent.
        """
        histories = checked_histories(histories, n_items=len(require_fitted(self._items, self.name)))
        first = await self.first.score(histories, users=users, seed=seed)
        chosen = candidates(first, histories, self.config.candidates)
        gate = asyncio.Semaphore(self.config.concurrency)
        try:
            async with asyncio.TaskGroup() as tasks:
                asked = [
                    tasks.create_task(self._ask(gate, history, items))
                    for history, items in zip(histories, chosen, strict=True)
                ]
        except ExceptionGroup as group:  # the first cause is what the user must repair
            raise group.exceptions[0] from group
        rows = np.empty(first.shape, dtype=np.float64)
        for place, (task, items) in enumerate(zip(asked, chosen, strict=True)):
            answer = task.result()
            if isinstance(answer, str):
                self.failures.append(Failure(None if users is None else int(users[place]), answer))
                rows[place] = np.nan
            else:
                rows[place] = self._row(first[place], items[: len(answer)], answer)
        return rows

    def describe(self) -> str:
        """Candidates, what is scored, and how many histories failed."""
        config = self.config
        per = " per byte" if config.length == "byte" else ""
        failed = (
            f"; {len(self.failures)} histories failed, one because {self.failures[0].reason}" if self.failures else ""
        )
        return (
            f"log-likelihood{per} of the {config.text} of {config.candidates} candidates of {self.first.name}{failed}"
        )

    async def _ask(self, gate: asyncio.Semaphore, history: IntArray, items: IntArray) -> FloatArray | str:
        """Scores of the candidates, none for an empty history; or why there are none."""
        assert self._items is not None
        if len(history) == 0 or len(items) == 0:
            return np.empty(0)
        recent = [self._items[int(row)] for row in history[-self.config.history_items :]]
        order = np.argsort(items)  # last digits depend on the batch: they shall not depend on the first stage's order
        texts = [self._continuations[int(row)] for row in items[order]]

        async def score(prompt: str) -> list[float]:
            return await self.lm.score(prompt, texts, adapter=self.adapter)

        async with gate:
            try:
                answer = await ask_about(recent, score, inline=self.config.inline)
            except UnsupportedError:
                raise
            except ModelError as error:
                return str(error) or type(error).__name__
        wrong = [text for text, value in zip(texts, answer, strict=True) if not math.isfinite(value)]
        if wrong:
            return (
                f"{self.lm.name!r} gave no finite log-probability for {len(wrong)} candidates, {wrong[0]!r} among them"
            )
        values = np.empty(len(items))
        values[order] = np.array(answer) / self._lengths(texts)
        return values

    def _lengths(self, texts: Sequence[str]) -> FloatArray:
        if self.config.length == "sum":
            return np.ones(len(texts))
        return np.array([max(1, len(text.encode())) for text in texts], dtype=np.float64)

    def _row(self, first: FloatArray, items: IntArray, values: FloatArray) -> FloatArray:
        others = first if self.config.others == "first" else np.full(len(first), -np.inf)
        return promoted(others, items, values)


def title_text(catalogue: Catalogue, row: int) -> str:
    """The flattened text up to the label behind the title, "Title: Alien (1979). Category:", rendered as data.

    The label closes the title: without it "Alien" would be likely wherever "Aliens" is.
    """
    head = f"Title: {catalogue.display(row)}"
    behind = catalogue.flat(row).removeprefix(head)
    label, colon, _ = behind.partition(":")
    return as_data(head + label + colon)
