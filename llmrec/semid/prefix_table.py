"""A compact prefix table over item paths: which tokens may follow a prefix, and which items lie below it.

Paths are token sequences, one for each item: semantic ids of equal length, or tokenised titles of any length. They are
sorted once and kept as arrays. Nodes are numbered level by level, so the children of a node are neighbours, and the
items below a node are a range of the sorted items: counting what a filter leaves below a node needs no second table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from llmrec.errors import DataError

IntArray = npt.NDArray[np.int64]
SmallArray = npt.NDArray[np.int32]
Paths = Sequence[Sequence[int]] | npt.NDArray[np.integer]
Duplicates = Literal["error", "share"]

PAD = -1
ROOT = 0


class Children(NamedTuple):
    """Children of several nodes, one line each, nodes in the order asked and tokens ascending within a node."""

    owner: IntArray
    """Index into the nodes that were asked, shape (n_children,)."""
    token: IntArray
    node: IntArray


@dataclass(frozen=True, eq=False)
class PrefixTable:
    """Nodes of a trie in level order; node 0 is the root, a leaf is a node without children.

    Build it with `from_paths`. `llmrec.semid.device_table` holds a copy for torch, `llmrec.semid.table_file` saves it.
    """

    indptr: SmallArray
    """Children of node v are the nodes indptr[v] to indptr[v + 1] - 1; shape (n_nodes + 1,)."""
    token: SmallArray
    """Token on the edge into each node, -1 for the root; shape (n_nodes,)."""
    lo: SmallArray
    """First position below each node, in `items`; shape (n_nodes,)."""
    hi: SmallArray
    """Position behind the last one below each node; shape (n_nodes,)."""
    items: SmallArray
    """Item rows sorted by path (items of equal paths by row); shape (n_items,)."""
    level_starts: tuple[int, ...]
    """First node of each level, then n_nodes; level 0 is the root."""
    catalogue_hash: str = ""
    """Content hash of the catalogue that the rows belong to; "" is unknown."""

    @classmethod
    def from_paths(
        cls, paths: Paths, *, end: int | None = None, duplicates: Duplicates = "error", catalogue_hash: str = ""
    ) -> PrefixTable:
        """Sort paths into a table.

        Args:
            paths: tokens of each item (row i is item i): an integer array (n_items, depth), padded with -1 on the right
                where paths are shorter, or a sequence of sequences.
            end: token to append to every path, so that none is a prefix of another.
            duplicates: whether several items may share a path (and a leaf).
            catalogue_hash: content hash of the catalogue.

        Raises:
            DataError: no items, an empty path, a negative token, equal paths (unless shared), or a path that begins
                another; the message names the items.
        """
        matrix = _matrix(paths, end)
        order = np.lexsort(matrix.T[::-1]).astype(np.int32)  # stable: equal paths stay in order of their rows
        matrix = matrix[order]
        changed = np.ones(matrix.shape, dtype=np.bool_)  # does the prefix up to this column begin in this row?
        np.not_equal(matrix[1:], matrix[:-1], out=changed[1:])
        np.logical_or.accumulate(changed, axis=1, out=changed)
        _check(matrix, changed, order, duplicates)
        return cls._from_sorted(matrix, changed, order, catalogue_hash)

    @classmethod
    def _from_sorted(
        cls, matrix: SmallArray, changed: npt.NDArray[np.bool_], order: SmallArray, catalogue_hash: str
    ) -> PrefixTable:
        n_items = len(order)
        tokens, los, his = [np.array([PAD])], [np.array([0])], [np.array([n_items])]
        counts, level_starts = [], [0, 1]
        for column in range(matrix.shape[1]):
            starts = np.flatnonzero(changed[:, column])
            ends = np.append(starts[1:], n_items)
            real = matrix[starts, column] != PAD
            starts, ends = starts[real], ends[real]
            parents = np.searchsorted(los[-1], starts, side="right") - 1
            counts.append(np.bincount(parents, minlength=len(los[-1])))
            tokens.append(matrix[starts, column])
            los.append(starts)
            his.append(ends)
            level_starts.append(level_starts[-1] + len(starts))
        counts.append(np.zeros(len(los[-1]), dtype=np.int64))
        indptr = np.concatenate([[1], 1 + np.cumsum(np.concatenate(counts))])
        token, lo, hi = (np.concatenate(parts).astype(np.int32) for parts in (tokens, los, his))
        return cls(indptr.astype(np.int32), token, lo, hi, order, tuple(level_starts), catalogue_hash)

    # ---- sizes

    @property
    def n_items(self) -> int:
        """Items, those of shared leaves included."""
        return len(self.items)

    @property
    def n_nodes(self) -> int:
        """Nodes, the root included."""
        return len(self.token)

    @property
    def depth(self) -> int:
        """Length of the longest path."""
        return len(self.level_starts) - 2

    @cached_property
    def n_tokens(self) -> int:
        """Largest token plus one."""
        return int(self.token.max()) + 1

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(part.nbytes for part in (self.indptr, self.token, self.lo, self.hi, self.items))

    # ---- what is computed when asked for

    @cached_property
    def parents(self) -> IntArray:
        """Parent of each node, the root's is itself; shape (n_nodes,)."""
        parents = np.repeat(np.arange(self.n_nodes), np.diff(self.indptr))
        return np.concatenate([[ROOT], parents])

    @cached_property
    def positions(self) -> SmallArray:
        """Position of each item in `items`, shape (n_items,)."""
        positions = np.empty(self.n_items, dtype=np.int32)
        positions[self.items] = np.arange(self.n_items, dtype=np.int32)
        return positions

    @cached_property
    def keys(self) -> IntArray:
        """parent * n_tokens + token of each node but the root, ascending; shape (n_nodes - 1,)."""
        return self.parents[1:] * self.n_tokens + self.token[1:]

    @cached_property
    def leaves(self) -> IntArray:
        """Leaf of each item, shape (n_items,)."""
        is_leaf = np.flatnonzero(np.diff(self.indptr) == 0)
        by_place = is_leaf[np.argsort(self.lo[is_leaf])]
        leaves = np.empty(self.n_items, dtype=np.int64)
        leaves[self.items] = np.repeat(by_place, (self.hi - self.lo)[by_place])
        return leaves

    # ---- walking

    def children(self, nodes: npt.NDArray[np.integer]) -> Children:
        """Children of these nodes, shape (n_nodes,) -> ragged."""
        nodes = np.asarray(nodes, dtype=np.int64)
        start = self.indptr[nodes].astype(np.int64)
        count = self.indptr[nodes + 1] - start
        owner = np.repeat(np.arange(len(nodes)), count)
        node = np.arange(len(owner)) + np.repeat(start - (np.cumsum(count) - count), count)
        return Children(owner, self.token[node].astype(np.int64), node)

    def step(self, nodes: npt.NDArray[np.integer], tokens: npt.NDArray[np.integer]) -> IntArray:
        """The child of each node along a token, -1 where there is none (or the node is -1)."""
        nodes, tokens = np.asarray(nodes, dtype=np.int64), np.asarray(tokens, dtype=np.int64)
        legal = (nodes >= 0) & (tokens >= 0) & (tokens < self.n_tokens)
        wanted = np.where(legal, nodes * self.n_tokens + tokens, -1)
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[place] == wanted, place + 1, -1)

    def walk(self, paths: npt.NDArray[np.integer]) -> IntArray:
        """Node that each row of tokens leads to, -1 for a row that leaves the table.

        Args:
            paths: shape (n, length), padded with -1 on the right.
        """
        paths = np.asarray(paths)
        nodes = np.zeros(len(paths), dtype=np.int64)
        for column in range(paths.shape[1]):
            tokens = paths[:, column]
            nodes = np.where(tokens == PAD, nodes, self.step(nodes, tokens))
        return nodes

    def is_leaf(self, nodes: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Whether a path ends at each node."""
        nodes = np.asarray(nodes, dtype=np.int64)
        return np.asarray((nodes >= 0) & (self.indptr[nodes + 1] == self.indptr[nodes]))

    def illegal(self, paths: npt.NDArray[np.integer]) -> IntArray:
        """Numbers of the rows that are no item's path, or not the whole of one; rows padded with -1 on the right."""
        return np.flatnonzero(~self.is_leaf(self.walk(paths)))

    def items_of(self, path: Sequence[int]) -> IntArray:
        """Items whose path is exactly this; none when it is illegal or not finished."""
        (node,) = self.walk(np.asarray(path, dtype=np.int64)[None, :])
        if not self.is_leaf(np.array([node]))[0]:
            return np.zeros(0, dtype=np.int64)
        return self.items[self.lo[node] : self.hi[node]].astype(np.int64)

    def paths(self, nodes: npt.NDArray[np.integer]) -> IntArray:
        """Tokens from the root to each node, shape (n, depth), padded with -1 on the right."""
        nodes = np.asarray(nodes, dtype=np.int64)
        level = np.searchsorted(self.level_starts, nodes, side="right") - 1
        tokens = np.full((len(nodes), self.depth), PAD, dtype=np.int64)
        for column in range(self.depth - 1, -1, -1):
            here = level == column + 1
            tokens[here, column] = self.token[nodes[here]]
            nodes = np.where(here, self.parents[nodes], nodes)
            level = np.where(here, column, level)
        return tokens

    def item_paths(self) -> IntArray:
        """Tokens of each item, shape (n_items, depth), padded with -1 on the right."""
        return self.paths(self.leaves)


def _matrix(paths: Paths, end: int | None) -> SmallArray:
    """All paths in one array (n_items, depth), padded with -1, `end` appended."""
    if len(paths) == 0:
        raise DataError("a prefix table needs at least one item, got none")
    if isinstance(paths, np.ndarray):
        if paths.ndim != 2 or not np.issubdtype(paths.dtype, np.integer):
            raise DataError(f"paths must be integers of shape (n_items, depth), got {paths.dtype} of {paths.shape}")
        lengths = (paths != PAD).sum(axis=1)
        values = paths.astype(np.int32)  # a copy
    else:
        lengths = np.fromiter(map(len, paths), dtype=np.int64, count=len(paths))
        values = np.full((len(paths), int(lengths.max())), PAD, dtype=np.int32)
        flat = np.fromiter(chain.from_iterable(paths), dtype=np.int32, count=int(lengths.sum()))
        values[np.arange(values.shape[1]) < lengths[:, None]] = flat
    inside = np.arange(values.shape[1]) < lengths[:, None]
    if not lengths.all():
        raise DataError(f"item {int(np.argmin(lengths))} has an empty path; give every item at least one token")
    wrong = (inside & (values < 0)).any(axis=1)
    if wrong.any():
        item = int(np.argmax(wrong))
        raise DataError(
            f"tokens must be 0 or more (and -1 pads on the right alone), got {values[item].tolist()} for item {item}"
        )
    if end is not None:
        values = np.pad(values, ((0, 0), (0, 1)), constant_values=PAD)
        values[np.arange(len(values)), lengths] = end
    return values


def _check(matrix: SmallArray, changed: npt.NDArray[np.bool_], order: SmallArray, duplicates: Duplicates) -> None:
    """Refuse equal paths, unless they may share a leaf, and paths that begin another."""
    same = np.flatnonzero(~changed[1:, -1])
    if len(same) and duplicates == "error":
        first, second = int(order[same[0]]), int(order[same[0] + 1])
        raise DataError(
            f"items {first} and {second} have the same path {_shown(matrix[same[0]])}, as have {len(same)} pairs in "
            "all; add a token that tells them apart, or pass duplicates='share'"
        )
    # Sorted, a path that begins others stands right before one of them: -1 comes before every token.
    ended = matrix[:-1] == PAD
    length = (~ended).sum(axis=1)
    kept = ~changed[np.arange(1, len(matrix)), length - 1]  # the row below has the whole of this path
    begins = np.flatnonzero(kept & changed[1:, -1])
    if len(begins):
        row = begins[0]
        raise DataError(
            f"the path {_shown(matrix[row])} of item {int(order[row])} begins the path {_shown(matrix[row + 1])} of "
            f"item {int(order[row + 1])}; pass end=TOKEN to close every path with a token"
        )


def _shown(path: SmallArray) -> list[int]:
    return [int(token) for token in path[path != PAD]]
