"""The prefix table inside transformers' own `generate`: a logits processor, and a `prefix_allowed_tokens_fn`.

`llmrec.semid.beam` is many times faster and says more; these serve code that is built on `generate`, and comparisons.

    model.generate(ids, num_beams=20, max_new_tokens=table.depth, eos_token_id=None,
                   logits_processor=[TableLogitsProcessor(DeviceTable(table, ids.device), prompt_length=ids.shape[1])])

Left padding is `generate`'s own rule, so every prompt of a batch ends at the same place. Paths of unequal length need
an end token: build the table with `end=` and tell `generate` the same token as `eos_token_id`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import LogitsProcessor

from llmrec.errors import ConfigError
from llmrec.semid.device_table import DeviceTable
from llmrec.semid.filters import FilterBatch
from llmrec.semid.prefix_table import PrefixTable


def mask_outside(
    logits: torch.Tensor,
    table: DeviceTable,
    nodes: torch.Tensor,
    *,
    filters: FilterBatch | None = None,
    request: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits with -inf for every token that leads to no item; a row that is complete or illegal is left as it is.

    Args:
        logits: shape (n, vocabulary).
        table: paths, on the same device.
        nodes: node of each row, shape (n,); -1 has left the table.
        filters: what is left for each request; None is everything.
        request: request of each row, shape (n,); needed with filters.
    """
    inner = (nodes >= 0) & ~table.is_leaf(nodes.clamp(min=0))
    rows = torch.nonzero(inner).squeeze(1)
    owner, token, child = table.children(nodes[rows])
    row = rows[owner]
    if filters is not None and request is not None:
        left = filters.alive(request[row], table.lo[child], table.hi[child]) > 0
        row, token = row[left], token[left]
    masked = torch.where(inner[:, None], -torch.inf, logits)
    masked[row, token] = logits[row, token]
    return masked


class TableLogitsProcessor(LogitsProcessor):  # type: ignore[misc]  # transformers is not type-checked here
    """Keeps `generate` on the paths of a table, all beams at once.

    Rows are looked up afresh at every step, since `generate` reorders its beams between two calls. A row that is
    complete is left alone (`generate` pads it). With filters, a request that has nothing left is refused here: unlike
    `beam_search`, `generate` cannot answer one request of a batch with nothing.

    Args:
        table: paths, on the device of the model.
        prompt_length: tokens before the first generated one, padding included.
        filters: of each prompt of the batch, None is no filter.

    Raises:
        ConfigError: a filter leaves no item.
    """

    def __init__(self, table: DeviceTable, *, prompt_length: int, filters: FilterBatch | None = None) -> None:
        if filters is not None and not filters.left.all():
            raise ConfigError(f"the filter of request {int(filters.left.argmin())} leaves no item; loosen it")
        self._table, self._start, self._filters = table, prompt_length, filters

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores with -inf for tokens that the table does not allow; both of shape (n_prompts * beams, ...)."""
        nodes = self._table.walk(input_ids[:, self._start :])
        request = None
        if self._filters is not None:
            per_prompt = len(input_ids) // len(self._filters.left)
            request = torch.arange(len(input_ids), device=scores.device).div(per_prompt, rounding_mode="floor")
        return mask_outside(scores, self._table, nodes, filters=self._filters, request=request)


def prefix_allowed_tokens_fn(table: PrefixTable, *, prompt_length: int) -> Callable[[int, torch.Tensor], Sequence[int]]:
    """The same rule in the form that transformers and many papers' code use: one call for each beam and step.

    A complete path, or one outside the table, allows nothing, which `generate` refuses: give it `max_new_tokens`.
    """

    def allowed(_prompt: int, ids: torch.Tensor) -> Sequence[int]:
        node = table.walk(ids[prompt_length:].cpu().numpy()[None, :])
        if node[0] < 0:
            return []
        tokens: list[int] = table.children(np.array([int(node[0])])).token.tolist()
        return tokens

    return allowed
