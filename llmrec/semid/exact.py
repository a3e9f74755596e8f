"""Exact log-probabilities of every item: what a beam search is measured against, and a ranker for small catalogues.

Paths with a common prefix share its arithmetic. The table is known beforehand, so a chunk of its nodes is read in one
pass: each node is a query position that sees the prompt and its own ancestors, which a mask says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llmrec.errors import ConfigError
from llmrec.lm.branches import Layout, TreeBranches, best_layout
from llmrec.lm.rows import CopiedRows
from llmrec.semid.prefix_table import PAD, ROOT, IntArray, PrefixTable

FloatArray = npt.NDArray[np.float64]
_MAX_LOGITS = 1 << 26  # numbers in one logits tensor: 256 MiB in fp32


def exact_scores(
    model: Any,
    prompts: Sequence[Sequence[int]],
    table: PrefixTable,
    *,
    layout: Layout | None = None,
    max_nodes: int = 512,
) -> FloatArray:
    """Log-probability of every item's path after each prompt, over the whole vocabulary.

    The cost is one query position for each inner node of the table and prompt: minutes, not milliseconds, for a hundred
    thousand items.

    Args:
        model: a causal language model from transformers, in evaluation mode.
        prompts: token ids, none empty.
        table: paths of the items.
        layout: how to read; None finds out what the model can do.
        max_nodes: nodes in one pass; memory grows with its square.

    Returns:
        Shape (n_prompts, n_items).
    """
    if max_nodes < 1 or not all(map(len, prompts)):
        raise ConfigError(f"max_nodes must be positive and no prompt empty, got max_nodes={max_nodes}")
    scores = np.zeros((len(prompts), table.n_items))
    with torch.inference_mode():
        read = _tree_edges if (layout or best_layout(model)) == "tree" else _copied_edges
        for number, prompt in enumerate(prompts):
            edges = read(model, prompt, table, max_nodes)
            scores[number] = _sums(edges, table)[table.leaves]
    return scores


def _sums(edges: FloatArray, table: PrefixTable) -> FloatArray:
    """Log-probability of each node's path from those of the edges, level by level; both of shape (n_nodes,)."""
    sums = edges.copy()
    for start, stop in zip(table.level_starts[1:-1], table.level_starts[2:], strict=True):
        sums[start:stop] += sums[table.parents[start:stop]]
    return sums


def _write_edges(edges: FloatArray, logits: torch.Tensor, nodes: IntArray, table: PrefixTable) -> None:
    """Log-probability of each child's token after its parent; logits of shape (n_nodes, vocabulary)."""
    owner, token, child = table.children(nodes)
    chosen = logits[torch.from_numpy(owner).to(logits.device), torch.from_numpy(token).to(logits.device)]
    total = logits.logsumexp(dim=1)[torch.from_numpy(owner).to(logits.device)]
    edges[child] = (chosen - total).double().cpu().numpy()


def _chunks(table: PrefixTable, size: int) -> Iterator[IntArray]:
    """Inner nodes but the root, in preorder, each chunk with the ancestors of its first node before it.

    In preorder an ancestor that is outside the chunk is one of the first node's.
    """
    inner = np.flatnonzero(np.diff(table.indptr) > 0)[1:]
    level = np.searchsorted(table.level_starts, inner, side="right")
    inner = inner[np.lexsort((level, table.lo[inner]))]
    for start in range(0, len(inner), size):
        chunk = inner[start : start + size]
        above = []
        node = int(table.parents[chunk[0]])
        while node != ROOT:
            above.append(node)
            node = int(table.parents[node])
        yield np.concatenate([np.array(above[::-1], dtype=np.int64), chunk])


def _tree_edges(model: Any, prompt: Sequence[int], table: PrefixTable, max_nodes: int) -> FloatArray:
    edges = np.zeros(table.n_nodes)
    branches = TreeBranches(model, [prompt], room=max_nodes + table.depth)
    _write_edges(edges, branches.first_logits, np.array([ROOT]), table)
    n_vocabulary = branches.first_logits.shape[1]
    for nodes in _chunks(table, max(1, min(max_nodes, _MAX_LOGITS // n_vocabulary))):
        level = np.searchsorted(table.level_starts, nodes, side="right") - 1
        lo, hi = table.lo[nodes], table.hi[nodes]
        within = (lo[None, :] <= lo[:, None]) & (hi[:, None] <= hi[None, :]) & (level[None, :] <= level[:, None])
        tokens = torch.from_numpy(table.token[nodes].astype(np.int64))
        logits = branches.peek(tokens, torch.from_numpy(level), torch.from_numpy(within))
        _write_edges(edges, logits, nodes, table)
    return edges


def _copied_edges(model: Any, prompt: Sequence[int], table: PrefixTable, max_nodes: int) -> FloatArray:
    """Every path as a row of its own, the prompt's cache copied: for models that take no tree mask."""
    edges = np.zeros(table.n_nodes)
    leaves = np.unique(table.leaves)
    size = max(1, max_nodes // table.depth)
    for start in range(0, len(leaves), size):
        paths = table.paths(leaves[start : start + size])
        rows = CopiedRows(model, [prompt], [len(paths)], room=table.depth)
        _write_edges(edges, rows.first_logits, np.array([ROOT]), table)
        inner = np.column_stack([table.walk(paths[:, : column + 1]) for column in range(table.depth)])
        fed = (paths != PAD) & ~table.is_leaf(inner)
        sample, column = np.nonzero(fed)
        if len(sample):
            logits = rows.feed(sample, paths[sample, column], column + len(prompt))
            _write_edges(edges, logits, inner[sample, column], table)
    return edges
