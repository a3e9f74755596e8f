"""TRL's SFTTrainer with batches of like lengths that do not depend on the number of processes."""

from __future__ import annotations

import os
from typing import Any

from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer


class GroupedSftTrainer(SFTTrainer):  # type: ignore[misc]  # trl is untyped
    """Examples come in one order on any number of processes, each of which reads its part of every batch.

    The order of transformers depends on the batch of one process, so that two processes would see other batches than
    one process does.
    """

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * processes
        return LengthGroupedSampler(step, lengths=[len(ids) for ids in rows["input_ids"]])
