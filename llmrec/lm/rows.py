"""How samples share a prompt's key/value cache: two layouts of one batch, with the same interface.

`TreeRows` keeps one row for each prompt. Its samples are extra query positions of that row, and a mask lets each sample
see the prompt and its own tokens only, so the prompt's cache is never copied. It needs a model that takes position ids
and a four-dimensional mask, with full attention in every layer. `CopiedRows` copies the prompt's cache for each sample
and works with any causal model. `tree_layout_works` finds out by comparing the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

IntArray = npt.NDArray[np.int64]

_PROMPT, _PADDING = -1, -2  # owners of key slots that belong to no sample
_READ_AT_ONCE = 1536  # tokens on a CPU: what a layer computes of them still fits its cache (10 % faster, measured)


class Rows(Protocol):
    """A batch of prompts that have been read, each with samples that grow token by token."""

    first_logits: torch.Tensor
    """Logits after each prompt, shape (n_prompts, vocabulary)."""

    def feed(self, sample: IntArray, token: IntArray, position: IntArray) -> torch.Tensor:
        """Append tokens to samples.

        Args:
            sample: owner of each token, ascending, shape (n_tokens,). A sample may get several tokens, in order.
            token: token ids, shape (n_tokens,).
            position: position of each token in its own sequence, shape (n_tokens,).

        Returns:
            Logits after each token, shape (n_tokens, vocabulary).
        """
        ...

    def keep(self, sample: IntArray) -> None:
        """Drop rows that none of these samples needs."""
        ...


class _Stored(Exception):
    """The last layer has stored its keys and values; what the model would still compute is of no use."""


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not type-checked here
    """A cache layer that appends in place: growing by concatenation would copy the whole cache at every token."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.filled = capacity, False
        self.reading: tuple[int, int] | None = None  # first row of the prompts that are being read, rows of all
        self.is_last = False
        self._key_room = torch.empty(0)
        self._value_room = torch.empty(0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append, and return all keys and values, shape (rows, heads, length, head_dim)."""
        if self.reading is not None:
            return self._store(key_states, value_states, *self.reading)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if not self.filled or new > self._key_room.shape[-2]:
            self._make_room(key_states, value_states, max(new, self.capacity))
        self._key_room[..., old:new, :] = key_states
        self._value_room[..., old:new, :] = value_states
        self.keys, self.values = self._key_room[..., :new, :], self._value_room[..., :new, :]
        return self.keys, self.values

    def _store(
        self, key_states: torch.Tensor, value_states: torch.Tensor, first: int, n_rows: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the beginning of some rows; the layer stays empty for the model until `stored` is called."""
        rows, length = key_states.shape[0], key_states.shape[-2]
        for name, new in (("_key_room", key_states), ("_value_room", value_states)):
            if not self.filled:
                setattr(self, name, new.new_zeros((n_rows, new.shape[1], max(length, self.capacity), new.shape[3])))
            getattr(self, name)[first : first + rows, :, :length] = new
        self.filled = True
        if self.is_last:
            raise _Stored
        return key_states, value_states

    def stored(self, length: int) -> None:
        """All rows have been read."""
        self.reading = None
        if self.filled:  # a layer that borrows another's keys never is
            self.is_initialized = True
            self.forget(length)

    def _make_room(self, key_states: torch.Tensor, value_states: torch.Tensor, length: int) -> None:
        old = self.get_seq_length()
        key_room = key_states.new_empty((*key_states.shape[:-2], length, key_states.shape[-1]))
        value_room = value_states.new_empty((*value_states.shape[:-2], length, value_states.shape[-1]))
        if old:
            key_room[..., :old, :], value_room[..., :old, :] = self.keys, self.values
        self._key_room, self._value_room, self.filled = key_room, value_room, True
        self.is_initialized = True  # what transformers asks for

    def forget(self, length: int) -> None:
        """Keep the first tokens only, as many as `length`."""
        self.keys, self.values = self._key_room[..., :length, :], self._value_room[..., :length, :]

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows only."""
        self._key_room, self._value_room = self._key_room[rows], self._value_room[rows]
        length = self.keys.shape[-2]
        self.keys, self.values = self._key_room[..., :length, :], self._value_room[..., :length, :]


def _padded(prompts: Sequence[Sequence[int]], *, left: bool) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Pad with token 0. Returns ids and which of them are real, both shape (n_prompts, longest)."""
    longest = max(map(len, prompts))
    ids = np.zeros((len(prompts), longest), dtype=np.int64)
    real = np.zeros((len(prompts), longest), dtype=np.bool_)
    for row, prompt in enumerate(prompts):
        where = slice(longest - len(prompt), None) if left else slice(0, len(prompt))
        ids[row, where], real[row, where] = prompt, True
    return ids, real


def _slots(row: IntArray, n_rows: int) -> tuple[IntArray, int]:
    """Place of each token within its row (tokens come sorted by row), and the width that the rows need."""
    counts = np.bincount(row, minlength=n_rows)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.arange(len(row)) - starts[row], int(counts.max())


class TreeRows:
    """One row for each prompt; samples are branches that share the row's cache.

    Args:
        model: causal language model with sdpa attention and full attention in every layer.
        prompts: token ids of each prompt, none empty.
        counts: samples of each prompt; samples are numbered prompt by prompt.
        room: tokens that each sample may grow by (a hint for the cache's size).
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], counts: Sequence[int], *, room: int) -> None:
        self._model = model
        self._row_of = np.repeat(np.arange(len(prompts)), counts)  # sample -> row
        self._owner = torch.full((len(prompts), 0), _PADDING, device=model.device)  # (rows, key slots)
        capacity = max(map(len, prompts)) + room * max(counts)
        self._layers = [_RoomyLayer(capacity) for _ in range(model.config.get_text_config().num_hidden_layers)]
        self._cache = DynamicCache()
        self._cache.layers = self._layers
        heads = [prompt[:-1] for prompt in prompts]
        if any(heads):
            self._read(heads)
        # The last token of each prompt goes through `_step`: only its logits are needed, and rows differ in length.
        last = np.array([prompt[-1] for prompt in prompts])
        positions = np.array([len(prompt) - 1 for prompt in prompts])
        rows = np.arange(len(prompts))
        self.first_logits = self._step(rows, np.full(len(prompts), _PROMPT), last, positions)

    def _read(self, prompts: Sequence[Sequence[int]]) -> None:
        """Fill the cache. Right padding needs no mask: a causal model never looks ahead."""
        ids, real = _padded(prompts, left=False)
        device, (n_rows, length) = self._model.device, ids.shape
        step = n_rows if device.type != "cpu" else max(1, _READ_AT_ONCE // length)
        self._layers[-1].is_last = True
        for first in range(0, n_rows, step):
            for layer in self._layers:
                layer.reading = (first, n_rows)
            with suppress(_Stored):
                self._model(
                    input_ids=torch.from_numpy(ids[first : first + step]).to(device),
                    past_key_values=self._cache,
                    use_cache=True,
                    logits_to_keep=torch.empty(0, dtype=torch.long, device=device),
                )
        for layer in self._layers:
            layer.stored(length)
        self._owner = torch.from_numpy(np.where(real, _PROMPT, _PADDING)).to(device)

    def feed(self, sample: IntArray, token: IntArray, position: IntArray) -> torch.Tensor:
        """See `Rows.feed`."""
        return self._step(self._row_of[sample], sample, token, position)

    def _step(self, row: IntArray, owner: IntArray, token: IntArray, position: IntArray) -> torch.Tensor:
        n_rows, n_old = self._owner.shape
        slot, width = _slots(row, n_rows)
        grid = np.zeros((3, n_rows, width), dtype=np.int64)
        grid[2] = _PADDING
        grid[:, row, slot] = np.stack([token, position, owner])
        ids, positions, owners = torch.from_numpy(grid).to(self._model.device)  # (rows, width) each
        self._owner = torch.cat([self._owner, owners], dim=1)  # (rows, keys)
        mine = self._owner[:, None, :] == owners[:, :, None]  # (rows, width, keys)
        mask = mine | (self._owner == _PROMPT)[:, None, :]
        if width > 1:  # tokens of one step stand in order
            mask[:, :, n_old:] &= torch.ones(width, width, dtype=torch.bool, device=mask.device).tril()
        logits: torch.Tensor = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask[:, None],
            past_key_values=self._cache,
            use_cache=True,
        ).logits  # (rows, width, vocabulary)
        flat = torch.from_numpy(row * width + slot).to(logits.device)
        return logits.flatten(0, 1)[flat].float()

    def keep(self, sample: IntArray) -> None:
        """See `Rows.keep`. Copying pays only once a third of the rows is free."""
        rows = np.unique(self._row_of[sample])
        n_rows = self._owner.shape[0]
        if len(rows) > 2 * n_rows // 3:
            return
        kept = torch.from_numpy(rows).to(self._owner.device)
        for layer in self._layers:
            layer.select(kept)
        self._owner = self._owner[kept]
        renumbered = np.full(n_rows, -1)
        renumbered[rows] = np.arange(len(rows))
        self._row_of = np.where(self._row_of >= 0, renumbered[self._row_of], -1)


class CopiedRows:
    """One row for each sample; the prompt's cache is copied for each. Left-padded, with a plain mask and position ids.

    Arguments as for `TreeRows`.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], counts: Sequence[int], *, room: int) -> None:
        self._model = model
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        ids, real = _padded(prompts, left=True)
        positions = np.maximum(real.cumsum(axis=1) - 1, 0)  # padding must not shift the positions of real tokens
        self._real = torch.from_numpy(real).to(model.device)
        self._cache = DynamicCache(config=model.config)
        self.first_logits = self._forward(ids, positions, last_only=True)[:, -1].float()
        owners = np.repeat(np.arange(len(prompts)), counts)
        self._select(torch.from_numpy(owners).to(model.device))
        self._row_of = np.arange(len(owners))  # sample -> row

    def _forward(self, ids: IntArray, positions: IntArray, *, last_only: bool) -> torch.Tensor:
        device = self._model.device
        extra = {"position_ids": torch.from_numpy(positions).to(device)} if self._takes_positions else {}
        logits: torch.Tensor = self._model(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=self._real.long(),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1 if last_only else 0,
            **extra,
        ).logits
        return logits

    def _select(self, rows: torch.Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._real = self._real[rows]

    def feed(self, sample: IntArray, token: IntArray, position: IntArray) -> torch.Tensor:
        """See `Rows.feed`."""
        row = self._row_of[sample]
        n_rows = self._real.shape[0]
        slot, width = _slots(row, n_rows)
        ids, positions = np.zeros((2, n_rows, width), dtype=np.int64)
        real = np.zeros((n_rows, width), dtype=np.bool_)
        ids[row, slot], positions[row, slot], real[row, slot] = token, position, True
        self._real = torch.cat([self._real, torch.from_numpy(real).to(self._real.device)], dim=1)
        logits = self._forward(ids, positions, last_only=False)  # (rows, width, vocabulary)
        return logits.flatten(0, 1)[torch.from_numpy(row * width + slot).to(logits.device)].float()

    def keep(self, sample: IntArray) -> None:
        """See `Rows.keep`."""
        rows = self._row_of[sample]
        if len(rows) > 2 * self._real.shape[0] // 3:
            return
        self._select(torch.from_numpy(rows).to(self._real.device))
        self._row_of = np.full_like(self._row_of, -1)
        self._row_of[sample] = np.arange(len(rows))


def tree_layout_works(model: Any) -> bool:
    """Whether `TreeRows` gives this model's own logits, found by running both layouts on a few tokens."""
    config = model.config.get_text_config()
    full_attention = all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or ())
    windowed = getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None)
    if config._attn_implementation != "sdpa" or not full_attention or windowed:
        return False
    top = min(config.vocab_size, 64)
    prompts = [[token % top for token in range(3, 9)], [5 % top, 2 % top]]
    sample, token = np.array([0, 1, 1, 2, 3]), np.array([7, 11, 13, 17, 19]) % top
    position = np.array([6, 6, 7, 2, 2])
    try:
        tree = TreeRows(model, prompts, [2, 2], room=2)
        branches = tree.feed(sample, token, position)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return False  # the model takes no such mask or cache
    copied = CopiedRows(model, prompts, [2, 2], room=2)
    plain = copied.feed(sample, token, position)
    difference = torch.maximum((tree.first_logits - copied.first_logits).abs().max(), (branches - plain).abs().max())
    exact = model.dtype == torch.float32
    return bool(difference < (1e-3 if exact else 0.1) * max(float(plain.std()), 1e-3))
