"""Distilling a slow teacher, such as a language model, into a sequence model.

The teacher ranks items for prefixes of training histories, once. The student learns beside its own loss to score the
teacher's items above drawn ones, each with a weight of three parts: its place on the list, how sure the teacher is of
it, and whether the student ranks it high too. A second part needs no loss: the teacher's item vectors, projected,
become part of the student's (`teacher_item_vectors`).

Source: Cui et al., Distillation matters: empowering sequential recommenders to match the performance of large language
models (DLLM2Rec, RecSys 2024, arXiv 2405.00338). Unlike the released code, a drawn item costs -log(1 - sigmoid(s)), not
-log(sigmoid(1 - s)), and nothing is chosen on test data.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, model_validator
from torch import Tensor
from torch.nn import functional

from llmrec.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from llmrec.ranking.sequences import Batch
    from llmrec.ranking.teacher import TeacherLists
    from llmrec.retrieval.base import IntArray


class DistilConfig(BaseModel):
    """Settings of the distillation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strength: NonNegativeFloat = 0.7
    """Weight of the ranking distillation beside the student's own loss (the paper's lambda); 0 is the student."""
    position: NonNegativeFloat = 0.3
    """Share of the place on the list in a weight."""
    confidence: NonNegativeFloat = 0.5
    """Share of the teacher's confidence in a weight."""
    consistency: NonNegativeFloat = 0.1
    """Share of the agreement with the student in a weight."""
    vectors: NonNegativeFloat = 0.3
    """Mean length of the teacher's item vectors beside the student's own, where they are given
    (`teacher_item_vectors`)."""

    @model_validator(mode="after")
    def _some_share(self) -> DistilConfig:
        if self.position + self.confidence <= 0:
            raise ValueError("position or confidence must be positive, else an item may have no weight at all")
        return self


def importance_weights(
    distances: Tensor, consistent: Tensor, present: Tensor, *, position: float, confidence: float, consistency: float
) -> Tensor:
    """Weights of the items of each list, shape (n, k); they sum to 1, and are 0 where no item is.

    Args:
        distances: of the teacher, 0 is sure, shape (n, k), best first.
        consistent: whether the student ranks the item high too, shape (n, k).
        present: whether there is an item, shape (n, k); the first place of each list has one.
        position: share of ``exp(-place)``, normalised over the list.
        confidence: share of ``exp(-distance)``, normalised over the list.
        consistency: share of `consistent`, not normalised.
    """
    absent = ~present
    places = torch.arange(distances.shape[1], dtype=distances.dtype, device=distances.device).expand_as(distances)
    by_place = (-places).masked_fill(absent, float("-inf")).softmax(dim=1)
    by_distance = (-distances).masked_fill(absent, float("-inf")).softmax(dim=1)
    mixed = position * by_place + confidence * by_distance + consistency * (consistent & present).to(distances.dtype)
    return mixed / mixed.sum(dim=1, keepdim=True)


def ranking_distillation_loss(teacher_items: Tensor, drawn_items: Tensor, weights: Tensor) -> Tensor:
    """Mean over lists of the weighted binary cross-entropies, in nats.

    Args:
        teacher_items: the student's logits of the teacher's items, shape (n, k).
        drawn_items: its logits of one drawn item for each of them, shape (n, k).
        weights: shape (n, k).
    """
    costs = functional.softplus(-teacher_items) + functional.softplus(drawn_items)  # -log s(x) and -log(1 - s(x))
    return (weights * costs).sum(dim=1).mean()


def teacher_item_vectors(vectors: npt.NDArray[Any], *, strength: float = 0.3) -> npt.NDArray[np.float32] | None:
    """The teacher's item vectors as the student takes them: `SasrecRecommender` adds their learned projection.

    They are centred and scaled to a mean length of `strength`, so that they enter beside the student's own vectors
    with this weight at first; how far the projection grows is learned.

    Args:
        vectors: shape (n_items, d).
        strength: the paper's weight of the embedding distillation (0.2 to 0.3).

    Returns:
        Shape (n_items, d); None for strength 0, which is the student without a teacher.

    Raises:
        ConfigError: strength is negative.
        DataError: the vectors are not finite, or all alike.
    """
    if not strength >= 0:
        raise ConfigError(f"the strength of the embedding distillation must not be negative, got {strength!r}")
    if strength == 0:
        return None
    centred = np.asarray(vectors, dtype=np.float64) - np.mean(vectors, axis=0, dtype=np.float64)
    length = float(np.linalg.norm(centred, axis=1).mean())
    if not (np.isfinite(length) and length > 0):
        raise DataError(f"the teacher's item vectors are not finite or all alike (mean length {length!r} when centred)")
    scaled: npt.NDArray[np.float32] = (centred * (strength / length)).astype(np.float32)
    return scaled


class RankingDistillation:
    """The ranking distillation as a term of the training loss (see `llmrec.ranking.fit.ExtraLoss`).

    It acts at every position of a batch that has a teacher's list: same user, same item read, same item to predict.
    Windows and varied sequences therefore take part wherever these two items still follow each other. Items that the
    student is taught to score low are drawn evenly from those that are neither on the list nor the target, with
    torch's generator, which the training seeds by step.

    Args:
        lists: of the teacher.
        n_items: size of the catalogue.
        config: settings.
        teacher: its name, for notes.

    Raises:
        DataError: the lists name items beyond the catalogue, or there is none.
        ConfigError: the lists are so long that no item is left to draw.
    """

    def __init__(
        self, lists: TeacherLists, *, n_items: int, config: DistilConfig | None = None, teacher: str = ""
    ) -> None:
        self.config = config or DistilConfig()
        self.n_items = n_items
        self.note = f"taught by {teacher or 'a teacher'}: {len(lists)} lists, {lists.n_empty} of them empty"
        """For the description of the student."""
        lists = lists.usable()
        if not len(lists):
            raise DataError("the teacher has no list with an item; see why it failed, and build the lists again")
        largest = int(max(lists.items.max(), lists.inputs.max(), lists.targets.max()))
        if largest >= n_items:
            raise DataError(f"the teacher's lists name item {largest} of a catalogue of {n_items}; build them for it")
        if lists.items.shape[1] + 1 >= n_items:
            raise ConfigError(
                f"lists of {lists.items.shape[1]} items leave none of {n_items} to draw; build shorter lists (k)"
            )
        if (int(lists.users.max()) + 1) * n_items**2 >= 2**63:
            raise ConfigError(f"{int(lists.users.max()) + 1} users by {n_items} items are too many to tell lists apart")
        keys = self._keys(lists.users, lists.inputs, lists.targets)
        order = np.argsort(keys, kind="stable")
        self._sorted_keys = keys[order]
        self._items = torch.from_numpy(lists.items[order])
        self._distances = torch.from_numpy(lists.distances[order]).float()
        self.identity = self._hash(lists)
        """Of settings and lists: a checkpoint of another distillation is refused."""
        self.matched = 0
        """Positions with a list in the last batch."""

    def _hash(self, lists: TeacherLists) -> str:
        digest = hashlib.sha256(self.config.model_dump_json().encode())
        for part in (lists.users, lists.inputs, lists.targets, lists.items, lists.distances):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]

    def __call__(self, states: Tensor, item_matrix: Tensor, batch: Batch) -> Tensor:
        """Strength times the loss; 0 for a batch without a list.

        Args:
            states: shape (n_tokens, width).
            item_matrix: shape (n_items, width).
            batch: with targets and users.
        """
        places, chosen = self._find(batch)
        self.matched = len(places)
        if not len(places) or self.config.strength == 0:
            return states.new_zeros(())
        device, rows = states.device, torch.from_numpy(chosen)
        items, distances = self._items[rows], self._distances[rows].to(device)
        assert batch.targets is not None
        where = torch.from_numpy(places).to(device)
        drawn = draw_others(items, batch.targets[where].cpu(), n_items=self.n_items).to(device)  # (n, k)
        items = items.to(device)
        present, listed = items >= 0, items.clamp(min=0)
        own = states[where]  # (n, width)
        config = self.config
        weights = importance_weights(
            distances,
            _consistent(own, item_matrix, listed),
            present,
            position=config.position,
            confidence=config.confidence,
            consistency=config.consistency,
        )
        loss = ranking_distillation_loss(_logits(own, item_matrix, listed), _logits(own, item_matrix, drawn), weights)
        return config.strength * loss

    def _find(self, batch: Batch) -> tuple[IntArray, IntArray]:
        """Positions of the batch that have a list, and the list of each."""
        assert batch.targets is not None, "distillation needs a training batch"
        assert batch.users is not None, "distillation needs a training batch"
        ends = batch.last.cpu().numpy()
        users = np.repeat(batch.users, np.diff(ends, prepend=-1))  # (n_tokens,)
        read = batch.items.cpu().numpy()
        keys = self._keys(users, np.minimum(read, self.n_items - 1), batch.targets.cpu().numpy())
        found = np.minimum(np.searchsorted(self._sorted_keys, keys), len(self._sorted_keys) - 1)
        places = np.flatnonzero((self._sorted_keys[found] == keys) & (read < self.n_items))  # the others are masked
        return places, found[places]

    def _keys(self, users: IntArray, inputs: IntArray, targets: IntArray) -> IntArray:
        return (users.astype(np.int64) * self.n_items + inputs) * self.n_items + targets


def _logits(states: Tensor, item_matrix: Tensor, items: Tensor) -> Tensor:
    """Logits of some items, shape (n, k)."""
    return (states[:, None, :] * item_matrix[items]).sum(dim=2)


@torch.no_grad()
def _consistent(states: Tensor, item_matrix: Tensor, items: Tensor) -> Tensor:
    """Whether items are among as many best of the student, shape (n, k)."""
    logits = states @ item_matrix.T  # (n, n_items)
    bound = logits.topk(items.shape[1], dim=1).values[:, -1:]
    return logits.gather(1, items) >= bound


def draw_others(items: Tensor, targets: Tensor, *, n_items: int) -> Tensor:
    """Items drawn evenly from those that are neither listed nor the target, one for each place, shape (n, k).

    Args:
        items: listed rows, shape (n, k); -1 is no item.
        targets: shape (n,).
        n_items: size of the catalogue, more than k + 1.
    """
    banned = torch.cat([items, targets[:, None]], dim=1).sort(dim=1).values  # (n, k + 1)
    repeated = torch.zeros_like(banned, dtype=torch.bool)
    repeated[:, 1:] = banned[:, 1:] == banned[:, :-1]
    absent = repeated | (banned < 0)
    left = n_items - (~absent).sum(dim=1, keepdim=True)  # (n, 1)
    drawn = (torch.rand(items.shape, dtype=torch.float64) * left).long()
    for place in range(banned.shape[1]):  # step over the banned items, smallest first
        step = (drawn >= banned[:, place, None]) & ~absent[:, place, None]
        drawn = drawn + step.long()
    return drawn
