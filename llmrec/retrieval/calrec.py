"""The generative recommender in CALRec's form.

The backbone reads a user's history as flattened item text and writes the text of the next item; sampled completions are
matched to the catalogue by BM25 and interleaved quasi-round-robin.

Source: Li et al., CALRec (RecSys 2024, arXiv 2405.02429), sections on prompts and inference; constants of uncertain
trust are settings of `CalrecConfig`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from llmrec.errors import ConfigError, PromptTooLong
from llmrec.lm.protocol import Completion, LanguageModel, Sampling
from llmrec.prompting import as_data, render
from llmrec.retrieval.bm25 import Bm25Index
from llmrec.retrieval.roundrobin import round_robin
from llmrec.seeding import derive

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split

Answer = TypeVar("Answer")
CUES = ("One user's items, oldest first. First: Title:", "\nNext: Title:", "\nNext:\n")
"""Texts that stand before items; nano's tokenizer holds each as one token."""


class CalrecConfig(BaseModel):
    """Settings of prompt and inference."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    history_items: PositiveInt = 15
    """Newest items of a history that enter the prompt; whole oldest items are dropped (truncation is unpublished), more
    of them where the prompt would not fit the model's context."""
    samples: PositiveInt = 32
    """Completions per user (taken from third-party code)."""
    temperature: NonNegativeFloat = 0.5
    """Sampling temperature (taken from third-party code); higher gives more distinct items, less likely ones."""
    max_tokens: PositiveInt = 50
    """Longest completion in tokens (taken from third-party code)."""
    inline: bool = False
    """The prompt ends behind the cue, on its line, as the items of the history stand: for models that were not trained
    on CALRec's prompt, which continue its last line break with another cue. [D]"""
    epsilon: PositiveFloat = 1 / 5000
    """Weight of the log-probability: small, so that it only orders the completions (taken from third-party code)."""


def flat_items(catalogue: Catalogue, rows: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
    """Flattened item texts, rendered as data."""
    return [as_data(catalogue.flat(int(row))) for row in rows]


def history_prompt(items: Sequence[str]) -> str:
    """The prompt up to and including the cue after which the next item is written.

    Raises:
        ConfigError: the history is empty; this recommender needs at least one item.
    """
    if not items:
        raise ConfigError("the generative recommender needs a history of at least one item, got an empty one")
    return render("recommender/calrec", items=items)


async def ask_about(items: Sequence[str], ask: Callable[[str], Awaitable[Answer]], *, inline: bool = False) -> Answer:
    """Ask with the newest items whose prompt fits the model's context; whole oldest items are dropped, as in training.

    Args:
        items: texts of a history, oldest first.
        ask: sends a prompt.
        inline: the prompt ends behind the cue, on its line.

    Raises:
        PromptTooLong: not even the last item fits.
    """
    for start in range(len(items)):
        prompt = history_prompt(items[start:])
        try:
            return await ask(prompt.rstrip("\n") if inline else prompt)
        except PromptTooLong:
            if start + 1 == len(items):
                raise
    raise ConfigError("the generative recommender needs a history of at least one item, got an empty one")


class CalrecRecommender:
    """Ranks the catalogue by what the language model writes next.

    Args:
        lm: the backbone.
        adapter: LoRA adapter of the recommender role; None asks the bare backbone.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        adapter: str | None = "recommender",
        config: CalrecConfig | None = None,
        name: str = "calrec",
    ) -> None:
        self.lm = lm
        self.adapter = adapter
        self.config = config or CalrecConfig()
        self.name = name
        self._catalogue: Catalogue | None = None

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Index the catalogue's flattened texts; the language model is trained elsewhere (finetune/)."""
        self.index_catalogue(dataset.catalogue)

    def index_catalogue(self, catalogue: Catalogue) -> None:
        """Flatten and index every item."""
        self._catalogue = catalogue
        self._flat = flat_items(catalogue, range(len(catalogue)))
        self._bm25 = Bm25Index(self._flat)

    async def score(
        self, histories: Sequence[npt.NDArray[np.int64]], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> npt.NDArray[np.float64]:
        """Scores of every item, shape (batch, n_items); items that no completion reaches are not ranked (-inf).

        An empty history cannot be prompted: nothing is ranked for it.
        """
        results = await asyncio.gather(*(self.complete(history, seed=seed) for history in histories))
        return np.stack([self.rank_completions(completions) for completions in results])

    async def complete(self, history: Sequence[int] | npt.NDArray[np.int64], *, seed: int = 0) -> list[Completion]:
        """Sample completions for one history; none for an empty history."""
        if len(history) == 0:
            return []
        recent = [int(row) for row in history[-self.config.history_items :]]
        sampling = Sampling(
            max_tokens=self.config.max_tokens,
            temperature=self.config.temperature,
            n=self.config.samples,
            stop=("\n",),
            seed=derive(seed, "calrec", *recent),
        )

        async def write(prompt: str) -> list[Completion]:
            return await self.lm.generate(prompt, sampling=sampling, adapter=self.adapter)

        return await ask_about([self._flat[row] for row in recent], write, inline=self.config.inline)

    def rank_completions(self, completions: Sequence[Completion]) -> npt.NDArray[np.float64]:
        """Quasi-round-robin scores over the catalogue, shape (n_items,); -inf where no completion shares a term."""
        if self._catalogue is None:
            raise ConfigError("the recommender has no catalogue yet; call fit or index_catalogue first")
        pairs = [(completion.text.strip(), completion.logprob) for completion in completions]
        scores = round_robin(pairs, self._bm25.scores, len(self._flat), epsilon=self.config.epsilon)
        return np.where(scores > 0, scores, -np.inf)
