"""The backbone as generator of semantic ids: one model and one adapter for recommendation and for search.

A history or a query goes in, and a beam search under the table of all ids brings items out, so nothing outside the
catalogue can be written. It stands beside the free-text recommender (`llmrec.retrieval.calrec`), which needs no ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt

from llmrec.errors import ConfigError, DataError, UnsupportedError
from llmrec.lm.local import LocalLM
from llmrec.retrieval.base import FloatArray, IntArray, require_fitted
from llmrec.retrieval.semantic_prompts import history_prompt, search_prompt, shown_titles
from llmrec.seeding import derive
from llmrec.semid.beam import BeamSettings, Found, beam_search
from llmrec.semid.codes import SemanticIds
from llmrec.semid.filters import ItemFilter
from llmrec.semid.prefix_table import PrefixTable
from llmrec.semid.tokens import IDS_FOLDER, id_paths

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.lm.protocol import LanguageModel


class SemanticLmConfig(BaseModel):
    """Settings of prompt and search."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    history_items: PositiveInt = 25
    """Newest items of a history that enter the prompt; the recipe's value is what the model was trained with."""
    titles: bool = False
    """Show the title after each id: helps where the backbone knows the items, and makes prompts three times as long."""
    beams: PositiveInt = 50
    """Hypotheses at each step, and the number of items that get a score: more reaches more, and takes longer."""
    temperature: NonNegativeFloat = 0.0
    """Above 0, items are drawn without replacement instead of taking the best."""
    per_prefix: PositiveInt | None = None
    """Most items with the same first code (None: no limit): lower is more diverse."""


class SemanticLmRecommender:
    """Ranks the catalogue by the probability of each item's id after a history or a query.

    Args:
        lm: a local engine over a backbone with id tokens (see `llmrec.semid.tokens`).
        ids: the ids, or the folder of them; None takes those that lie with the backbone.
        adapter: adapter of the id tokens; None asks the bare backbone, whose id rows know nothing.

    Raises:
        UnsupportedError: the engine does not lend its model to a search.
        ConfigError: there are no ids.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        ids: SemanticIds | Path | str | None = None,
        adapter: str | None = "semantic",
        config: SemanticLmConfig | None = None,
        name: str = "semantic-lm",
    ) -> None:
        if not isinstance(lm, LocalLM):
            raise UnsupportedError(
                f"the recommender {name!r} searches ids inside a local engine, got {type(lm).__name__}; load the "
                "backbone from a folder"
            )
        self.lm = lm
        self.adapter = adapter
        self.config = config or SemanticLmConfig()
        self.name = name
        self.ids = ids if isinstance(ids, SemanticIds) else _read_ids(ids if ids is None else Path(ids), lm)
        self._catalogue: Catalogue | None = None
        self._table: PrefixTable | None = None

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Index the ids; the model is trained elsewhere (finetune/semantic_ids.yaml)."""
        self.index_catalogue(dataset.catalogue)

    def index_catalogue(self, catalogue: Catalogue) -> None:
        """Check the ids against the catalogue and the backbone, and build the table of all ids.

        Raises:
            CacheError: the ids were made for another catalogue.
            ConfigError: the backbone has no tokens for these ids.
            UnsupportedError: no such adapter is loaded.
        """
        self.ids.check(catalogue)
        with self.lm.opened(adapter=self.adapter) as model:
            paths = id_paths(model.tokenizer, self.ids)
        self._table = PrefixTable.from_paths(paths, catalogue_hash=catalogue.content_hash)
        self._catalogue = catalogue
        self._id_texts = [self.ids.text_of(row) for row in range(len(self.ids))]

    def describe(self) -> str:
        """What the scores are."""
        return (
            f"log-probability of the id after the newest {self.config.history_items} items; beam search with "
            f"{self.config.beams} beams without the history's items, items that it does not reach are not ranked"
        )

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Log-probability of the items that the search reaches, shape (batch, n_items); -inf for all others.

        Items of the history are never reached. An empty history asks for an item that histories begin with.

        Raises:
            DataError: a history names an item that is not in the catalogue.
        """
        return self._scores(histories, None, seed)

    async def score_among(
        self,
        histories: Sequence[IntArray],
        *,
        allowed: Sequence[npt.NDArray[np.bool_]],
        users: Sequence[int] | None = None,
        seed: int = 0,
    ) -> FloatArray:
        """`score` among the allowed items, one boolean array of shape (n_items,) per history: no beam leaves them.

        Raises:
            DataError: a history names an item that is not in the catalogue.
            ConfigError: a filter of other items.
        """
        return self._scores(histories, allowed, seed)

    def _scores(
        self, histories: Sequence[IntArray], allowed: Sequence[npt.NDArray[np.bool_]] | None, seed: int
    ) -> FloatArray:
        catalogue = require_fitted(self._catalogue, self.name)
        n_items = len(catalogue)
        scores = np.full((len(histories), n_items), -np.inf)
        prompts, filters, seeds = [], [], []
        for number, history in enumerate(histories):
            rows = [int(row) for row in history]
            if wrong := [row for row in rows if not 0 <= row < n_items]:
                raise DataError(
                    f"a history names item row {wrong[0]!r}; the catalogue has rows 0 to {n_items - 1}: use its rows"
                )
            prompts.append(self.prompt(rows))
            among = None if allowed is None else allowed[number]
            filters.append(ItemFilter(among, np.array(sorted(set(rows)), dtype=np.int64)))
            seeds.append(derive(seed, self.name, *rows[-self.config.history_items :]))
        for line, found in enumerate(self._search(prompts, filters, seeds, self.config.beams)):
            scores[line, found.items] = found.scores if self.config.temperature else found.logprobs
        return scores

    async def search(
        self,
        query: str,
        n: int = 10,
        *,
        allowed: npt.NDArray[np.integer] | None = None,
        excluded: Sequence[int] | npt.NDArray[np.integer] = (),
        seed: int = 0,
    ) -> Found:
        """Items that answer a query, best first; fewer than n, with a note, where fewer are left.

        Args:
            query: what a person typed: attributes, a piece of a title.
            n: items wanted.
            allowed: item rows, or a boolean per item, to choose from; None is all.
            excluded: item rows to leave out.
            seed: of the draws, where the settings have a temperature; with the query it decides them.
        """
        return (await self.search_many([query], n, [ItemFilter(allowed, excluded)], seed=seed))[0]

    async def search_many(
        self,
        queries: Sequence[str],
        n: int = 10,
        filters: Sequence[ItemFilter] | None = None,
        *,
        seed: int = 0,
    ) -> list[Found]:
        """Items for several queries in one batch; see `search`.

        Raises:
            ConfigError: a query says nothing, or n is below 1.
        """
        require_fitted(self._catalogue, self.name)
        if n < 1:
            raise ConfigError(f"n must be at least 1, got {n!r}")
        for query in queries:
            if not query.strip():
                raise ConfigError(f"a search needs a query, got {query!r}")
        prompts = [search_prompt(query) for query in queries]
        seeds = [derive(seed, "search", query) for query in queries]
        return self._search(prompts, filters or [ItemFilter()] * len(queries), seeds, n)

    def prompt(self, history: Sequence[int]) -> str:
        """What the model reads for a history of item rows."""
        catalogue = require_fitted(self._catalogue, self.name)
        recent = [int(row) for row in history[max(0, len(history) - self.config.history_items) :]]
        titles = shown_titles(catalogue, recent) if self.config.titles else ()
        return history_prompt([self._id_texts[row] for row in recent], titles)

    def _search(
        self, prompts: Sequence[str], filters: Sequence[ItemFilter], seeds: Sequence[int], n: int
    ) -> list[Found]:
        table = require_fitted(self._table, self.name)
        if not prompts:
            return []
        beams = max(self.config.beams, n)
        settings = BeamSettings(
            beams=beams, k=n, temperature=self.config.temperature, per_prefix=self.config.per_prefix
        )
        with self.lm.opened(prompts, adapter=self.adapter) as model:
            result = beam_search(
                model.model,
                model.prompts,
                table,
                settings=settings,
                filters=filters,
                seeds=seeds,
                layout="tree" if model.tree else "copied",
            )
        return list(result.found)


def _read_ids(folder: Path | None, lm: LocalLM) -> SemanticIds:
    """Ids of a folder, or of the backbone's own."""
    place = folder or lm.folder
    if place is None:
        raise ConfigError(f"{lm.name!r} was not loaded from a folder, so it brings no semantic ids; name their folder")
    inside = place / IDS_FOLDER
    if folder is None and not inside.is_dir():
        raise ConfigError(
            f"the backbone {str(place)!r} has no semantic ids; make one that has: llmrec finetune semantic_ids"
        )
    return SemanticIds.load(inside if inside.is_dir() else place)
