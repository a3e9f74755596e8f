"""NDCG@10 on a fixed sample of validation users, by the protocol of the evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from llmrec.errors import ConfigError
from llmrec.metrics.ranking import masked_scores, ndcg_at, ranks_of_masked
from llmrec.ranking.sequences import pack
from llmrec.seeding import rng

if TYPE_CHECKING:
    from llmrec.data.splits import Split
    from llmrec.ranking.transformer import SequenceNetwork
    from llmrec.retrieval.base import IntArray

_BATCH = 256  # users scored at once


def validation_sample(split: Split, n_users: int, seed: int) -> tuple[IntArray, IntArray, list[IntArray]]:
    """Users with a validation target and a history: numbers, targets, histories; a seeded sample where there are more.

    Raises:
        ConfigError: there is none.
    """
    users, targets = split.targets("validation")
    seen = split.validation_cut[users] > 0
    users, targets = users[seen], targets[seen]
    if len(users) == 0:
        raise ConfigError("the split has no validation target behind a history; use another split or dataset")
    if len(users) > n_users:
        chosen = np.sort(rng(seed, "validation", "users").choice(len(users), size=n_users, replace=False))
        users, targets = users[chosen], targets[chosen]
    return users, targets, [split.history(int(user), "validation") for user in users]


class Validation:
    """Mean NDCG@10 of a network over a fixed sample: full catalogue, history excluded, ties to the lower row."""

    def __init__(self, split: Split, *, n_users: int, seed: int) -> None:
        self.users, self.targets, self.histories = validation_sample(split, n_users, seed)

    def __call__(self, network: SequenceNetwork) -> float:
        """NDCG@10 of the network as it is."""
        device = next(network.parameters()).device.type
        total = 0.0
        with torch.inference_mode():
            matrix = network.item_matrix()
            scoring = network.scoring_matrix(matrix).T
            for start in range(0, len(self.users), _BATCH):
                part = slice(start, start + _BATCH)
                batch = pack([history[-network.max_length :] for history in self.histories[part]]).to(device)
                scores = (network.last_states(batch, matrix) @ scoring).cpu().numpy()
                ranks = ranks_of_masked(masked_scores(scores, self.histories[part]), self.targets[part])
                total += float(ndcg_at(ranks, 10).sum())
        return total / len(self.users)
