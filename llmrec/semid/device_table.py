"""A prefix table as torch tensors: the form that beam search and logits processors work on."""

from __future__ import annotations

from typing import NamedTuple

import torch

from llmrec.semid.prefix_table import ROOT, PrefixTable


class DeviceChildren(NamedTuple):
    """Children of several nodes, one line each (see `prefix_table.Children`); int64 tensors of shape (n_children,)."""

    owner: torch.Tensor
    token: torch.Tensor
    node: torch.Tensor


class DeviceTable:
    """A `PrefixTable` on a device. On the CPU it shares the table's memory.

    Args:
        table: the table.
        device: where to put it.
    """

    def __init__(self, table: PrefixTable, device: torch.device | str = "cpu") -> None:
        self.table = table
        self.device = torch.device(device)
        self.indptr, self.token, self.lo, self.hi = (
            torch.from_numpy(part).to(self.device) for part in (table.indptr, table.token, table.lo, table.hi)
        )
        self._keys: torch.Tensor | None = None

    def children(self, nodes: torch.Tensor) -> DeviceChildren:
        """Children of these nodes, shape (n,) int64 -> ragged, nodes in order and tokens ascending within a node."""
        start = self.indptr[nodes].long()
        count = self.indptr[nodes + 1] - start
        owner = torch.repeat_interleave(count)
        before = count.cumsum(0) - count
        node = torch.arange(len(owner), device=self.device) + (start - before)[owner]
        return DeviceChildren(owner, self.token[node].long(), node)

    def is_leaf(self, nodes: torch.Tensor) -> torch.Tensor:
        """Whether each node has no children."""
        return self.indptr[nodes] == self.indptr[nodes + 1]

    def walk(self, tokens: torch.Tensor) -> torch.Tensor:
        """Node that each row of tokens leads to, shape (n, length) -> (n,); -1 for a row that leaves the table."""
        if self._keys is None:
            self._keys = torch.from_numpy(self.table.keys).to(self.device)
        n_tokens = self.table.n_tokens
        nodes = torch.full((len(tokens),), ROOT, dtype=torch.long, device=self.device)
        for token in tokens.unbind(1):
            legal = (nodes >= 0) & (token < n_tokens)
            wanted = torch.where(legal, nodes * n_tokens + token, -1)
            place = torch.searchsorted(self._keys, wanted).clamp_(max=len(self._keys) - 1)
            nodes = torch.where(self._keys[place] == wanted, place + 1, -1)
        return nodes
