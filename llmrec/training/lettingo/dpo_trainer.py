"""TRL's DPOTrainer over pairs that come tokenised, with curves that say what the objective does."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from trl import DPOTrainer
from trl.trainer import utils

PANELS = {
    "log-likelihood of profiles (nats)": {"chosen": "chosen", "rejected": "rejected"},
    "nats": {"margin": "margin of log-ratios", "kl": "divergence from the reference"},
}
"""Of the picture of a curve."""


class PairTrainer(DPOTrainer):  # type: ignore[misc]  # trl is untyped
    """A DPOTrainer whose rows hold prompt_ids, chosen_ids and rejected_ids.

    TRL tokenises prompt and completion as one text, where a token may reach over the border; here they are tokenised
    apart, as inference does.
    """

    _metrics: Any
    _total_train_tokens: Any

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        with _learnt_positions_alone():
            return super()._compute_loss(*args, **kwargs)

    def probe(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """The loss that is trained on, of these rows, shape (); leaves nothing in the logs."""
        kept = copy.deepcopy(self._metrics), self._total_train_tokens
        batch = self._prepare_inputs(self.data_collator([dict(row) for row in rows]))
        with self.compute_loss_context_manager():
            loss = self.compute_loss(self.model, batch)
        self._metrics, self._total_train_tokens = kept
        return loss


@contextmanager
def _learnt_positions_alone() -> Iterator[None]:
    """Inside, TRL's head scores completion tokens alone on every device.

    TRL 1.16 does so where Triton runs and scores the prompts too elsewhere, for compilers that want static shapes. On a
    CPU, where prompts are ten times as long as profiles, that was most of a step; the numbers are the same.
    """
    known = utils._use_triton
    utils._use_triton = lambda device: True
    try:
        yield
    finally:
        utils._use_triton = known


def preference_curve(
    history: Sequence[Mapping[str, Any]], *, beta: float, first_step: int = 0
) -> list[dict[str, float]]:
    """Logs of a `PairTrainer` as plain rows.

    Args:
        history: `trainer.state.log_history`.
        beta: of the objective; rewards are beta times log-ratios.
        first_step: steps of earlier stages.

    Returns:
        Rows of step and, with the prefix ``validation_`` where measured on held-out users: loss; chosen and rejected,
        the mean log-likelihoods in nats; margin, the difference of their log-ratios to the reference; accuracy, the
        share of pairs with a positive margin; kl, minus the mean log-ratio, which estimates the divergence of the
        policy from the reference on profiles that the reference wrote. A step that was measured twice, as the one that
        a resumed run goes on from, has its first measurement alone.
    """
    rows: dict[tuple[float, str], dict[str, float]] = {}
    for entry in history:
        for mark, prefix in (("", ""), ("eval_", "validation_")):
            if f"{mark}loss" not in entry or f"{mark}logps/chosen" not in entry:
                continue
            rewards = entry[f"{mark}rewards/chosen"], entry[f"{mark}rewards/rejected"]
            values = {
                "loss": entry[f"{mark}loss"],
                "chosen": entry[f"{mark}logps/chosen"],
                "rejected": entry[f"{mark}logps/rejected"],
                "margin": (rewards[0] - rewards[1]) / beta,
                "kl": -sum(rewards) / 2 / beta,
                "accuracy": entry[f"{mark}rewards/accuracies"],
            }
            step = float(first_step + entry["step"])
            rows.setdefault((step, mark), {"step": step} | {prefix + name: float(v) for name, v in values.items()})
    return list(rows.values())
