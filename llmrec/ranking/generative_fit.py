"""Trains the generator: the loop of `llmrec.ranking.fit` over blocks of codes, judged by real beam search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from llmrec.metrics.ranking import MISS, ndcg_at
from llmrec.ranking.fit import FitConfig, FitState, Report, train
from llmrec.ranking.generative_decode import Decoder
from llmrec.ranking.generative_model import CodeLoss, CodeNetwork
from llmrec.ranking.validation import validation_sample
from llmrec.semid.beam import BeamSettings
from llmrec.semid.filters import ItemFilter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from llmrec.data.splits import Split
    from llmrec.ranking.checkpoint import Checkpoint
    from llmrec.ranking.generative_data import CodeSequences
    from llmrec.ranking.transformer import SequenceNetwork
    from llmrec.retrieval.base import IntArray

COMPILE_FROM_TOKENS = 4_000_000
"""Tokens of a whole training from which compiling, which takes half a minute of a core, is worth it."""


class BeamValidation:
    """Mean NDCG@10 of beam search over a fixed sample of validation users: all items, history excluded.

    Args:
        split: its validation targets.
        paths: tokens of each item, shape (n_items, depth).
        max_length: newest items of a history that are read.
        beams: of the search.
        n_users: size of the sample.
        seed: of the sample.
    """

    def __init__(self, split: Split, paths: IntArray, *, max_length: int, beams: int, n_users: int, seed: int) -> None:
        _, self.targets, self.histories = validation_sample(split, n_users, seed)
        self._paths, self._max_length = paths, max_length
        self._settings = BeamSettings(beams=beams, k=min(beams, 10))
        self._filters = [ItemFilter(excluded=history) for history in self.histories]
        self._decoder: Decoder | None = None

    def __call__(self, network: Any) -> float:
        """NDCG@10 of the network as it is."""
        if self._decoder is None:
            self._decoder = Decoder(network.model, self._paths, max_length=self._max_length)
        found = self._decoder(self.histories, self._settings, filters=self._filters)
        ranks = np.array([_rank(one.items, int(target)) for one, target in zip(found, self.targets, strict=True)])
        return float(ndcg_at(ranks, 10).mean())


def train_generator(
    network: CodeNetwork,
    sequences: CodeSequences,
    *,
    config: FitConfig,
    sizes: Sequence[int],
    label_smoothing: float,
    level_weights: Sequence[float] | None,
    validate: BeamValidation,
    dtype: torch.dtype,
    report: Report | None = None,
    checkpoint: Checkpoint | None = None,
) -> FitState:
    """Train in place; the network ends with the weights of its best validation. Arguments as `fit.train`, and:

    Args:
        network: the model.
        sequences: blocks of codes.
        config: settings.
        sizes: number of codes of each level.
        label_smoothing: see `CodeLoss`.
        level_weights: see `CodeLoss`.
        validate: judges the network.
        dtype: number type of matrix products.
        report: called after every step.
        checkpoint: where the state is kept.
    """
    plain = not label_smoothing and level_weights is None
    return train(
        cast("SequenceNetwork", network),  # `train` asks no more of a network than a CodeNetwork has
        sequences,
        config=config,
        counts=np.ones(len(network.item_matrix()), dtype=np.int64),  # read by a sampled softmax only
        validate=validate,
        dtype=dtype,
        extra_loss=None if plain else CodeLoss(sizes, smoothing=label_smoothing, weights=level_weights),
        report=report,
        checkpoint=checkpoint,
    )


def _rank(items: IntArray, target: int) -> int:
    places = np.flatnonzero(items == target)
    return int(places[0]) if len(places) else MISS
