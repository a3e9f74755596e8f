"""Gradient accumulation that keeps in-batch negatives (GradCache; Gao et al., RepL4NLP 2021, arXiv 2101.06983).

Ordinary accumulation would contrast each small batch with itself alone. Here all chunks are read once without gradients
and their vectors kept; the contrastive loss over all of them gives a gradient for each vector; then each chunk is read
again, with the same dropout, and these gradients are pushed through it. The result is the gradient of the large batch
in the memory of a chunk, for a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from llmrec.errors import ConfigError
from llmrec.training.calrec.contrastive import Losses, Objective, Vectors
from llmrec.training.calrec.towers import Batch, Passed

Pass = Callable[[Batch, bool], Passed]
"""Run a chunk; the flag asks for the next-item loss beside the vectors."""
Terms = Callable[[Vectors], tuple[Tensor | None, Tensor | None]]


class RandomState(NamedTuple):
    """State of torch's generators on the CPU and on the devices in use."""

    cpu: Tensor
    cuda: tuple[Tensor, ...]

    @classmethod
    def now(cls) -> RandomState:
        """The present state."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return cls(torch.get_rng_state(), tuple(cuda))

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw inside what was drawn from this state on; afterwards the generators are as they were before."""
        with torch.random.fork_rng(devices=range(len(self.cuda))):
            torch.set_rng_state(self.cpu)
            if self.cuda:
                torch.cuda.set_rng_state_all(list(self.cuda))
            yield


def split_rows(batch: Batch, size: int) -> list[Batch]:
    """Chunks of at most `size` rows, without the columns that are padding in all rows of a chunk."""
    n = len(batch["input_ids"])
    return [_trimmed({name: rows[start : start + size] for name, rows in batch.items()}) for start in range(0, n, size)]


def accumulate(
    chunks: Sequence[Batch],
    *,
    run: Pass,
    objective: Objective,
    backward: Callable[[Tensor], None],
    terms: Terms | None = None,
    unsynced: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Losses:
    """Add the gradients of the combined loss over all chunks to the model's weights.

    Args:
        chunks: of one batch (`split_rows`).
        run: runs a chunk through the model.
        objective: with at least one contrastive term.
        backward: of a scalar.
        terms: contrastive losses of the vectors of the whole batch; default those of `objective`.
        unsynced: holds back the exchange of gradients among processes; entered for all chunks but the last.

    Returns:
        Losses of the whole batch, without gradients.
    """
    if not objective.contrasts:
        raise ConfigError("there is no contrastive term to keep negatives for; accumulate in the ordinary way")
    starts, vectors = [], []
    with torch.no_grad():
        for chunk in chunks:
            starts.append(RandomState.now())
            vectors.append(_vectors(run(chunk, False)))
    kept = _joined(vectors)
    found = (terms or objective.terms)(kept)
    torch.as_tensor(objective.contrast(*found)).backward()  # type: ignore[no-untyped-call]
    sizes = [len(chunk["input_ids"]) for chunk in chunks]
    wanted = zip(*(torch.split(_gradient(part), sizes) for part in kept[:3]), strict=True)
    next_item = torch.zeros((), device=kept.user.device)
    for place, (chunk, start, gradients) in enumerate(zip(chunks, starts, wanted, strict=True)):
        with nullcontext() if place == len(chunks) - 1 else unsynced():
            with start.replayed():
                passed = run(chunk, True)
            assert passed.next_item is not None
            own = passed.next_item * (sizes[place] / sum(sizes))
            pairs = zip(_vectors(passed)[:3], gradients, strict=True)
            pushed = sum((vector * gradient).sum() for vector, gradient in pairs)
            backward(objective.next_item_weight * own + pushed)
        next_item = next_item + own.detach()
    losses = objective.combine(next_item, found)
    return Losses(*(None if part is None else part.detach() for part in losses))  # type: ignore[arg-type]


def _vectors(passed: Passed) -> Vectors:
    assert passed.vectors is not None
    return passed.vectors


def _joined(parts: Sequence[Vectors]) -> Vectors:
    """Vectors of all chunks as leaves that collect gradients."""
    user, target_of_user, target, keys = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    user, target_of_user, target = (part.detach().requires_grad_() for part in (user, target_of_user, target))
    return Vectors(user, target_of_user, target, keys)


def _gradient(leaf: Tensor) -> Tensor:
    """Gradient of a leaf; zero for vectors that no term reads."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _trimmed(batch: Batch) -> Batch:
    joint, tower = batch["attention_mask"].any(dim=0), batch["tower_attention"].any(dim=0)
    return {
        name: rows if rows.ndim == 1 else rows[:, tower if name.startswith("tower_") else joint]
        for name, rows in batch.items()
    }
