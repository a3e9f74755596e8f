"""Arithmetic on ragged groups in flat tensors."""

from __future__ import annotations

import torch


def segment_max(values: torch.Tensor, segment: torch.Tensor, n: int) -> torch.Tensor:
    """Largest value of each segment, shape (n,); -inf for an empty one."""
    start = torch.full((n,), -torch.inf, dtype=values.dtype, device=values.device)
    return start.scatter_reduce(0, segment, values, "amax")


def log_shares(values: torch.Tensor, segment: torch.Tensor, n: int) -> torch.Tensor:
    """Log-softmax within each segment, shape as `values`."""
    shifted = values - segment_max(values, segment, n)[segment]
    total = torch.zeros(n, dtype=values.dtype, device=values.device).index_add(0, segment, shifted.exp())
    return shifted - total.log()[segment]


def padded_order(row: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Indices of the elements of each row, shape (n_rows, widest, at least 1), -1 where a row has fewer.

    Args:
        row: row of each element, ascending, shape (m,).
        n_rows: number of rows.
    """
    count = torch.bincount(row, minlength=n_rows)
    order = torch.full((n_rows, max(int(count.max()), 1)), -1, device=row.device)
    number = torch.arange(len(row), device=row.device)
    order[row, number - (count.cumsum(0) - count)[row]] = number
    return order


def fill(values: torch.Tensor, order: torch.Tensor, empty: float) -> torch.Tensor:
    """Values in the places of `padded_order`, `empty` elsewhere; shape as `order`."""
    if not len(values):
        return torch.full(order.shape, empty, dtype=values.dtype, device=values.device)
    return torch.where(order < 0, empty, values[order.clamp(min=0)]).to(values.dtype)


def rank_in_group(score: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """How many elements of the same row and group are better, shape as `score`.

    Args:
        score: shape (n_rows, width).
        group: group of each element, same shape.
    """
    by_score = score.argsort(dim=1, descending=True, stable=True)
    by_group = group.gather(1, by_score).argsort(dim=1, stable=True)
    order = by_score.gather(1, by_group)  # groups together, best first within a group
    sorted_group = group.gather(1, order)
    place = torch.arange(score.shape[1], device=score.device).expand_as(order)
    first = torch.ones_like(order, dtype=torch.bool)
    first[:, 1:] = sorted_group[:, 1:] != sorted_group[:, :-1]
    start = torch.where(first, place, 0).cummax(dim=1).values
    return torch.empty_like(order).scatter_(1, order, place - start)
