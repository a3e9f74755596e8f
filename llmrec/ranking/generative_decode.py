"""From histories to items: beam search under the table of a catalogue's ids, and the share of items never trained on.

A cold item, which no training event names, has an id like every other, so the search can reach it; but its last code,
which numbers collisions, was never seen behind the others. TIGER (Rajput et al., NeurIPS 2023, arXiv 2305.05065,
section 4.3) therefore finds cold items by the codes before the last alone, and gives them a share of the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llmrec.errors import DataError
from llmrec.lm.branches import best_layout
from llmrec.ranking.generative_data import prompts
from llmrec.retrieval.base import FloatArray, IntArray
from llmrec.semid.beam import BeamSettings, Found, beam_search
from llmrec.semid.device_table import DeviceTable
from llmrec.semid.filters import ALL_ITEMS, ItemFilter
from llmrec.semid.prefix_table import PrefixTable


class Decoder:
    """Beam search for histories.

    Args:
        model: of `llmrec.ranking.generative_model`, on its device.
        paths: tokens of each item, shape (n_items, depth).
        max_length: newest items of a history that are read.
        cold: item rows without training events, for `mixed`.
    """

    def __init__(self, model: Any, paths: IntArray, *, max_length: int, cold: IntArray | None = None) -> None:
        self.model, self.paths, self.max_length = model, paths, max_length
        self.cold = np.zeros(0, dtype=np.int64) if cold is None else cold
        self._table = DeviceTable(PrefixTable.from_paths(paths), model.device)
        self._layout = best_layout(model)
        self._cold_table: DeviceTable | None = None
        if len(self.cold):
            heads = PrefixTable.from_paths(paths[self.cold][:, :-1], duplicates="share")
            self._cold_table = DeviceTable(heads, model.device)

    def __call__(
        self,
        histories: Sequence[IntArray],
        settings: BeamSettings,
        *,
        filters: Sequence[ItemFilter] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> tuple[Found, ...]:
        """The best items of each history.

        Args:
            histories: item rows, oldest first, at least one each.
            settings: of the search.
            filters: what each history may get; None is everything.
            seeds: of each history, when items are drawn.

        Raises:
            DataError: a history is empty.
        """
        return self._search(self._table, histories, settings, filters, seeds)

    def mixed(
        self,
        histories: Sequence[IntArray],
        settings: BeamSettings,
        *,
        share: float,
        list_length: int,
        filters: Sequence[ItemFilter] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> tuple[Found, ...]:
        """The best items, with a given share of cold ones among the first of a list (TIGER's epsilon).

        Arguments as for a call, and those of `mix`. A cold item's probability is that of its codes but the last.
        """
        if self._cold_table is None:
            return self(histories, settings, filters=filters, seeds=seeds)
        filters = [ALL_ITEMS] * len(histories) if filters is None else filters
        warm = [replace(one, excluded=np.concatenate([_rows(one.excluded), self.cold])) for one in filters]
        cold = [self._among_cold(one) for one in filters]
        usual = self._search(self._table, histories, settings, warm, seeds)
        fresh = self._search(self._cold_table, histories, settings, cold, seeds)
        return tuple(
            mix(one, replace(other, items=self.cold[other.items]), share=share, list_length=list_length, k=settings.k)
            for one, other in zip(usual, fresh, strict=True)
        )

    def _search(
        self,
        table: DeviceTable,
        histories: Sequence[IntArray],
        settings: BeamSettings,
        filters: Sequence[ItemFilter] | None,
        seeds: Sequence[int] | None,
    ) -> tuple[Found, ...]:
        empty = [number for number, history in enumerate(histories) if not len(history)]
        if empty:
            raise DataError(f"history {empty[0]} is empty, and the model continues histories; use popular items for it")
        texts = prompts(self.paths, [history[-self.max_length :] for history in histories])
        found = beam_search(
            self.model, texts, table, settings=settings, filters=filters, seeds=seeds, layout=self._layout
        )
        return found.found

    def _among_cold(self, one: ItemFilter) -> ItemFilter:
        """The same filter over the rows of the cold items alone."""
        allowed = None
        if one.allowed is not None:
            rows = np.asarray(one.allowed)
            allowed = rows[self.cold] if rows.dtype == np.bool_ else np.flatnonzero(np.isin(self.cold, rows))
        return ItemFilter(allowed, np.flatnonzero(np.isin(self.cold, _rows(one.excluded))))


def mix(warm: Found, cold: Found, *, share: float, list_length: int, k: int) -> Found:
    """One list of two, with as many cold items among the first as the share says, or as many as there are.

    Within the first `list_length` places and behind them items stand by score. The places keep the scores of the
    joint order, so an item's score may be another than its own; its log-probability is its own.

    Args:
        warm: items that were trained on, best first.
        cold: items that were not, best first.
        share: of the first places that cold items get, rounded down.
        list_length: number of first places.
        k: most items of the result.
    """
    n_cold = min(int(share * list_length + 1e-9), len(cold.items))
    n_warm = min(list_length - n_cold, len(warm.items))
    items, scores, logprobs = (
        np.concatenate([getattr(warm, name), getattr(cold, name)]) for name in ("items", "scores", "logprobs")
    )
    place = np.concatenate([np.arange(len(warm.items)), np.arange(len(cold.items))])
    is_cold = np.arange(len(items)) >= len(warm.items)
    behind = place >= np.where(is_cold, n_cold, n_warm)
    order = np.lexsort((items, -scores, behind))[:k]
    note = " ".join(part for part in (warm.note, cold.note) if part) if len(order) < k else ""
    return Found(items[order], _falling(np.sort(scores[order])[::-1]), logprobs[order], note)


def _falling(scores: FloatArray) -> FloatArray:
    """Scores in falling order with ties broken by the last bits, so that the order survives a sort."""
    result = scores.copy()
    for place in range(1, len(result)):
        result[place] = min(result[place], np.nextafter(result[place - 1], -np.inf))
    return result


def _rows(rows: Any) -> IntArray:
    array = np.asarray(rows)
    return np.flatnonzero(array) if array.dtype == np.bool_ else array.astype(np.int64).ravel()
