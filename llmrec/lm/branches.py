"""Hypotheses of a search that branch and die, over a prompt that is read once: two layouts with one interface.

They extend the layouts of `llmrec.lm.rows`, whose samples only grow. In `TreeBranches` the hypotheses of a prompt are
query positions of the prompt's one row; where they come from is in the mask alone, so a step neither copies nor
reorders the key-value cache. In `CopiedBranches` each hypothesis is a row; the cache is reordered at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch

from llmrec.lm.rows import _PROMPT, CopiedRows, TreeRows, tree_layout_works

Layout = Literal["tree", "copied"]


class Branches(Protocol):
    """Prompts that have been read, each with hypotheses of equal length."""

    layout: Layout
    first_logits: torch.Tensor
    """Logits after each prompt, shape (n_prompts, vocabulary)."""

    def grow(self, parent: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Replace the hypotheses by others that are one token longer.

        Args:
            parent: number of the hypothesis that each new one continues, among those of its prompt; shape
                (n_prompts, width). After the prompt there is one hypothesis, number 0.
            token: its new token, same shape.

        Returns:
            Logits after each token, shape (n_prompts, width, vocabulary), float32.
        """
        ...

    def keep(self, prompts: torch.Tensor) -> None:
        """Go on with these prompts alone, shape (n_kept,), ascending."""
        ...


class TreeBranches(TreeRows):
    """One row for each prompt; every token of a hypothesis keeps its key slot, whoever continues it.

    Args:
        model: a model for which `tree_layout_works`.
        prompts: token ids of each prompt, none empty.
        room: key slots that each prompt may need for hypotheses (a hint for the cache's size).
    """

    layout: Layout = "tree"

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], *, room: int) -> None:
        super().__init__(model, prompts, [1] * len(prompts), room=room)
        self._visible = (self._owner == _PROMPT)[:, None, :]  # (prompts, hypotheses, key slots)
        self._length = torch.tensor([len(prompt) for prompt in prompts], device=model.device)

    def grow(self, parent: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """See `Branches.grow`."""
        n_prompts, width = parent.shape
        n_keys = self._visible.shape[2]
        mine = torch.eye(width, dtype=torch.bool, device=parent.device).expand(n_prompts, width, width)
        seen = self._visible.gather(1, parent[:, :, None].expand(-1, -1, n_keys))
        self._visible = torch.cat([seen, mine], dim=2)  # (prompts, width, keys + width)
        logits: torch.Tensor = self._model(
            input_ids=token,
            position_ids=self._length[:, None].expand(n_prompts, width),
            attention_mask=self._visible[:, None],
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        self._length = self._length + 1
        return logits.float()

    def peek(self, token: torch.Tensor, level: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
        """Logits after the nodes of a tree below a single prompt, in one pass that leaves no trace.

        Args:
            token: token of each node, shape (n_nodes,).
            level: tokens from the prompt to each node, 1 for the first level; shape (n_nodes,).
            sees: whether the row's node has the column's as itself or an ancestor, shape (n_nodes, n_nodes).

        Returns:
            Shape (n_nodes, vocabulary), float32.
        """
        n_keys = self._layers[0].get_seq_length()
        mask = torch.cat([self._visible[0].expand(len(token), n_keys), sees.to(self._visible.device)], dim=1)
        device = mask.device
        logits: torch.Tensor = self._model(
            input_ids=token.to(device)[None],
            position_ids=(self._length[0] + level.to(device) - 1)[None],
            attention_mask=mask[None, None],
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        for layer in self._layers:
            layer.forget(n_keys)
        return logits[0].float()

    def keep(self, prompts: torch.Tensor) -> None:  # type: ignore[override]  # rows here, samples there
        """See `Branches.keep`."""
        for layer in self._layers:
            layer.select(prompts)
        self._visible, self._length = self._visible[prompts], self._length[prompts]


class CopiedBranches(CopiedRows):
    """One row for each hypothesis, left-padded: works with any causal model. Arguments as for `TreeBranches`."""

    layout: Layout = "copied"

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], *, room: int) -> None:
        super().__init__(model, prompts, [1] * len(prompts), room=room)
        self._width = 1
        self._length = np.array([len(prompt) for prompt in prompts], dtype=np.int64)

    def grow(self, parent: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """See `Branches.grow`."""
        n_prompts, width = parent.shape
        first = torch.arange(n_prompts, device=parent.device)[:, None] * self._width
        self._select((first + parent).flatten())
        self._width = width
        new = torch.ones(n_prompts * width, 1, dtype=torch.bool, device=parent.device)
        self._real = torch.cat([self._real, new], dim=1)
        positions = np.repeat(self._length, width)[:, None]
        ids = token.reshape(-1, 1).cpu().numpy()
        logits = self._forward(ids, positions, last_only=True)[:, -1]
        self._length = self._length + 1
        return logits.float().view(n_prompts, width, -1)

    def keep(self, prompts: torch.Tensor) -> None:  # type: ignore[override]  # prompts here, samples there
        """See `Branches.keep`."""
        rows = prompts[:, None] * self._width + torch.arange(self._width, device=prompts.device)
        self._select(rows.flatten())
        self._length = self._length[prompts.cpu().numpy()]


def read_prompts(model: Any, prompts: Sequence[Sequence[int]], *, room: int, layout: Layout) -> Branches:
    """Read prompts in this layout (see `TreeBranches`)."""
    branches = TreeBranches if layout == "tree" else CopiedBranches
    return branches(model, prompts, room=room)


def best_layout(model: Any) -> Layout:
    """The layout that this model can run, found by trying (see `tree_layout_works`)."""
    with torch.inference_mode():
        return "tree" if tree_layout_works(model) else "copied"
