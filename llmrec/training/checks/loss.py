"""Does the loss look at what it should? Not at padding, and at the labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmrec.errors import ModelError
from llmrec.seeding import rng
from llmrec.training.checks.untouched import untouched
from llmrec.training.examples import IGNORED

if TYPE_CHECKING:
    import torch

Collate = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, "torch.Tensor"]]
"""A trainer's data collator: rows to a batch of (n, length) tensors, padded on the right."""
EXACT = 1e-5
"""Largest relative difference of two losses that should be one, in fp32."""
COARSE = 2e-2
"""The same where weights are in a half-precision type, whose sums depend on their order."""
_ERRORS = 3.0  # standard errors by which shuffled labels must look better before chance is ruled out


def check_padding(model: Any, collate: Collate, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The loss is the same with padding on the left, on the right, and without any (every example alone).

    Args:
        model: causal language model.
        collate: of the trainer.
        rows: examples of several lengths with input_ids and labels.

    Returns:
        The largest relative difference, and what was allowed.

    Raises:
        ModelError: the losses differ: padding carries loss, or is attended to.
    """
    import torch

    lengths = [len(row["input_ids"]) for row in rows]
    allowed = EXACT if _exact(model) else COARSE
    with untouched(model), torch.inference_mode():
        model.eval()
        right = _on_device(model, collate(rows))
        left = {name: _shift(values, lengths) for name, values in right.items()}
        losses = [_summed_loss(model, batch) for batch in (right, left)]
        losses.append(sum(_summed_loss(model, _on_device(model, collate([row]))) for row in rows))
    n_padding = sum(max(lengths) - length for length in lengths)
    difference = (max(losses) - min(losses)) / max(abs(losses[2]), 1e-12)
    if not difference <= allowed:
        raise ModelError(
            f"the loss depends on padding: {losses[0]:.6g} with it on the right, {losses[1]:.6g} on the left, "
            f"{losses[2]:.6g} without (relative difference {difference:.2g}, allowed {allowed:.0g}); padding must have "
            f"label {IGNORED} and attention mask 0: mend the data collator"
        )
    return {"difference": difference, "allowed": allowed, "padding_tokens": n_padding}


def check_packing(model: Any, collate: Collate, row: Mapping[str, Any]) -> dict[str, Any]:
    """An example has the same loss behind another one in a packed row as at the beginning of a row.

    Args:
        model: causal language model.
        collate: of the trainer.
        row: examples side by side, each with position_ids from 0 (`llmrec.training.packed_examples`).

    Returns:
        The relative difference, and what was allowed.

    Raises:
        ModelError: the losses differ: this model reads over the borders of packed examples.
    """
    import torch

    spans = [span for span in _examples(row["position_ids"]) if any(x != IGNORED for x in row["labels"][span])]
    if len(spans) < 2:
        return {"difference": None, "allowed": None}  # a row for each example: nothing comes before it
    first, second = spans[0], spans[1]
    length = len(row["input_ids"])
    size = second.stop - second.start
    packed = {name: [*row[name][first], *row[name][second]] for name in ("input_ids", "labels", "position_ids")}
    packed["labels"][: first.stop - first.start] = [IGNORED] * (first.stop - first.start)
    alone = {name: list(row[name][second]) for name in packed}
    batch = _on_device(model, collate([_filled(packed, length), _filled(alone, length)]))
    labels = batch.pop("labels")
    with untouched(model), torch.inference_mode():
        model.eval()
        logits = model(**batch, use_cache=False).logits
        behind, before = (float(_token_losses(logits[i : i + 1], labels[i : i + 1]).double().sum()) for i in (0, 1))
    allowed = EXACT if _exact(model) else COARSE
    difference = abs(behind - before) / max(abs(before), 1e-12)
    if not difference <= allowed:
        raise ModelError(
            f"an example of {size} tokens has a loss of {behind:.6g} nats behind another in a packed row and "
            f"{before:.6g} alone (relative difference {difference:.2g}, allowed {allowed:.0g}): models of type "
            f"{model.config.model_type!r} do not keep packed examples apart; take another backbone for this recipe"
        )
    return {"difference": difference, "allowed": allowed}


def _examples(positions: Sequence[int]) -> list[slice]:
    """Places of each example of a packed row."""
    starts = [place for place, position in enumerate(positions) if position == 0]
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(positions)], strict=True)]


def _filled(row: Mapping[str, list[int]], length: int) -> dict[str, list[int]]:
    """A row as long as the others of a training, so that a compiled model meets no new shape."""
    free = length - len(row["input_ids"])
    filler = {"input_ids": [row["input_ids"][-1]] * free, "labels": [IGNORED] * free, "position_ids": list(range(free))}
    return {name: [*row[name], *filler[name]] for name in filler}


def _exact(model: Any) -> bool:
    """Whether products are in fp32: weights in four bits are multiplied in a half-precision type."""
    import torch

    in_half = getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)
    return next(model.parameters()).dtype == torch.float32 and not in_half


def _on_device(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    device = next(model.parameters()).device
    return {name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)}


def _shift(values: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Rows whose padding was on the right, with it on the left, shape (n, length)."""
    import torch

    width = values.shape[1]
    return torch.stack([row.roll(width - length) for row, length in zip(values, lengths, strict=True)])


def _summed_loss(model: Any, batch: Mapping[str, torch.Tensor]) -> float:
    """Nats over all supervised tokens. Positions count from the first token that the mask shows."""
    mask = batch["attention_mask"]
    positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
    logits = model(input_ids=batch["input_ids"], attention_mask=mask, position_ids=positions, use_cache=False).logits
    labels = batch["labels"].masked_fill((positions == 0) & (mask == 1), IGNORED)  # the first token follows nothing
    return float(_token_losses(logits, labels).double().sum())


def _token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Nats of every supervised token in order, shape (n_supervised,); logits (n, length, vocabulary)."""
    from torch.nn.functional import cross_entropy

    asked = labels[:, 1:] != IGNORED
    return cross_entropy(logits[:, :-1][asked].float(), labels[:, 1:][asked], reduction="none")


def check_labels(
    model: Any, collate: Collate, rows: Sequence[Mapping[str, Any]], *, seed: int, rows_per_pass: int = 8
) -> dict[str, Any]:
    """After training: the labels of these rows are likelier to the model than the same labels in shuffled order.

    Before training a model need not know its labels, so this is asked at the end, before anything is saved. Training
    labels that were turned round or shifted, or a loss of the wrong sign, end up here.

    Args:
        model: trained causal language model.
        collate: of the trainer.
        rows: examples that the model was not trained on, where there are any.
        seed: of the order.
        rows_per_pass: memory against time.

    Returns:
        The mean losses (nats per token) and the standard error of their difference. A difference within it says that
        the model does not tell its labels apart, which is reported and not refused: too little training looks so too.

    Raises:
        ModelError: the shuffled labels have the lower loss, by more than three standard errors.
    """
    import torch

    parts = [rows[start : start + rows_per_pass] for start in range(0, len(rows), rows_per_pass)]
    draws = rng(seed, "checks", "labels")
    true, shuffled = [], []
    with untouched(model), torch.inference_mode():
        model.eval()
        for part in parts:
            batch = _on_device(model, collate(part))
            labels = batch.pop("labels")
            logits = model(**batch, use_cache=False).logits
            asked = labels[:, 1:] != IGNORED
            order = torch.from_numpy(draws.permutation(int(asked.sum()))).to(labels.device)
            mixed = labels.clone()
            mixed[:, 1:][asked] = labels[:, 1:][asked][order]
            true.append(_token_losses(logits, labels))
            shuffled.append(_token_losses(logits, mixed))
    gain = torch.cat(shuffled).double() - torch.cat(true).double()  # (n_supervised,)
    error = float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else 0.0
    found = {
        "true_loss": float(torch.cat(true).mean()),
        "shuffled_loss": float(torch.cat(shuffled).mean()),
        "standard_error": error,
        "tokens": len(gain),
    }
    if not math.isfinite(found["true_loss"]):
        raise ModelError(
            f"after training, the loss of held-out labels is {found['true_loss']}: the weights diverged; lower "
            "learning_rate and remove the checkpoints. Nothing was saved"
        )
    if float(gain.mean()) < -_ERRORS * error:
        raise ModelError(
            f"after training, shuffled labels have a lower loss than the true ones ({found['shuffled_loss']:.4f} "
            f"against {found['true_loss']:.4f} nats per token); labels are not those of their examples, or the loss "
            "has the wrong sign. Nothing was saved; checkpoints are kept"
        )
    return found
