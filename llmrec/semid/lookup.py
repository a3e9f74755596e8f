"""Finds rows of a code table by whole codes or by prefixes, without a Python loop over items.

Each depth keeps the sorted keys ``parent node * codes of the level + code``; a node is the rank of its prefix among all
prefixes of that depth. No number grows beyond n_items * codes of one level, whatever the depth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmrec.semid.base import IntArray

NONE = -1
"""Stands for "no such prefix"."""


class CodeLookup:
    """The prefixes of a code table.

    Args:
        codes: shape (n, depth), every column within its level.
        sizes: number of codes per level.
    """

    def __init__(self, codes: IntArray, sizes: Sequence[int]) -> None:
        self.sizes = tuple(int(size) for size in sizes)
        self._keys: list[IntArray] = []
        self.nodes = np.zeros((len(codes), len(self.sizes)), dtype=np.int64)
        """Node of every row at every depth, shape (n, depth)."""
        parents = np.zeros(len(codes), dtype=np.int64)
        for depth, size in enumerate(self.sizes):
            keys, parents = np.unique(parents * size + codes[:, depth], return_inverse=True)
            self._keys.append(keys)
            self.nodes[:, depth] = parents
        self._order = np.argsort(parents, kind="stable")
        self._sorted = parents[self._order]

    def n_prefixes(self) -> tuple[int, ...]:
        """Number of different prefixes per depth."""
        return tuple(len(keys) for keys in self._keys)

    def find(self, codes: IntArray) -> IntArray:
        """Node of each prefix at its own depth, -1 where no row has it.

        Args:
            codes: shape (m, d) with d up to the depth of the table; values outside their level are found nowhere.
        """
        nodes = np.zeros(len(codes), dtype=np.int64)
        for depth in range(codes.shape[1]):
            column, keys = codes[:, depth], self._keys[depth]
            wanted = nodes * self.sizes[depth] + column
            places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            inside = (nodes != NONE) & (column >= 0) & (column < self.sizes[depth])
            nodes = np.where(inside & (keys[places] == wanted), places, NONE)
        return nodes

    def rows(self, codes: IntArray) -> IntArray:
        """Row of each whole code, shape (m,), -1 where there is none; the first row where several share a code."""
        nodes = self.find(codes)
        first = self._order[np.searchsorted(self._sorted, np.maximum(nodes, 0))]
        return np.where(nodes == NONE, NONE, first)

    def shared_depth(self, codes: IntArray) -> IntArray:
        """How many leading codes each row has in common with one code sequence, shape (n,).

        Args:
            codes: shape (d,).
        """
        depth = np.zeros(len(self.nodes), dtype=np.int64)
        for length in range(1, len(codes) + 1):
            node = self.find(codes[None, :length])[0]
            if node == NONE:
                break
            depth[self.nodes[:, length - 1] == node] = length
        return depth
