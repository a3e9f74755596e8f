"""Validation NDCG@10 of the recommender that is being trained: sampled completions, matched by BM25, as in serving."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrec.lm.exact_head import with_exact_head
from llmrec.lm.local import LocalLM
from llmrec.lm.switching import MERGE_BELOW
from llmrec.metrics.ranking import ndcg_at, recall_at, target_ranks
from llmrec.retrieval.base import FloatArray
from llmrec.retrieval.calrec import CalrecConfig, CalrecRecommender
from llmrec.seeding import derive
from llmrec.training.calrec.data import Domain, sampled_targets
from llmrec.training.calrec.gathered import gathered
from llmrec.training.processes import place_among_processes

if TYPE_CHECKING:
    from llmrec.training.calrec.recipe import ValidationSettings

_AT_ONCE = 32  # users whose scores over the catalogue are held at once


class RankingCheck:
    """Ranks the catalogue for the same users every time it is asked.

    Args:
        domains: their validation users are drawn from, as many from each.
        settings: users and draws.
        history_items: newest items of a history that enter the prompt.
        seed: of users and draws.
    """

    def __init__(
        self, domains: Sequence[Domain], settings: ValidationSettings, *, history_items: int, seed: int
    ) -> None:
        self.config = CalrecConfig(
            history_items=history_items,
            samples=settings.samples,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
        )
        self.seed = seed
        self.domains = list(domains)
        each = -(-settings.users // len(self.domains))
        self.users = [
            sampled_targets(domain, each, seed=seed, key=f"ranking {place}")
            for place, domain in enumerate(self.domains)
        ]
        self._recommenders: dict[int, CalrecRecommender] = {}

    def measure(self, model: Any, tokenizer: Any) -> dict[str, float]:
        """Recall@10 and NDCG@10: the mean over domains of the mean over users.

        Every process ranks a part of the users; all get the same answer.

        Args:
            model: causal language model, with or without a LoRA adapter, in training or not; it is left as it was.
            tokenizer: of the model.
        """
        device = next(model.parameters()).device
        with serving(model) as ready:
            lm = LocalLM(ready, tokenizer, name="in training")
            values = [self._values(place, lm, device) for place in range(len(self.domains))]
        recall, ndcg = np.mean(values, axis=0)
        return {"recall10": float(recall), "ndcg10": float(ndcg)}

    def _values(self, place: int, lm: LocalLM, device: Any) -> FloatArray:
        """Mean Recall@10 and NDCG@10 of a domain, shape (2,)."""
        import torch

        rank, n_processes = place_among_processes()
        pairs = self.users[place][rank::n_processes]
        ranks = [self._ranks(place, lm, pairs[start : start + _AT_ONCE]) for start in range(0, len(pairs), _AT_ONCE)]
        joined = np.concatenate([np.empty(0, dtype=np.int64), *ranks])
        sums = [float(recall_at(joined, 10).sum()), float(ndcg_at(joined, 10).sum()), float(len(joined))]
        total = gathered(torch.tensor([sums], dtype=torch.float64, device=device)).sum(dim=0).cpu().numpy()
        return np.asarray(total[:2] / total[2], dtype=np.float64)

    def _ranks(self, place: int, lm: LocalLM, pairs: Sequence[tuple[int, int]]) -> Any:
        recommender = self._recommenders.get(place)
        if recommender is None:
            recommender = CalrecRecommender(lm, adapter=None, config=self.config)
            recommender.index_catalogue(self.domains[place].dataset.catalogue)
            self._recommenders[place] = recommender
        recommender.lm = lm
        histories = [self.domains[place].split.history(user, "validation") for user, _ in pairs]
        scores = asyncio.run(recommender.score(histories, seed=derive(self.seed, "calrec", "ranking")))
        return target_ranks(scores, [target for _, target in pairs], histories)


@contextmanager
def serving(model: Any) -> Iterator[Any]:
    """The model as an engine takes it: a small one as a copy with its adapter merged, twice as fast to decode.

    On a CPU that copy computes logits as the served model does, also in half precision; a large one does not.
    """
    has_adapter = hasattr(model, "peft_config")
    if has_adapter and sum(weight.numel() for weight in model.parameters()) < MERGE_BELOW:
        yield with_exact_head(copy.deepcopy(model).merge_and_unload().eval())
        return
    was_training = model.training
    model.eval()
    try:
        yield model.get_base_model() if has_adapter else model
    finally:
        model.train(was_training)
