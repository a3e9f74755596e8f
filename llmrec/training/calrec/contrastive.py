"""The losses of CALRec: next-item generation, and two contrastive terms over mean-pooled last-layer states.

Source: Li et al., CALRec (RecSys 2024, arXiv 2405.02429), section on training objectives. Three vectors stand for an
example: the user (states of the prompt), the target behind the user (states of the target inside the joint sequence),
and the target alone (states of a second pass over the target's text). Other rows of the batch are the negatives.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from llmrec.training.examples import IGNORED

Axis = Literal["users", "targets"]


class Vectors(NamedTuple):
    """Pooled states of a batch, each of shape (n, width), and what tells equal targets."""

    user: Tensor
    target_of_user: Tensor
    target: Tensor
    keys: Tensor
    """Shape (n,), int64: equal for equal target texts."""


class Losses(NamedTuple):
    """Scalars. A term that is switched off is None."""

    total: Tensor
    next_item: Tensor
    target_target: Tensor | None
    user_target: Tensor | None

    def numbers(self) -> dict[str, Tensor]:
        """The parts by name, without gradients."""
        parts = {
            "next_item": self.next_item,
            "target_target": self.target_target,
            "user_target": self.user_target,
        }
        return {name: part.detach() for name, part in parts.items() if part is not None}


def mean_state(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of the states where the mask is true, in float32.

    Args:
        states: (n, length, width); what is masked may hold anything, nan included.
        mask: (n, length), bool, true somewhere in every row.

    Returns:
        Shape (n, width).
    """
    kept = states.float().masked_fill(~mask[:, :, None], 0.0)  # not a product: nan times zero is nan
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True)


def next_item_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over examples of the mean negative log-likelihood per target token, in nats, shape ().

    Whether the paper sums or averages over the tokens of a target is not known; the average is our choice.

    Args:
        logits: (n, length, vocabulary); those of place t predict the token of place t + 1.
        labels: (n, length); `IGNORED` where a token carries no loss. Every row has a label.
    """
    nats = functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
    )  # (n, length - 1)
    per_example = nats.sum(dim=1) / (labels[:, 1:] != IGNORED).sum(dim=1)
    return per_example.mean()


def info_nce(
    anchors: Tensor, targets: Tensor, *, temperature: float, axis: Axis = "users", keys: Tensor | None = None
) -> Tensor:
    """Contrastive loss of matched rows over cosine similarities, in nats, shape ().

    Args:
        anchors: vectors of users, (n, width); row i belongs to row i of `targets`.
        targets: vectors of targets, (n, width).
        temperature: divides the cosines.
        axis: what the softmax runs over for one target ("users", as the paper is reported) or for one user
            ("targets").
        keys: shape (n,); other rows with the key of a row are not its negatives. None: they are.
    """
    with torch.autocast(anchors.device.type, enabled=False):  # bf16 would round cosines near 1 in steps of 1/256
        cosines = functional.normalize(anchors.float(), dim=1) @ functional.normalize(targets.float(), dim=1).T
    logits = cosines / temperature  # (users, targets)
    if keys is not None:
        twins = keys[:, None] == keys[None, :]
        twins.fill_diagonal_(False)
        logits = logits.masked_fill(twins, -torch.inf)
    candidates = logits if axis == "targets" else logits.T  # one row per softmax
    return functional.cross_entropy(candidates, torch.arange(len(candidates), device=candidates.device))


class Objective(NamedTuple):
    """Weights and form of the combined loss, `(1 - alpha - beta) L_NIG + alpha L_TT + beta L_UT`."""

    alpha: float
    beta: float
    temperature: float
    axis: Axis = "users"
    mask_duplicates: bool = False

    @property
    def next_item_weight(self) -> float:
        """Weight of the next-item loss."""
        return 1.0 - self.alpha - self.beta

    @property
    def contrasts(self) -> bool:
        """Whether a contrastive term counts, so that targets need a pass of their own."""
        return self.alpha > 0 or self.beta > 0

    def terms(self, vectors: Vectors) -> tuple[Tensor | None, Tensor | None]:
        """Target-target and user-target loss of a batch; None for one without weight."""
        target_target = self._info_nce(vectors.target_of_user, vectors) if self.alpha > 0 else None
        user_target = self._info_nce(vectors.user, vectors) if self.beta > 0 else None
        return target_target, user_target

    def _info_nce(self, anchors: Tensor, vectors: Vectors) -> Tensor:
        keys = vectors.keys if self.mask_duplicates else None
        return info_nce(anchors, vectors.target, temperature=self.temperature, axis=self.axis, keys=keys)

    def contrast(self, target_target: Tensor | None, user_target: Tensor | None) -> Tensor | float:
        """The weighted contrastive part, without the next-item loss."""
        part: Tensor | float = 0.0
        if target_target is not None:
            part = part + self.alpha * target_target
        if user_target is not None:
            part = part + self.beta * user_target
        return part

    def combine(self, next_item: Tensor, terms: tuple[Tensor | None, Tensor | None] = (None, None)) -> Losses:
        """All losses of a batch; without contrastive terms the total is the next-item loss itself."""
        if not self.contrasts:
            return Losses(next_item, next_item, None, None)
        total = self.next_item_weight * next_item + self.contrast(*terms)
        return Losses(total, next_item, *terms)
