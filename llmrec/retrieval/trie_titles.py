"""The generative recommender in CALRec's form, decoded under a trie of the catalogue's texts.

`calrec` samples texts and matches them to items; this one can write nothing but items. Beam search finds the likeliest
texts (and so the likeliest items) at once, or every item is scored exactly, which small catalogues allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveInt

from llmrec.errors import ConfigError, UnsupportedError
from llmrec.lm.protocol import LanguageModel
from llmrec.retrieval.base import FloatArray, IntArray, checked_histories, require_fitted
from llmrec.retrieval.calrec import flat_items, history_prompt

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.lm.local import LocalLM, OpenModel
    from llmrec.semid.prefix_table import PrefixTable


class TrieTitlesConfig(BaseModel):
    """Settings of prompt and search."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    history_items: PositiveInt = 15
    """Newest items of a history that enter the prompt."""
    search: Literal["beam", "exact"] = "beam"
    """`exact` scores every item: for small catalogues, or as the measure of the beam."""
    beams: PositiveInt = 20
    """Unfinished hypotheses; more find more of the best items and cost as much more."""
    k: PositiveInt = 10
    """Items ranked by the beam search; the others have no score. At most `beams`."""
    text: Literal["flat", "title"] = "flat"
    """What is written: an item's whole flattened text, whose probability is what CALRec trains, or no more than its
    title and the token that tells that it ends (cheaper: items of equal title share a score)."""
    inline: bool = False
    """As in `CalrecConfig`: the prompt ends behind the cue, on its line, and a text ends with its line; for models that
    were not trained on CALRec's prompt."""
    exclude_history: bool = True
    """Items of the history are never written, so that the beams hold others."""


class TrieTitlesRecommender:
    """Ranks the catalogue by the model's probability of writing an item's text next.

    Args:
        lm: the backbone; a `LocalLM`, since the search works inside the model.
        adapter: LoRA adapter of the recommender role; None asks the bare backbone.

    Raises:
        UnsupportedError: another engine.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        adapter: str | None = "recommender",
        config: TrieTitlesConfig | None = None,
        name: str = "calrec-trie",
    ) -> None:
        from llmrec.lm.local import LocalLM

        if not isinstance(lm, LocalLM):
            raise UnsupportedError(
                f"decoding under a trie works inside the model and needs a local one, got {lm.name!r}; use 'calrec'"
            )
        self.lm: LocalLM = lm
        self.adapter = adapter
        self.config = config or TrieTitlesConfig()
        if self.config.k > self.config.beams:
            raise ConfigError(f"k items need at least k beams, got k={self.config.k}, beams={self.config.beams}")
        self.name = name
        self._flat: list[str] = []
        self._table: PrefixTable | None = None

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Tokenise the catalogue's texts; the language model is trained elsewhere (finetune/)."""
        self.index_catalogue(dataset.catalogue)

    def index_catalogue(self, catalogue: Catalogue) -> None:
        """Build the table of all items' texts."""
        from llmrec.semid.prefix_table import PrefixTable

        self._flat = flat_items(catalogue, range(len(catalogue)))
        with self.lm.opened() as opened:
            tokenizer = opened.tokenizer
        titles = None
        if self.config.text == "title":
            titles = [f"Title: {catalogue.display(row)}" for row in range(len(catalogue))]
        paths = text_paths(tokenizer, self._flat, titles=titles, inline=self.config.inline)
        self._table = PrefixTable.from_paths(paths, duplicates="share", catalogue_hash=catalogue.content_hash)

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Log-probabilities of items, shape (batch, n_items); those that the search did not reach are -inf.

        An empty history cannot be prompted: nothing is ranked for it.
        """
        table = require_fitted(self._table, self.name)
        histories = checked_histories(histories, n_items=table.n_items)
        scores = np.full((len(histories), table.n_items), -np.inf)
        asked = [number for number, history in enumerate(histories) if len(history)]
        prompts = [self._prompt(histories[number], table) for number in asked]
        with self.lm.opened(prompts, adapter=self.adapter) as opened:
            search = self._exact if self.config.search == "exact" else self._beam
            scores[asked] = search(opened, table, [histories[number] for number in asked])
        return scores

    def _prompt(self, history: IntArray, table: PrefixTable) -> str:
        """About the newest items that leave room for the longest path; about the last one where none do."""
        items = [self._flat[int(row)] for row in history[-self.config.history_items :]]
        while True:
            prompt = history_prompt(items)
            prompt = prompt.rstrip("\n") if self.config.inline else prompt
            if len(items) == 1 or self.lm.count_tokens(prompt) + table.depth - 1 <= self.lm.context:
                return prompt
            items = items[1:]

    def _beam(self, opened: OpenModel, table: PrefixTable, histories: Sequence[IntArray]) -> FloatArray:
        from llmrec.semid.beam import BeamSettings, beam_search
        from llmrec.semid.filters import ItemFilter

        result = beam_search(
            opened.model,
            opened.prompts,
            table,
            settings=BeamSettings(beams=self.config.beams, k=self.config.k),
            filters=[ItemFilter(excluded=history if self.config.exclude_history else ()) for history in histories],
            layout="tree" if opened.tree else "copied",
        )
        scores = np.full((len(histories), table.n_items), -np.inf)
        for row, found in zip(scores, result.found, strict=True):
            row[found.items] = found.scores
        return scores

    def _exact(self, opened: OpenModel, table: PrefixTable, histories: Sequence[IntArray]) -> FloatArray:
        from llmrec.semid.exact import exact_scores

        scores = exact_scores(opened.model, opened.prompts, table, layout="tree" if opened.tree else "copied")
        if self.config.exclude_history:
            for row, history in zip(scores, histories, strict=True):
                row[history] = -np.inf
        return scores


def text_paths(
    tokenizer: Any, flat: Sequence[str], *, titles: Sequence[str] | None = None, inline: bool = False
) -> list[list[int]]:
    """Tokens of each item as the model writes them after CALRec's cue, closed so that no path begins another.

    Args:
        tokenizer: the model's.
        flat: flattened text of each item.
        titles: beginning of each flattened text, to end paths there; None writes the whole.
        inline: texts follow the cue on its line and end with it; else they stand on their own line and the end token
            closes them, as in training.
    """
    texts = [f" {text}\n" if inline else text for text in flat]
    whole: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    if not inline:
        whole = [[*tokens, int(tokenizer.eos_token_id)] for tokens in whole]
    if titles is None:
        return whole
    heads = [f" {title}" if inline else title for title in titles]
    begun: list[list[int]] = tokenizer(heads, add_special_tokens=False, verbose=False)["input_ids"]
    return _closed([tokens[: _common(tokens, head) + 1] for tokens, head in zip(whole, begun, strict=True)], whole)


def _common(tokens: Sequence[int], head: Sequence[int]) -> int:
    """Length of the common beginning. The token behind it separates (perhaps one with the title's last character)."""
    pairs = zip(tokens, head, strict=False)
    return next((place for place, (token, other) in enumerate(pairs) if token != other), min(len(tokens), len(head)))


def _closed(paths: list[list[int]], whole: Sequence[Sequence[int]]) -> list[list[int]]:
    """Lengthen paths until none begins another: "Title: Dr." goes on with a label, or with "No"."""
    while True:
        ordered = sorted({tuple(path) for path in paths})
        begins = {path for path, following in pairwise(ordered) if following[: len(path)] == path}
        if not begins:
            return paths
        paths = [
            list(tokens[: len(path) + 1]) if tuple(path) in begins else path
            for path, tokens in zip(paths, whole, strict=True)
        ]
