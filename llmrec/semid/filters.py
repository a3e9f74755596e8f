"""Which items a request may get: history, exclusions and attribute filters, without a copy of the table.

The items below a node are a range of the sorted items, so a node is alive if the range holds an item that is left:
two binary searches in the sorted positions of a request's items. All requests of a batch are searched at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from llmrec.errors import ConfigError
from llmrec.semid.prefix_table import IntArray, PrefixTable

_NONE: IntArray = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class ItemFilter:
    """What one request may get: the allowed items without the excluded ones.

    Requests that share one `allowed` array (the same object) share its memory too.
    """

    allowed: npt.NDArray[np.integer] | npt.NDArray[np.bool_] | None = None
    """Item rows, or a boolean for every item; None is all."""
    excluded: npt.NDArray[np.integer] | Sequence[int] = ()
    """Item rows to leave out, such as the history."""


ALL_ITEMS = ItemFilter()


class FilterBatch:
    """The filters of a batch of requests, compiled for one table.

    Args:
        table: the table that will be searched.
        filters: one for each request.
        device: where counts are asked for.

    Raises:
        ConfigError: a row that is not in the table.
    """

    def __init__(
        self, table: PrefixTable, filters: Sequence[ItemFilter], *, device: torch.device | str = "cpu"
    ) -> None:
        n_items = table.n_items
        self._stride = n_items + 1
        shared: dict[int, tuple[int, IntArray]] = {}  # id of an `allowed` array -> number and sorted positions
        base = np.full(len(filters), -1)
        removed: list[IntArray] = []
        for request, one in enumerate(filters):
            excluded = np.unique(table.positions[_rows(one.excluded, n_items)]).astype(np.int64)
            if one.allowed is not None:
                if id(one.allowed) not in shared:
                    positions = np.unique(table.positions[_rows(one.allowed, n_items)]).astype(np.int64)
                    shared[id(one.allowed)] = (len(shared), positions)
                base[request], allowed = shared[id(one.allowed)]
                excluded = np.intersect1d(excluded, allowed, assume_unique=True)
            removed.append(excluded)
        bases = [positions for _, positions in shared.values()]
        self.left: IntArray = np.array(
            [
                (len(bases[number]) if number >= 0 else n_items) - len(gone)
                for number, gone in zip(base, removed, strict=True)
            ],
            dtype=np.int64,
        )
        """Items left for each request, shape (n_requests,)."""
        self.is_open = not bases and not any(len(gone) for gone in removed)
        """Whether nothing is filtered at all."""
        # A number of its own for each list keeps all lists in one ascending array, hence one search for all.
        keys = [positions + number * self._stride for number, positions in enumerate([*removed, *bases])]
        self._keys = torch.from_numpy(np.concatenate([_NONE, *keys])).to(device)
        self._base = torch.from_numpy(np.where(base < 0, -1, base + len(filters))).to(device)

    def alive(self, request: torch.Tensor, lo: torch.Tensor, hi: torch.Tensor) -> torch.Tensor:
        """Items left between two positions of the table, for one request each.

        Args:
            request: number of the request, shape (n,).
            lo: first position, shape (n,).
            hi: position behind the last, shape (n,).

        Returns:
            Counts, shape (n,), int64.
        """
        lo, hi = lo.long(), hi.long()
        if self.is_open:
            return hi - lo
        base = self._base[request]
        inside = torch.where(base < 0, hi - lo, self._count(base.clamp(min=0), lo, hi))
        return inside - self._count(request, lo, hi)

    def _count(self, number: torch.Tensor, lo: torch.Tensor, hi: torch.Tensor) -> torch.Tensor:
        offset = number * self._stride
        found = torch.searchsorted(self._keys, torch.stack([offset + lo, offset + hi]))
        return found[1] - found[0]


def _rows(rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_] | Sequence[int], n_items: int) -> IntArray:
    """Item rows of a list of rows or of one boolean for every item."""
    array = np.asarray(rows)
    if array.dtype == np.bool_:
        if array.shape != (n_items,):
            raise ConfigError(f"a boolean filter needs one value for each of {n_items} items, got {array.shape}")
        return np.flatnonzero(array)
    array = array.astype(np.int64).ravel()
    wrong = array[(array < 0) | (array >= n_items)]
    if len(wrong):
        raise ConfigError(f"a filter names items of the catalogue, rows 0 to {n_items - 1}, got {int(wrong[0])}")
    return array
