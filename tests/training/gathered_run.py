"""One process of a pair: gradients of half a batch each, under data-parallel training, written by the first.

python -m torch.distributed.run --nproc_per_node 2 tests/training/gathered_run.py FILE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from llmrec.training.calrec.contrastive import Objective
from llmrec.training.calrec.data import CalrecCollator
from llmrec.training.calrec.gathered import gathered_terms
from llmrec.training.calrec.gradcache import accumulate, split_rows
from llmrec.training.calrec.towers import Batch, Passed, run_towers
from llmrec.training.processes import leave_processes
from tests.training.tiny import PAD, rows, tiny_model

OBJECTIVE = Objective(alpha=0.3, beta=0.2, temperature=0.5, mask_duplicates=True)


def main(file: Path) -> None:
    """Half of eight rows at once, and in chunks of two."""
    distributed.init_process_group("gloo")
    found = {micro_batch: half(distributed.get_rank(), micro_batch) for micro_batch in (0, 2)}
    if distributed.get_rank() == 0:
        torch.save(found, file)
    leave_processes()


def half(place: int, micro_batch: int) -> dict[str, Any]:
    """Losses and gradients of one half; 0 for `micro_batch` takes it at once."""
    model = DistributedDataParallel(tiny_model())
    batch = CalrecCollator(PAD)(rows(8)[4 * place : 4 * place + 4])

    def run(chunk: Batch, next_item: bool = True) -> Passed:
        return run_towers(model, chunk, next_item=next_item)

    if micro_batch:
        losses = accumulate(
            split_rows(batch, micro_batch),
            run=run,
            objective=OBJECTIVE,
            backward=Tensor.backward,
            terms=lambda vectors: gathered_terms(OBJECTIVE, vectors),
            unsynced=model.no_sync,
        )
    else:
        passed = run(batch)
        assert passed.next_item is not None
        assert passed.vectors is not None
        losses = OBJECTIVE.combine(passed.next_item, gathered_terms(OBJECTIVE, passed.vectors))
        losses.total.backward()  # type: ignore[no-untyped-call]
    gradients = {name.removeprefix("module."): weight.grad for name, weight in model.named_parameters()}
    return {"gradients": gradients, "losses": losses.numbers()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
