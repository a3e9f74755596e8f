"""Draws without replacement, top down through a tree (stochastic beam search).

Gumbel noise on the log-probability of every path makes the k largest sums a sample of k paths without replacement. The
sums need not be computed for all paths: the largest one below a node is known to be the node's own, and the children's
are drawn given that maximum. Source: Kool, van Hoof and Welling (ICML 2019, arXiv 1903.06059), appendix B.3.
"""

from __future__ import annotations

import numpy as np
import torch

from llmrec.semid.segments import segment_max

_GAMMA = 0x9E3779B97F4A7C15


def node_gumbels(seed: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise of each node, float64.

    A function of seed and node alone (the node-th output of SplitMix64: Steele, Lea and Flood, OOPSLA 2014), so that a
    draw depends neither on the batch nor on the order of hypotheses.

    Args:
        seed: of the request, int64 on the CPU, shape (n,).
        node: number of the node, int64 on the CPU, shape (n,).
    """
    with np.errstate(over="ignore"):
        bits = seed.numpy().astype(np.uint64) + (node.numpy().astype(np.uint64) + np.uint64(1)) * np.uint64(_GAMMA)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52  # inside (0, 1)
    return torch.from_numpy(-np.log(-np.log(uniform)))


def gumbel_given_maximum(perturbed: torch.Tensor, maximum: torch.Tensor, parent: torch.Tensor, n: int) -> torch.Tensor:
    """Shift the noise of siblings so that their maximum is the parent's.

    Args:
        perturbed: log-probability plus noise of each child, shape (m,).
        maximum: perturbed value of each child's parent, shape (m,).
        parent: number of the parent, shape (m,).
        n: number of parents.
    """
    largest = segment_max(perturbed, parent, n)[parent]
    shift = maximum - perturbed + torch.log1p(-torch.exp(perturbed - largest))
    return maximum - shift.clamp(min=0) - torch.log1p(torch.exp(-shift.abs()))
