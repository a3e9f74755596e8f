"""The trainer of CALRec: plain fine-tuning as a special case, GradCache, selection, curves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from llmrec.errors import ConfigError
from llmrec.training.calrec.contrastive import Objective, next_item_loss
from llmrec.training.calrec.data import CalrecCollator, Row
from llmrec.training.calrec.trainer import CalrecTrainer, curve, padding_token, validation_of
from llmrec.training.calrec.validation import RankingCheck
from llmrec.training.examples import IGNORED
from tests.training.tiny import PAD, rows, tiny_model

PLAIN = Objective(0.0, 0.0, 0.5)
FULL = Objective(0.3, 0.2, 0.5)


def _arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 0.01,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "prediction_loss_only": True,
        "logging_steps": 1,
    }
    return TrainingArguments(**settings | changes)


def _trained(objective: Objective, folder: Path, *, micro_batch: int | None = None, **changes: Any) -> dict[str, Any]:
    trainer = CalrecTrainer(
        objective=objective,
        micro_batch=micro_batch,
        model=tiny_model(),
        args=_arguments(folder, **changes),
        train_dataset=rows(10),
        data_collator=CalrecCollator(PAD),
    )
    trainer.train()
    return {"weights": trainer.model.state_dict(), "rows": curve(trainer.state.log_history)}


def test_without_contrastive_terms_it_is_plain_fine_tuning_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against transformers' own Trainer on the joint sequences, with the loss of the targets; six steps of AdamW."""

    def collate(given: list[Row]) -> dict[str, Any]:
        batch = CalrecCollator(PAD)(given)
        first = int((batch["labels"] != IGNORED).any(dim=0).int().argmax())
        return {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "position_ids": (batch["attention_mask"].cumsum(dim=1) - 1).clamp_min(0),
            "labels": batch["labels"],
            "logits_to_keep": batch["labels"].shape[1] - first + 1,
            "use_cache": False,
        }

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return next_item_loss(outputs.logits, labels[:, -outputs.logits.shape[1] :])

    stock = Trainer(
        model=tiny_model(),
        args=_arguments(tmp_path),
        train_dataset=rows(10),
        data_collator=collate,
        compute_loss_func=loss,
    )
    stock.train()
    passes: list[int] = []
    forward = type(stock.model).forward

    def counted(*arguments: Any, **keywords: Any) -> Any:
        passes.append(1)
        return forward(*arguments, **keywords)

    monkeypatch.setattr(type(stock.model), "forward", counted)
    own = _trained(PLAIN, tmp_path)
    assert len(passes) == 6  # a second pass over the targets would make it twelve
    for name, weight in stock.model.state_dict().items():
        assert torch.equal(weight, own["weights"][name]), name
    other = _trained(FULL, tmp_path)["weights"]
    assert any(not torch.equal(other[name], own["weights"][name]) for name in other)


def test_gradcache_trains_as_the_large_batch_does(tmp_path: Path) -> None:
    """Six steps of plain gradient descent, chunks of 3 and 1: weights within 1e-5, and the same logged losses."""
    large = _trained(FULL, tmp_path, optim="sgd", learning_rate=0.1)
    small = _trained(FULL, tmp_path, optim="sgd", learning_rate=0.1, micro_batch=3)
    start = tiny_model().state_dict()
    for name, weight in large["weights"].items():
        assert (weight - small["weights"][name]).abs().max().item() < 1e-5, name
    assert max((large["weights"][name] - start[name]).abs().max().item() for name in start) > 1e-3
    assert len(large["rows"]) == len(small["rows"]) == 6
    for first, second in zip(large["rows"], small["rows"], strict=True):
        assert {"loss", "next_item", "target_target", "user_target"} < first.keys()
        assert second == pytest.approx(first, abs=1e-4)
        parts = 0.5 * first["next_item"] + 0.3 * first["target_target"] + 0.2 * first["user_target"]
        assert first["loss"] == pytest.approx(parts, abs=1e-4)


class _Told(RankingCheck):
    """Says figures that it was given."""

    def __init__(self, figures: list[float]) -> None:
        self.figures = figures

    def measure(self, model: Any, tokenizer: Any) -> dict[str, float]:
        return {"ndcg10": self.figures.pop(0)}


def test_the_checkpoint_with_the_best_ndcg_is_kept(tmp_path: Path) -> None:
    """Six steps, looked at before them and every two; the best is that of step 4, though losses still fall."""
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    best = {"metric_for_best_model": "eval_ndcg10", "greater_is_better": True, "load_best_model_at_end": True}
    trainer = CalrecTrainer(
        objective=FULL,
        ranking=_Told([0.9, 0.1, 0.5, 0.2]),
        model=tiny_model(),
        args=_arguments(tmp_path, eval_on_start=True, **settings, **best),
        train_dataset=rows(10),
        eval_dataset=rows(4, seed=1),
        data_collator=CalrecCollator(PAD),
    )
    trainer.train()
    assert trainer.state.best_metric == 0.5
    assert str(trainer.state.best_model_checkpoint).endswith("checkpoint-4")
    found = curve(trainer.state.log_history)
    assert [row["validation_ndcg10"] for row in found if "validation_ndcg10" in row] == [0.9, 0.1, 0.5, 0.2]
    assert validation_of(found)["ndcg10_before"] == 0.9
    assert validation_of(found)["ndcg10_best"] == 0.5
    assert {"validation_loss", "validation_next_item", "validation_target_target"} < found[0].keys()


def test_the_parts_of_the_validation_loss_add_up_over_batches_of_two_sizes(tmp_path: Path) -> None:
    """Six rows in batches of four."""
    trainer = CalrecTrainer(
        objective=FULL,
        model=tiny_model(),
        args=_arguments(tmp_path, per_device_eval_batch_size=4),
        eval_dataset=rows(6, seed=1),
        data_collator=CalrecCollator(PAD),
    )
    found = trainer.evaluate()
    parts = [found[f"eval_{name}"] for name in ("next_item", "target_target", "user_target")]
    assert found["eval_loss"] == pytest.approx(0.5 * parts[0] + 0.3 * parts[1] + 0.2 * parts[2], abs=1e-4)


def test_a_step_that_was_measured_twice_is_drawn_once() -> None:
    """As the step that a resumed run goes on from."""
    history = [
        {"step": 2, "eval_loss": 1.0, "eval_ndcg10": 0.5},
        {"step": 2, "loss": 1.5},
        {"step": 2, "eval_loss": 9.0, "eval_ndcg10": 0.1},
        {"step": 4, "eval_loss": 0.5},
    ]
    assert curve(history) == [
        {"step": 2.0, "validation_loss": 1.0, "validation_ndcg10": 0.5},
        {"step": 2.0, "loss": 1.5},
        {"step": 4.0, "validation_loss": 0.5},
    ]


def test_ranking_under_fsdp_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes would run different numbers of forward passes and wait for each other for ever."""
    init = Trainer.__init__

    def as_fsdp(self: Any, **arguments: Any) -> None:
        init(self, **arguments)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(Trainer, "__init__", as_fsdp)
    with pytest.raises(ConfigError, match="select=loss"):
        CalrecTrainer(
            objective=FULL, ranking=_Told([]), model=tiny_model(), args=_arguments(tmp_path), train_dataset=rows(4)
        )


@pytest.mark.parametrize(("pad", "wanted"), [(3, 3), (0, 0), (None, 2)])
def test_a_tokenizer_without_padding_is_padded_with_its_end(pad: int | None, wanted: int) -> None:
    """As those of Llama and Mistral; padded places are masked and carry no loss."""
    assert padding_token(SimpleNamespace(pad_token_id=pad, eos_token_id=2)) == wanted
