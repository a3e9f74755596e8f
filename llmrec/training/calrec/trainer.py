"""transformers' Trainer with the losses of CALRec, and the recommender's own NDCG@10 as a validation metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from llmrec.errors import ConfigError
from llmrec.training.callbacks import callbacks_of
from llmrec.training.calrec.contrastive import Losses, Objective
from llmrec.training.calrec.data import CalrecCollator, Row
from llmrec.training.calrec.gathered import gathered_terms
from llmrec.training.calrec.gradcache import accumulate, split_rows
from llmrec.training.calrec.towers import Batch, Passed, run_towers
from llmrec.training.trainer_settings import trainer_settings

if TYPE_CHECKING:
    from llmrec.lm.hardware import Hardware
    from llmrec.training.calrec.recipe import CalrecRecipe
    from llmrec.training.calrec.stages import Tunable
    from llmrec.training.calrec.validation import RankingCheck

PANELS = {
    "losses (nats)": {"next_item": "next item", "target_target": "target-target", "user_target": "user-target"},
    "ranking": {"ndcg10": "NDCG@10"},
}
"""Of the picture of a curve."""


class CalrecTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Minimises the combined loss; logs each part.

    Args:
        objective: weights and form of the loss.
        micro_batch: rows in memory at once (GradCache); None is the whole batch.
        ranking: measured at every evaluation; None measures losses alone.
        arguments: of `Trainer`. The data collator is a `CalrecCollator`.

    Raises:
        ConfigError: a ranking under FSDP.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        micro_batch: int | None = None,
        ranking: RankingCheck | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        if ranking is not None and self.is_fsdp_enabled:
            raise ConfigError(
                "with select=ndcg every process decodes users of its own, and FSDP needs all of them in step; set "
                "select=loss"
            )
        self.objective, self.micro_batch, self.ranking = objective, micro_batch, ranking
        self.model_accepts_loss_kwargs = False  # losses here are means over the batch already
        self._parts: dict[str, list[tuple[Tensor, int]]] = {}

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The combined loss of a batch, shape ()."""
        passed = run_towers(model, inputs, vectors=self.objective.contrasts)
        assert passed.next_item is not None
        terms = (None, None) if passed.vectors is None else gathered_terms(self.objective, passed.vectors)
        losses = self.objective.combine(passed.next_item, terms)
        self._note(losses, len(inputs["input_ids"]))
        return (losses.total, {"loss": losses.total}) if return_outputs else losses.total

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """One batch forward and backward, in chunks where `micro_batch` says so."""
        if self.micro_batch is None or not self.objective.contrasts:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return loss
        model.train()

        def run(chunk: Batch, next_item: bool) -> Passed:
            with self.compute_loss_context_manager():
                return run_towers(model, chunk, next_item=next_item)

        losses = accumulate(
            split_rows(self._prepare_inputs(inputs), self.micro_batch),
            run=run,
            objective=self.objective,
            backward=self.accelerator.backward,
            terms=lambda vectors: gathered_terms(self.objective, vectors),
            unsynced=lambda: self.accelerator.no_sync(model),
        )
        self._note(losses, len(inputs["input_ids"]))
        return losses.total.detach()

    def evaluation_loop(self, *arguments: Any, metric_key_prefix: str = "eval", **keywords: Any) -> Any:
        """Losses over the validation rows, then the ranking."""
        watched, self._parts = self._parts, {}
        output = super().evaluation_loop(*arguments, metric_key_prefix=metric_key_prefix, **keywords)
        found = self._means()
        self._parts = watched
        if self.ranking is not None:
            found |= self.ranking.measure(self.accelerator.unwrap_model(self.model), self.processing_class)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output

    def log(self, logs: dict[str, float], *arguments: Any, **keywords: Any) -> None:
        """As `Trainer`, with the parts of the training loss since the last time."""
        if "loss" in logs:
            logs = {**logs, **self._means()}
            self._parts = {}
        super().log(logs, *arguments, **keywords)

    def probe(self, rows: Sequence[Row]) -> Tensor:
        """The combined loss of a few rows, shape (), which enters no log."""
        watched, self._parts = self._parts, {}
        with self.compute_loss_context_manager():
            loss: Tensor = self.compute_loss(self.model, self._prepare_inputs(self.data_collator(list(rows))))
        self._parts = watched
        return loss

    def plain(self) -> SimpleNamespace:
        """What `llmrec.training.checks.suite.Checks` reads of a trainer, over the joint sequences alone."""
        collator: CalrecCollator = self.data_collator
        return SimpleNamespace(
            model=self.model,
            train_dataset=[row._asdict() for row in self.train_dataset],
            eval_dataset=[row._asdict() for row in self.eval_dataset],
            data_collator=lambda rows: collator.plain([Row(**row) for row in rows]),
            compute_loss_context_manager=self.compute_loss_context_manager,
            is_fsdp_enabled=self.is_fsdp_enabled,
            is_deepspeed_enabled=self.is_deepspeed_enabled,
        )

    def _note(self, losses: Losses, n: int) -> None:
        for name, value in losses.numbers().items():
            self._parts.setdefault(name, []).append((value.float(), n))

    def _means(self) -> dict[str, float]:
        """Mean of each part over examples, as `Trainer` weighs the whole, and over processes."""
        means = {
            name: torch.stack([value * n for value, n in values]).sum() / sum(n for _, n in values)
            for name, values in sorted(self._parts.items())
        }
        return {name: float(self.accelerator.gather(value[None]).mean()) for name, value in means.items()}


def make_trainer(
    tunable: Tunable,
    train: Sequence[Row],
    validation: Sequence[Row],
    recipe: CalrecRecipe,
    folder: Path,
    hardware: Hardware,
    ranking: RankingCheck | None,
    *,
    title: str,
) -> CalrecTrainer:
    """The trainer of one stage.

    Args:
        tunable: model and tokenizer.
        train: rows to learn.
        validation: rows whose losses are watched.
        recipe: all settings.
        folder: of checkpoints and logs.
        hardware: device and number type.
        ranking: measured at every evaluation, and what chooses the checkpoint; None chooses by loss.
        title: in the progress bar.
    """
    steps = max(1, recipe.epochs * -(-len(train) // recipe.batch_size))
    settings = trainer_settings(recipe, folder=folder, steps=steps, watch=True, hardware=hardware)
    arguments = TrainingArguments(
        **settings
        | {
            "metric_for_best_model": "eval_loss" if ranking is None else "eval_ndcg10",
            "greater_is_better": ranking is not None,
            "eval_on_start": True,  # what the training gains is seen in its own curve
            "prediction_loss_only": True,
            "remove_unused_columns": False,
            "label_names": ["labels"],
        }
    )
    objective = recipe.objective
    trainer = CalrecTrainer(
        objective=Objective(
            objective.alpha, objective.beta, objective.temperature, objective.axis, objective.mask_duplicates
        ),
        micro_batch=recipe.micro_batch,
        ranking=ranking,
        model=tunable.model,
        args=arguments,
        train_dataset=list(train),
        eval_dataset=list(validation),
        processing_class=tunable.tokenizer,
        data_collator=CalrecCollator(padding_token(tunable.tokenizer), side=recipe.padding_side),
        callbacks=callbacks_of(title),
    )
    trainer.pop_callback(PrinterCallback)
    return trainer


def padding_token(tokenizer: Any) -> int:
    """A token for places that are masked and carry no loss; Llama and Mistral name none."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def curve(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Logged rows in plain names: losses in nats, NDCG@10, Recall@10; `validation_` before those of validation rows.

    A resumed run measures the step that it goes on from once more; the first measurement stands.
    """
    parts = ("next_item", "target_target", "user_target")
    names = {"loss": "loss", "eval_loss": "validation_loss"} | {part: part for part in parts}
    names |= {f"eval_{part}": f"validation_{part}" for part in (*parts, "ndcg10", "recall10")}
    rows: dict[tuple[float, bool], dict[str, float]] = {}
    for row in history:
        found = {names[name]: float(value) for name, value in row.items() if name in names}
        if found:
            step, measured = float(row["step"]), any(name.startswith("validation_") for name in found)
            rows.setdefault((step, measured), {"step": step, **found})
    return list(rows.values())


def validation_of(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Of a curve: lowest validation loss in training, NDCG@10 before the first step and at its best in training.

    The kept checkpoint is one of the training's even where the start was better; None is not measured.
    """
    trained = [row for row in rows if row["step"] > 0]
    losses = [row["validation_loss"] for row in trained if "validation_loss" in row]
    ranked = [row["validation_ndcg10"] for row in trained if "validation_ndcg10" in row]
    before = [row["validation_ndcg10"] for row in rows if row["step"] == 0 and "validation_ndcg10" in row]
    return {
        "best": min(losses, default=None),
        "ndcg10_before": before[0] if before else None,
        "ndcg10_best": max(ranked, default=None),
    }
