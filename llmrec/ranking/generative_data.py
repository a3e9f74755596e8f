"""Histories as semantic-id tokens, packed into blocks of one fixed shape.

A window of a history is one row: a start token, then the codes of its items. All rows of a step lie in blocks, several
rows in each, and a mask keeps a row to itself. So a user is read once, whatever the number of items that are learnt
from, nothing but the last bits of a block is padding, and every step has the same shape, as a compiler wants it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from llmrec.ranking.sequences import AugmentConfig, TrainingSequences
from llmrec.retrieval.base import IntArray

if TYPE_CHECKING:
    from llmrec.data.interactions import Interactions
    from llmrec.semid.codes import SemanticIds

SPECIALS = ("<|pad|>", "<|start|>")
"""Tokens before those of the ids; padding is none of the codes."""
PAD, START = 0, 1
_NOBODY = -1  # row number of padding
_BLOCK = 128  # shorter blocks waste more at their ends, longer ones more in the attention's masked part
_ROUND = 64
_FILLED = 0.96  # share of a step's places that rows are planned for; with less room left some would not fit


def code_paths(ids: SemanticIds) -> IntArray:
    """Tokens of each item in the model's vocabulary, shape (n_items, depth)."""
    return ids.tokens() + len(SPECIALS)


def prompts(paths: IntArray, histories: Sequence[IntArray]) -> list[list[int]]:
    """What the model reads before it writes the next item: the start token and the codes of each history."""
    return [[START, *paths[history].ravel().tolist()] for history in histories]


def block_length(context: int) -> int:
    """Tokens of a block for a model that reads at most `context`."""
    return max(_BLOCK, -(-context // _ROUND) * _ROUND)


@dataclass(frozen=True)
class CodeBatch:
    """Rows packed into blocks."""

    ids: Tensor
    """Input tokens, shape (n_blocks, block)."""
    positions: Tensor
    """0, 1, 2, ... in each row, shape (n_blocks, block)."""
    rows: Tensor
    """Number of the row within its block, shape (n_blocks, block); -1 is padding."""
    places: Tensor
    """Flat places behind which a code is learnt, shape (n_targets,)."""
    targets: Tensor
    """The token that follows each of these places, shape (n_targets,)."""
    levels: Tensor
    """Level of each of these tokens, shape (n_targets,)."""
    users: IntArray
    """User of each row."""

    def to(self, device: str) -> CodeBatch:
        """The same batch with its tensors on a device."""
        names = ("ids", "positions", "rows", "places", "targets", "levels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def mask(self) -> Tensor:
        """Who may look at whom: earlier places of the same row, shape (n_blocks, 1, block, block), boolean."""
        same = self.rows[:, :, None] == self.rows[:, None, :]
        return same.tril()[:, None]


def pack_rows(
    sequences: Sequence[IntArray], blocks: IntArray, paths: IntArray, *, users: IntArray, n_blocks: int, block: int
) -> CodeBatch:
    """Lay rows into blocks, one behind the other. Every code of every item but a row's first is learnt.

    Args:
        sequences: item rows of each row, at least two.
        blocks: block of each row, shape (n_rows,); what goes into one block fits.
        paths: tokens of each item, shape (n_items, depth).
        users: of each row, shape (n_rows,).
        n_blocks: number of blocks.
        block: tokens of a block.
    """
    depth = paths.shape[1]
    ids, positions = np.full((n_blocks, block), PAD), np.zeros((n_blocks, block), dtype=np.int64)
    rows, used = np.full((n_blocks, block), _NOBODY), np.zeros(n_blocks, dtype=np.int64)
    places, targets = [], []
    for number, (items, where) in enumerate(zip(sequences, blocks, strict=True)):
        codes, start = paths[items].ravel(), int(used[where])
        here = slice(start, start + len(codes))
        assert here.stop <= block, f"row {number} of {len(codes)} tokens does not fit behind {start} of {block}"
        ids[where, here] = np.concatenate([[START], codes[:-1]])
        positions[where, here], rows[where, here] = np.arange(len(codes)), number
        places.append(int(where) * block + np.arange(start + depth, here.stop))
        targets.append(codes[depth:])
        used[where] = here.stop
    levels = np.tile(np.arange(depth), sum(len(part) for part in targets) // depth)
    return CodeBatch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        rows=torch.from_numpy(rows),
        places=torch.from_numpy(np.concatenate(places)),
        targets=torch.from_numpy(np.concatenate(targets)),
        levels=torch.from_numpy(levels),
        users=users,
    )


class CodeSequences(TrainingSequences):
    """The windows of all users, as blocks of codes.

    Args:
        train: training events.
        paths: tokens of each item, shape (n_items, depth).
        max_length: most items of a history; a window has one more, the last target.
        sequences_per_batch: windows of a step, on average.
        augment: windows and variations.

    Raises:
        DataError: no user has two events.
    """

    def __init__(
        self,
        train: Interactions,
        paths: IntArray,
        *,
        max_length: int,
        sequences_per_batch: int,
        augment: AugmentConfig,
    ) -> None:
        super().__init__(train, max_length=max_length, augment=augment)
        self._paths = paths
        self._lengths = (self._ends - self._starts) * paths.shape[1]
        self.block = block_length((max_length + 1) * paths.shape[1])
        self.n_tokens = int(self._lengths.sum())
        """Tokens of one epoch, before variations."""
        wanted = min(sequences_per_batch, len(self)) * self.n_tokens / len(self)
        self.n_blocks = max(1, round(wanted / (_FILLED * self.block)))
        """Blocks of every step."""

    def batches(self, size: int, rng: np.random.Generator) -> list[IntArray]:
        """Windows of each step of one epoch and the blocks they go to, shape (n, 2) each; every window once.

        Args:
            size: not read: the shape of a step is fixed when the sequences are made.
            rng: shuffles the windows.
        """
        n_steps = -(-self.n_tokens // int(_FILLED * self.n_blocks * self.block))
        waiting, steps = deque(rng.permutation(len(self)).tolist()), []
        while waiting:
            pool: list[int] = []
            tokens = 0
            while waiting and tokens < self.n_tokens / n_steps:
                pool.append(waiting.popleft())
                tokens += int(self._lengths[pool[-1]])
            placed = best_fit(self._lengths[pool], n_blocks=self.n_blocks, block=self.block)
            late = [window for window, block in zip(pool, placed, strict=True) if block < 0]
            waiting.extendleft(reversed(late))
            kept = placed >= 0
            steps.append(np.stack([np.array(pool)[kept], placed[kept]], axis=1))
        return steps

    def batch(self, chosen: IntArray, rng: np.random.Generator) -> CodeBatch:  # type: ignore[override]  # not items
        """The chosen windows, varied with `rng`, in the blocks that `batches` chose."""
        windows, blocks = chosen[:, 0], chosen[:, 1]
        sequences = [self._vary(self._items[self._starts[i] : self._ends[i]], rng) for i in windows]
        users = self.users[windows]
        return pack_rows(sequences, blocks, self._paths, users=users, n_blocks=self.n_blocks, block=self.block)


def best_fit(lengths: IntArray, *, n_blocks: int, block: int) -> IntArray:
    """Block of each row, longest first, each where it leaves the least room; -1 where none has room. Shape (n,)."""
    room = np.full(n_blocks, block)
    placed = np.full(len(lengths), _NOBODY)
    for row in np.argsort(-lengths, kind="stable"):
        after = room - lengths[row]
        where = int(np.argmin(np.where(after < 0, block + 1, after)))
        if after[where] >= 0:
            placed[row], room[where] = where, after[where]
    return placed
