"""Vectors of all processes in one place, so that in-batch negatives are those of the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from llmrec.training.calrec.contrastive import Objective, Vectors
from llmrec.training.processes import n_processes


def gathered(rows: Tensor) -> Tensor:
    """Rows of all processes in their order, shape (n_processes * n, ...); gradients flow into the own rows alone.

    Every process must have as many rows as the others.
    """
    if n_processes() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(n_processes())]
    distributed.all_gather(parts, rows.detach().contiguous())
    parts[distributed.get_rank()] = rows
    return torch.cat(parts)


def gathered_terms(objective: Objective, vectors: Vectors) -> tuple[Tensor | None, Tensor | None]:
    """`Objective.terms` over the batch of all processes.

    Each process computes the whole loss and lets gradients into its own rows. Data-parallel training then averages
    gradients over processes where their sum is meant, so gradients are multiplied by the number of processes; values
    are not.
    """
    terms = objective.terms(Vectors(*(gathered(part) for part in vectors)))
    first, second = (None if term is None else _scaled_gradient(term, n_processes()) for term in terms)
    return first, second


def _scaled_gradient(value: Tensor, factor: int) -> Tensor:
    """The same value, with a gradient `factor` times as large."""
    return value if factor == 1 else value * factor - (value * (factor - 1)).detach()
