"""Whole examples side by side in rows of one length, each as if it were alone.

Position ids start anew with every example; transformers reads that as the border of a packed sequence and masks what
lies before it (attention mask and cache must be absent). So nothing is padding but the end of a row, and shapes never
change. The loss of a step is the mean over the learnt tokens of its rows. Rows are filled by falling length, so a row
holds examples of like length, mostly of one or two tasks: few rows in a step mean that tasks take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError
from llmrec.training.examples import IGNORED, Encoded

IntArray = npt.NDArray[np.int64]


class Packed(NamedTuple):
    """Rows for a causal language model, each of shape (n_rows, length)."""

    input_ids: IntArray
    labels: IntArray
    position_ids: IntArray


def pack_examples(encoded: Sequence[Encoded], *, length: int, pad: int) -> Packed:
    """Pack examples into as few rows as first-fit in falling length finds.

    Args:
        encoded: examples of at most `length` tokens.
        length: tokens per row.
        pad: token behind the last example of a row.

    Raises:
        ConfigError: an example is longer than a row.
    """
    sizes = np.array([len(one.input_ids) for one in encoded], dtype=np.int64)
    if sizes.max(initial=0) > length:
        raise ConfigError(f"an example of {int(sizes.max())} tokens does not fit into rows of {length}; raise length")
    rows = _fill_rows(sizes, length)
    shape = (len(rows), length)
    packed = Packed(np.full(shape, pad), np.full(shape, IGNORED), np.zeros(shape, dtype=np.int64))
    for row, members in enumerate(rows):
        end = 0
        for index in members:
            here = slice(end, end + int(sizes[index]))
            packed.input_ids[row, here] = encoded[index].input_ids
            packed.labels[row, here] = encoded[index].labels
            # The first token of an example is predicted from nothing that belongs to it.
            packed.labels[row, end] = IGNORED
            packed.position_ids[row, here] = np.arange(sizes[index])
            end = here.stop
        packed.position_ids[row, end:] = np.arange(length - end)  # the padding is an example of its own
    return packed


def _fill_rows(sizes: IntArray, length: int) -> list[list[int]]:
    """Members of each row: examples by falling size, each into the fullest row that still takes it."""
    open_rows: list[list[list[int]]] = [[] for _ in range(length + 1)]  # by free places
    rows: list[list[int]] = []
    for index in np.argsort(-sizes, kind="stable"):
        size = int(sizes[index])
        free = next((free for free in range(size, length + 1) if open_rows[free]), None)
        if free is None:
            row: list[int] = []
            rows.append(row)
            free = length
        else:
            row = open_rows[free].pop()
        row.append(int(index))
        open_rows[free - size].append(row)
    return rows
