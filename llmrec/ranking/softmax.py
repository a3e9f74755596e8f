"""Cross-entropy over the whole catalogue, in pieces that fit a processor's cache, or over a weighted sample of it.

The full softmax is what makes a small sequence model strong: with one sampled negative and a binary loss the same
network scores about a third lower (Klenitskiy & Vasilev, Turning dross into gold loss, RecSys 2023, arXiv 2309.07602).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 512 << 20}


class _FullSoftmax(torch.autograd.Function):
    """Loss and both gradients in one pass over the pieces, so that logits are computed once and never kept."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, items: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        n, n_items = len(states), len(items)
        rows = max(16, _CHUNK_BYTES.get(states.device.type, 64 << 20) // (4 * n_items))
        small_items = items.to(dtype)
        grad_states = torch.empty_like(states)
        grad_items = torch.zeros_like(items)
        total = torch.zeros((), dtype=torch.float64, device=states.device)
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            small = states[part].to(dtype)
            logits = (small @ small_items.T).to(states.dtype)  # (rows, n_items)
            own = targets[part, None]
            top = logits.amax(dim=1, keepdim=True)
            chosen = logits.gather(1, own) - top
            weights = logits.sub_(top).exp_()
            mass = weights.sum(dim=1, keepdim=True)
            total += (mass.log() - chosen).sum(dtype=torch.float64)
            weights.div_(mass * n)  # gradient of the mean loss with respect to the logits, but for the targets
            weights.scatter_add_(1, own, weights.new_full(own.shape, -1.0 / n))
            slope = weights.to(dtype)
            grad_states[part] = slope @ small_items
            grad_items += slope.T @ small
        ctx.save_for_backward(grad_states, grad_items)
        return (total / n).to(states.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad_states, grad_items = ctx.saved_tensors
        return grads[0] * grad_states, grads[0] * grad_items, None, None


def full_softmax_loss(states: Tensor, items: Tensor, targets: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """Mean cross-entropy (nats) of the targets among all items.

    Args:
        states: shape (n, width).
        items: item vectors, shape (n_items, width).
        targets: item rows, shape (n,).
        dtype: number type of the matrix products; None keeps that of the states.
    """
    loss: Tensor = _FullSoftmax.apply(states, items, targets, dtype or states.dtype)  # type: ignore[no-untyped-call]
    return loss


def sampled_softmax_loss(
    states: Tensor, items: Tensor, targets: Tensor, *, sample: Tensor, log_expected: Tensor
) -> Tensor:
    """Mean cross-entropy with the sum over the catalogue estimated from a sample that all positions share.

    The target's own term is exact, a sampled item's is divided by the number of times it was expected in the sample,
    and a sampled target does not count twice: the estimated sum is unbiased, and exact for a sample that holds every
    item once. The correction is the logQ of Bengio & Senécal, Quick training of probabilistic neural nets by importance
    sampling (AISTATS 2003).

    Args:
        states: shape (n, width).
        items: item vectors, shape (n_items, width).
        targets: item rows, shape (n,).
        sample: item rows, shape (m,).
        log_expected: log of the expected number of each of them in a sample, shape (m,).
    """
    own = (states * items[targets]).sum(dim=1, keepdim=True)  # (n, 1)
    others = states @ items[sample].T - log_expected  # (n, m)
    others = others.masked_fill(sample[None, :] == targets[:, None], float("-inf"))
    logits = torch.cat([own, others], dim=1)
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
