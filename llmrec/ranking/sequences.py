"""Histories as the sequence networks read them: packed without padding, cut and varied as the settings say.

All sequences of a batch lie one behind the other in one flat array, so everything but attention works on real positions
alone. Attention takes the sequences in groups of similar length, padded at the end only: under a causal mask nothing
real ever looks at what comes after it, so padding cannot change a result and no mask is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from llmrec.errors import DataError
from llmrec.retrieval.base import IntArray

if TYPE_CHECKING:
    from llmrec.data.interactions import Interactions

_SHORTEST_GROUP = 4  # sequences of up to this length share one group: smaller matrices are all overhead


class AugmentConfig(BaseModel):
    """How training sequences are varied, anew in every epoch; everything is off by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window_stride: PositiveInt | None = None
    """Long histories are read in windows that end every so many events; None reads the newest window only."""
    item_mask: float = Field(default=0.0, ge=0, lt=1)
    """Share of input items replaced by a learned mask vector; they remain targets."""
    item_drop: float = Field(default=0.0, ge=0, lt=1)
    """Share of events left out of a sequence altogether."""
    reverse: float = Field(default=0.0, ge=0, le=1)
    """Share of sequences read backwards."""
    order_jitter: NonNegativeFloat = 0.0
    """Events are sorted anew by position plus a uniform draw up to this; up to 1 changes nothing, 2 swaps some
    neighbours. For data whose order inside a day is arbitrary."""

    @property
    def changes_order(self) -> bool:
        """Whether events of a sequence are left out or moved."""
        return self.item_drop > 0 or self.reverse > 0 or self.order_jitter > 0


@dataclass(frozen=True)
class Group:
    """Sequences of similar length, as attention takes them."""

    index: Tensor
    """Place of each position in the flat arrays, shape (sequences, longest); past the end any real place."""
    real: Tensor | None
    """True where a position is real, shape (sequences, longest); None where all are."""


@dataclass(frozen=True)
class Batch:
    """Sequences one behind the other, shortest group first."""

    items: Tensor
    """Input item rows, shape (n_tokens,); the number of items itself stands for a masked item."""
    positions: Tensor
    """0, 1, 2, ... in each sequence, shape (n_tokens,)."""
    groups: tuple[Group, ...]
    """Cover the flat arrays in order."""
    last: Tensor
    """Place of each sequence's last position, shape (n_sequences,)."""
    order: IntArray
    """Number of each sequence as it was given, shape (n_sequences,)."""
    targets: Tensor | None = None
    """Item row that follows each position, shape (n_tokens,); None outside training."""
    users: IntArray | None = None
    """User of each sequence, shape (n_sequences,), in the order of the flat arrays; training only."""

    def to(self, device: str) -> Batch:
        """The same batch with its tensors on a device."""
        groups = tuple(
            Group(group.index.to(device), None if group.real is None else group.real.to(device))
            for group in self.groups
        )
        return Batch(
            items=self.items.to(device),
            positions=self.positions.to(device),
            groups=groups,
            last=self.last.to(device),
            order=self.order,
            targets=None if self.targets is None else self.targets.to(device),
            users=self.users,
        )


def pack(sequences: Sequence[IntArray]) -> Batch:
    """Lay non-empty sequences one behind the other, in groups whose longest is at most twice the shortest."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    assert min((len(sequence) for sequence in sequences), default=0) > 0, "pack needs sequences of at least one item"
    order = np.argsort(lengths, kind="stable")
    lengths = lengths[order]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = np.concatenate([np.asarray(sequences[i], dtype=np.int64) for i in order])
    return Batch(
        items=torch.from_numpy(flat),
        positions=torch.from_numpy(np.arange(len(flat)) - np.repeat(starts[:-1], lengths)),
        groups=_groups(starts[:-1], lengths),
        last=torch.from_numpy(starts[1:] - 1),
        order=order,
    )


def pack_for_training(
    sequences: Sequence[IntArray], users: IntArray, *, n_items: int, item_mask: float, rng: np.random.Generator
) -> Batch:
    """Inputs are all items but the last of a sequence, targets all but the first; sequences have at least two items.

    Args:
        sequences: item rows, oldest first.
        users: user of each sequence, shape (n_sequences,).
        n_items: size of the catalogue; stands for a masked item.
        item_mask: share of inputs to mask.
        rng: draws the masked positions.
    """
    batch = pack([sequence[:-1] for sequence in sequences])
    targets = torch.from_numpy(np.concatenate([np.asarray(sequences[i], dtype=np.int64)[1:] for i in batch.order]))
    items = batch.items
    if item_mask:
        items = torch.where(torch.from_numpy(rng.random(len(items)) < item_mask), n_items, items)
    return Batch(
        items=items,
        positions=batch.positions,
        groups=batch.groups,
        last=batch.last,
        order=batch.order,
        targets=targets,
        users=users[batch.order],
    )


class TrainingSequences:
    """The windows of all users that have something to predict, and their varied form in an epoch.

    Args:
        train: training events.
        max_length: most positions of a sequence; a window has one event more, the last target.
        augment: windows and variations.

    Raises:
        DataError: no user has two events.
    """

    def __init__(self, train: Interactions, *, max_length: int, augment: AugmentConfig) -> None:
        self._items, self._augment = train.items, augment
        users, starts, ends = _windows(train.offsets, max_length + 1, augment.window_stride)
        if not len(users):
            raise DataError(
                f"a sequence model needs users with at least two training events, got {len(train)} events of "
                f"{train.n_users} users with at most one each"
            )
        self.users, self._starts, self._ends = users, starts, ends
        self.n_items = train.n_items

    def __len__(self) -> int:
        return len(self.users)

    def batches(self, size: int, rng: np.random.Generator) -> list[IntArray]:
        """Numbers of the windows of each batch of one epoch, shuffled; the batches differ in size by one at most."""
        shuffled = rng.permutation(len(self))
        return np.array_split(shuffled, -(-len(self) // size))

    def batch(self, chosen: IntArray, rng: np.random.Generator) -> Batch:
        """The chosen windows, varied with `rng` and packed."""
        sequences = [self._vary(self._items[self._starts[i] : self._ends[i]], rng) for i in chosen]
        mask = self._augment.item_mask
        return pack_for_training(sequences, self.users[chosen], n_items=self.n_items, item_mask=mask, rng=rng)

    def _vary(self, events: IntArray, rng: np.random.Generator) -> IntArray:
        augment = self._augment
        if not augment.changes_order:
            return events
        if augment.item_drop and len(events) > 2:
            keep = rng.random(len(events)) >= augment.item_drop
            keep[-2:] = True  # something to predict, from something
            events = events[keep]
        if augment.order_jitter:
            keys = np.arange(len(events)) + rng.random(len(events)) * augment.order_jitter
            events = events[np.argsort(keys, kind="stable")]
        if augment.reverse and rng.random() < augment.reverse:
            events = events[::-1]
        return events


def _windows(offsets: IntArray, longest: int, stride: int | None) -> tuple[IntArray, IntArray, IntArray]:
    """User, start and end (rows of the events) of every window with at least two events."""
    lengths = np.diff(offsets)
    extra = np.zeros_like(lengths) if stride is None else -(-np.maximum(lengths - longest, 0) // stride)
    users = np.repeat(np.arange(len(lengths)), extra + 1)
    number = np.arange(len(users)) - np.repeat(np.cumsum(extra + 1) - (extra + 1), extra + 1)  # 0 is the newest
    ends = offsets[users + 1] - number * (stride or 0)
    starts = np.maximum(offsets[users], ends - longest)
    kept = ends - starts >= 2
    return users[kept].astype(np.int64), starts[kept], ends[kept]


def _groups(starts: IntArray, lengths: IntArray) -> tuple[Group, ...]:
    """Groups of ascending lengths; a group ends where the next sequence is over twice as long as its shortest."""
    groups, first = [], 0
    while first < len(lengths):
        limit = max(_SHORTEST_GROUP, 2 * int(lengths[first]))
        after = int(np.searchsorted(lengths, limit, side="right"))
        own, longest = lengths[first:after], int(lengths[after - 1])
        steps = np.arange(longest)
        index = starts[first:after, None] + np.minimum(steps, own[:, None] - 1)  # (sequences, longest)
        real = None if own[0] == longest else torch.from_numpy(steps < own[:, None])
        groups.append(Group(torch.from_numpy(index), real))
        first = after
    return tuple(groups)
