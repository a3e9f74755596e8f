"""The prefix table inside vLLM: a batch-level logits processor, loaded by its dotted name.

    LLM(model=..., logits_processors=["llmrec.semid.vllm_processor:TableProcessor"])
    SamplingParams(max_tokens=4, extra_args={"prefix_table": "ids/table"})

A request names the folder of its table (see `llmrec.semid.table_file`), or `True` for the folder in the environment
variable LLMREC_PREFIX_TABLE; a request without the key is not touched. Item rows in `prefix_table_allowed` and
`prefix_table_excluded` filter it. A path ends with `max_tokens` (ids of equal length) or with `stop_token_ids`.

Only vLLM's processes import this module.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from llmrec.errors import LlmrecError, ModelError
from llmrec.semid.device_table import DeviceTable
from llmrec.semid.filters import FilterBatch, ItemFilter
from llmrec.semid.prefix_table import PAD, PrefixTable
from llmrec.semid.processor import mask_outside
from llmrec.semid.table_file import SPEC, load_table

FOLDER_VARIABLE = "LLMREC_PREFIX_TABLE"
TABLE, ALLOWED, EXCLUDED = "prefix_table", "prefix_table_allowed", "prefix_table_excluded"


class _Row(NamedTuple):
    """One request of the batch."""

    folder: str
    rule: ItemFilter
    written: list[int]
    """The request's output tokens; vLLM appends to this very list."""
    stops: list[int]


class TableProcessor(LogitsProcessor):  # type: ignore[misc]  # vLLM is not type-checked here
    """Keeps requests on the paths of their tables.

    Args:
        vllm_config: not used.
        device: of the logits.
        is_pin_memory: not used.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._device = device
        self._rows: dict[int, _Row] = {}
        self._tables: dict[str, DeviceTable] = {}
        self._filters: dict[str, FilterBatch] = {}  # of the rows of each table, in order; made anew when rows change

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request that could not be answered (vLLM's server answers 400).

        Raises:
            ValueError: no such table, wrong filters, or a `max_tokens` that cuts paths or writes behind them.
        """
        try:
            order = _order(sampling_params)
            if order is None:
                return
            table = _load(order[0])
            left = int(FilterBatch(table, [order[1]]).left[0])
        except LlmrecError as error:  # vLLM takes ValueErrors for the client's faults
            raise ValueError(str(error)) from error
        if left == 0:
            raise ValueError("the filter of the request leaves no item; loosen it")
        shortest = int(np.searchsorted(table.level_starts, table.leaves.min(), side="right")) - 1
        limit = sampling_params.max_tokens
        if limit is not None and limit < table.depth:
            raise ValueError(f"max_tokens={limit} cuts paths of {table.depth} tokens; set max_tokens={table.depth}")
        if not sampling_params.stop_token_ids and (limit is None or limit > shortest):
            raise ValueError(
                f"paths end after {shortest} to {table.depth} tokens, got max_tokens={limit} and no stop_token_ids; "
                "set max_tokens to the length of all paths, or stop_token_ids to the token that ends them"
            )

    def is_argmax_invariant(self) -> bool:
        """No: the likeliest token may be illegal."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests as they join, leave and move within the batch (in vLLM's order: removed, added, moved)."""
        if batch_update is None:
            return
        self._filters.clear()
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, _, written in batch_update.added:
            self._rows.pop(index, None)
            order = _order(params)
            if order is not None:
                self._rows[index] = _Row(*order, written, sorted(params.all_stop_token_ids))
        for start, end, direction in batch_update.moved:
            moved, replaced = self._rows.pop(start, None), self._rows.pop(end, None)
            if moved is not None:
                self._rows[end] = moved
            if replaced is not None and direction == MoveDirectionality.SWAP:
                self._rows[start] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask the rows that have a table, in place; logits of shape (batch, vocabulary)."""
        for folder in {row.folder for row in self._rows.values()}:
            self._mask(logits, folder)
        return logits

    def _mask(self, logits: torch.Tensor, folder: str) -> None:
        rows = {index: row for index, row in sorted(self._rows.items()) if row.folder == folder}
        found = _load(folder)
        if folder not in self._tables or self._tables[folder].table is not found:
            self._tables[folder] = DeviceTable(found, self._device)
            self._filters.pop(folder, None)
        table = self._tables[folder]
        if folder not in self._filters:
            self._filters[folder] = FilterBatch(table.table, [row.rule for row in rows.values()], device=self._device)
        written = np.full((len(rows), max(1, *(len(row.written) for row in rows.values()))), PAD)
        for number, row in enumerate(rows.values()):
            written[number, : len(row.written)] = row.written
            if PAD in row.written:  # a place that vLLM fills later; reading on would mask the wrong step
                raise ModelError("vLLM did not tell the tokens of the last step; start it with async_scheduling=False")
        nodes = table.table.walk(written)
        chosen = torch.tensor(list(rows), device=logits.device)
        logits[chosen] = mask_outside(
            logits[chosen],
            table,
            torch.from_numpy(nodes).to(logits.device),
            filters=self._filters[folder],
            request=torch.arange(len(rows), device=logits.device),
        )
        for (index, row), complete in zip(rows.items(), table.table.is_leaf(nodes), strict=True):
            if complete and row.stops:
                kept = logits[index, row.stops].clone()
                logits[index] = -torch.inf
                logits[index, row.stops] = kept


def _order(params: SamplingParams) -> tuple[str, ItemFilter] | None:
    """Folder and filter that a request asks for, or None.

    Raises:
        ValueError: the request does not say which table, or its filter is not a list of rows.
    """
    extra = params.extra_args or {}
    folder = extra.get(TABLE)
    if folder is None or folder is False:
        return None
    if folder is True:
        folder = os.environ.get(FOLDER_VARIABLE)
    if not isinstance(folder, str) or not folder:
        raise ValueError(
            f"{TABLE} must name a folder, or be true with the folder in the variable {FOLDER_VARIABLE}, got {folder!r}"
        )
    rows = {name: extra.get(name) for name in (ALLOWED, EXCLUDED)}
    for name, value in rows.items():
        if value is not None and not (isinstance(value, list) and all(type(row) is int for row in value)):
            raise ValueError(f"{name} must be a list of item rows, got {value!r}")
    allowed = None if rows[ALLOWED] is None else np.array(rows[ALLOWED], dtype=np.int64)
    return folder, ItemFilter(allowed, np.array(rows[EXCLUDED] or [], dtype=np.int64))


def _load(folder: str) -> PrefixTable:
    """The table as it is now: one that is built anew in place is read anew."""
    try:
        stamp = (Path(folder) / SPEC).stat().st_mtime_ns
    except OSError:
        stamp = 0
    return _loaded(folder, stamp)


@lru_cache(maxsize=8)
def _loaded(folder: str, _stamp: int) -> PrefixTable:
    return load_table(Path(folder))
