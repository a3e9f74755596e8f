"""The two passes of CALRec through one model: the joint sequence, and the target alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from llmrec.training.calrec.contrastive import Vectors, mean_state, next_item_loss
from llmrec.training.examples import IGNORED

Batch = Mapping[str, Tensor]
"""What `llmrec.training.calrec.data.CalrecCollator` makes of rows."""


class Passed(NamedTuple):
    """What the passes over a batch gave."""

    next_item: Tensor | None
    """Next-item loss, shape (); None where only the vectors were asked for."""
    vectors: Vectors | None
    """None where only the loss was asked for."""


def run_towers(model: Any, batch: Batch, *, next_item: bool = True, vectors: bool = True) -> Passed:
    """One pass over the joint sequences, and one over the targets where vectors are asked for.

    Args:
        model: causal language model, wrapped or not.
        batch: joint sequences (input_ids, attention_mask, labels, history_mask, target_mask, each (n, length)) and
            targets (tower_ids, tower_attention, tower_mask, each (n, shorter)); target_keys (n,).
        next_item: compute the next-item loss.
        vectors: pool states.
    """
    labels = batch["labels"]
    kept = _kept(labels) if next_item else 1
    joint = _run(model, batch["input_ids"], batch["attention_mask"], kept=kept, states=vectors)
    loss = next_item_loss(joint.logits, labels[:, -kept:]) if next_item else None
    if not vectors:
        return Passed(loss, None)
    states = joint.hidden_states[-1]  # (n, length, width), behind the last norm
    alone = _run(model, batch["tower_ids"], batch["tower_attention"], kept=1, states=True).hidden_states[-1]
    pooled = Vectors(
        user=mean_state(states, batch["history_mask"]),
        target_of_user=mean_state(states, batch["target_mask"]),
        target=mean_state(alone, batch["tower_mask"]),
        keys=batch["target_keys"],
    )
    return Passed(loss, pooled)


def _kept(labels: Tensor) -> int:
    """Places from the one before the first label to the end: logits of the others are never looked at."""
    first = int((labels != IGNORED).any(dim=0).int().argmax())
    return labels.shape[1] - max(0, first - 1)


def _run(model: Any, ids: Tensor, attention: Tensor, *, kept: int, states: bool) -> Any:
    positions = (attention.cumsum(dim=1) - 1).clamp_min(0)  # from the first real token on, whatever the padding
    return model(
        input_ids=ids,
        attention_mask=attention,
        position_ids=positions,
        logits_to_keep=kept,
        output_hidden_states=states,
        use_cache=False,
    )
