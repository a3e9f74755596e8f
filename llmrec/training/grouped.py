"""TRL's SFTTrainer with batches of like lengths that do not depend on the number of processes."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer

from llmrec.seeding import derive


class GroupedSftTrainer(SFTTrainer):  # type: ignore[misc]  # trl is untyped
    """Examples come in one order on any number of processes, each of which reads its part of every batch.

    The order of transformers depends on the batch of one process, so that two processes would see other batches than
    one process does.
    """

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * processes
        return _Grouped(step, [len(ids) for ids in rows["input_ids"]], seed=self.args.seed)


class _Grouped(LengthGroupedSampler):  # type: ignore[misc]  # transformers leaves its base untyped
    """Each later epoch has an order of its own, drawn from (seed, epoch): a resumed run reads what is left of it.

    The first comes from the state that the seed of the trainer left, which a resumed run has again.
    """

    def __init__(self, batch_size: int, lengths: list[int], *, seed: int) -> None:
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.generator = torch.Generator().manual_seed(derive(self.seed, "order", epoch)) if epoch else None
