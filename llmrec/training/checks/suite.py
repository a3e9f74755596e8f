"""Checks that every training goes through: before its first step, and after its last, before anything is saved.

    checks = Checks()
    checks.start(trainer)          # gradients, padding, new tokens, digest of what must stay fixed
    checks.templates(...)          # what is trained is what is served
    trainer.train(...)
    checks.end(trainer)            # the frozen weights did not move; true labels beat shuffled ones

Each one refuses to go on (ModelError) with what is wrong and what to do, leaves model, gradients, optimiser and random
generators as they were, and writes what it measured and how long it took into `record`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrec.training.checks.frozen import check_frozen, frozen_digest
from llmrec.training.checks.gradient import check_gradients, check_saved_rows, check_token_rows
from llmrec.training.checks.loss import check_labels, check_packing, check_padding
from llmrec.training.checks.templates import check_templates

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from llmrec.training.corpus import Material

_FEW, _LOOKED_AT, _WATCHED = 2, 64, 32
"""Rows of a first pass; rows among which a short and a long one are looked for; rows whose labels are shuffled."""


def of_stages(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The records of several stages as one, their names in front ("II: padding"); that of a single stage as it is.

    Args:
        records: `Checks.record` by stage, in order.
    """
    if len(records) == 1:
        return dict(*records.values())
    return {f"{stage}: {name}": found for stage, record in records.items() for name, found in record.items()}


@dataclass
class Checks:
    """The checks of one training, and what they found."""

    record: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per check: its numbers and its seconds."""
    _frozen: str = ""

    @property
    def seconds(self) -> float:
        """Of all checks so far."""
        return float(sum(found["seconds"] for found in self.record.values()))

    def run(self, name: str, check: Callable[[], Mapping[str, Any]]) -> None:
        """Run one check under a name and keep what it found.

        Raises:
            ModelError: the check refuses.
        """
        started = time.perf_counter()
        found = dict(check())
        self.record[name] = {**found, "seconds": round(time.perf_counter() - started, 3)}

    def start(self, trainer: Any, *, tokens: Sequence[int] = (), packed: bool = False) -> None:
        """Before the first step.

        Args:
            trainer: transformers' Trainer or one of its children, before `train`.
            tokens: new tokens whose rows are trained.
            packed: rows hold whole examples side by side, without padding between them.

        Raises:
            ModelError: gradients do not reach what is to be trained, or padding or neighbours in a row change the loss.
        """
        model, rows = trainer.model, _some(trainer.train_dataset, _LOOKED_AT)
        first = rows[:_FEW]
        if packed:
            with_tokens = [row for row in rows if set(tokens) & set(row["input_ids"])]
            first = (with_tokens or rows)[:_FEW]
        self.run("gradients", lambda: check_gradients(model, lambda: batch_loss(trainer, first)))
        if tokens:
            self.run("token_rows", lambda: check_token_rows(model, tokens, lambda: batch_loss(trainer, first)))
        if packed:
            self.run("packing", lambda: check_packing(model, trainer.data_collator, first[0]))
        else:
            by_length = sorted(rows, key=lambda row: len(row["input_ids"]))
            self.run("padding", lambda: check_padding(model, trainer.data_collator, [by_length[0], by_length[-1]]))
        self.run("frozen", lambda: self._remember(model))

    def templates(
        self, kinds: Sequence[str], material: Material, tokenizer: PreTrainedTokenizerBase, model: Any
    ) -> None:
        """Training prompts are those that serving asks with, for every kind of example that something serves.

        Args:
            kinds: of training examples.
            material: what they are built from.
            tokenizer: of the backbone.
            model: the backbone.

        Raises:
            ModelError: they differ.
        """
        self.run("templates", lambda: check_templates(kinds, material, tokenizer, model))

    def end(self, trainer: Any, *, seed: int) -> None:
        """After the last step, before the adapter is saved.

        Raises:
            ModelError: frozen weights moved, or the true labels are less likely than shuffled ones.
        """
        model = trainer.model
        if self._frozen:
            self.run("frozen", lambda: self._compare(trainer))
        watched = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.train_dataset
        rows = _some(watched, _WATCHED)
        self.run("labels", lambda: check_labels(model, trainer.data_collator, rows, seed=seed))

    def saved(self, folder: Path, model: Any) -> None:
        """After saving: rows of new tokens are in the adapter.

        Raises:
            ModelError: they are not.
        """
        self.run("saved_rows", lambda: check_saved_rows(folder, model))

    def _remember(self, model: Any) -> dict[str, Any]:
        if any(not weight.requires_grad for weight in model.parameters()):
            self._frozen = frozen_digest(model)
        return {"digest": self._frozen or None}

    def _compare(self, trainer: Any) -> dict[str, Any]:
        if in_pieces(trainer):
            return {"digest": self._frozen, "compared": False}
        check_frozen(trainer.model, self._frozen)
        return {"digest": self._frozen, "compared": True}


def in_pieces(trainer: Any) -> bool:
    """Whether the weights are divided among processes, in another number type: no digest tells whether they moved."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def batch_loss(trainer: Any, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """The model's own loss on these rows, as the trainer batches them and in its number types, shape ()."""
    device = next(trainer.model.parameters()).device
    batch = {name: value.to(device) for name, value in trainer.data_collator(list(rows)).items()}
    with trainer.compute_loss_context_manager():
        loss: torch.Tensor = trainer.model(**batch).loss
    return loss


def _some(dataset: Any, n: int) -> list[dict[str, Any]]:
    """At most `n` rows, evenly over the dataset."""
    places = np.unique(np.linspace(0, len(dataset) - 1, num=min(n, len(dataset)), dtype=np.int64))
    return [dataset[int(place)] for place in places]
