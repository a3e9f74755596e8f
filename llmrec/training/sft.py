"""Supervised fine-tuning of one LoRA adapter with TRL; `finetune/sft.py` is the script around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmrec.errors import DataError
from llmrec.seeding import rng
from llmrec.training.corpus import Material, stream
from llmrec.training.examples import Encoded, encode, fits, supervised_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.lm.hardware import Hardware
    from llmrec.lm.pretrained import Loaded
    from llmrec.training.recipe import MixRecipe


VALIDATION_SHARE = 0.1
"""Share of users whose examples are for validation alone."""


class SftData(NamedTuple):
    """Encoded examples."""

    train: list[Encoded]
    validation: list[Encoded]
    n_longer: int
    """Examples left out because they exceed max_tokens."""


def build_data(dataset: Dataset, split: Split, recipe: MixRecipe, tokenizer: PreTrainedTokenizerBase) -> SftData:
    """Examples for training and validation, from different users.

    Raises:
        DataError: every example is longer than max_tokens.
    """
    train: list[Encoded] = []
    validation: list[Encoded] = []
    n_longer = 0
    parts = zip(
        (validation, train), (recipe.validation_examples, recipe.examples), user_parts(split, recipe), strict=True
    )
    for target, wanted, users in parts:
        material = Material(dataset, users, recipe.history_items)
        for kind, share in recipe.data.items():
            n = round(share * wanted)
            if n == 0:
                continue
            source = stream(kind, material, rng(recipe.seed, "sft", recipe.role, kind, wanted))
            kept, longer = fits((encode(next(source), tokenizer) for _ in range(n)), max_tokens=recipe.max_tokens)
            target += kept
            n_longer += longer
    if not train or supervised_tokens(train) == 0:
        raise DataError(
            f"no training example fits into max_tokens={recipe.max_tokens}; raise it or shorten history_items"
        )
    order = rng(recipe.seed, "sft", "order").permutation(len(train))
    return SftData([train[int(index)] for index in order], validation, n_longer)


def user_parts(split: Split, recipe: MixRecipe) -> tuple[Split, Split]:
    """The split twice: with the training events of the validation users alone, and with those of all others."""
    train = split.train
    users = np.flatnonzero(train.lengths() >= 2)
    if not recipe.validation_examples:
        return split, split
    if len(users) < 2:
        raise DataError(
            "validation examples need at least two users with two training events; set validation_examples=0"
        )
    n_watched = max(1, round(VALIDATION_SHARE * len(users)))
    watched = np.zeros(train.n_users, dtype=np.bool_)
    watched[rng(recipe.seed, "sft", "validation users").permutation(users)[:n_watched]] = True
    of_watched = watched[train.user_index()]
    return replace(split, train=train.select(of_watched)), replace(split, train=train.select(~of_watched))


def as_columns(encoded: Sequence[Encoded]) -> Any:
    """A `datasets.Dataset` with input_ids and labels."""
    import datasets

    return datasets.Dataset.from_dict(
        {"input_ids": [one.input_ids for one in encoded], "labels": [one.labels for one in encoded]}
    )


def make_trainer(
    model: Any, tokenizer: PreTrainedTokenizerBase, data: SftData, recipe: MixRecipe, folder: Path, hardware: Hardware
) -> Any:
    """TRL's SFTTrainer over pre-tokenised examples, with a fresh LoRA adapter on a frozen backbone."""
    from peft import LoraConfig
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig

    from llmrec.training.callbacks import callbacks_of
    from llmrec.training.grouped import GroupedSftTrainer
    from llmrec.training.trainer_settings import lora_settings, trainer_settings

    steps = max(1, recipe.epochs * len(data.train) // (recipe.batch_size * recipe.gradient_accumulation))
    watch = bool(data.validation)
    arguments = SFTConfig(
        **trainer_settings(recipe, folder=folder, steps=steps, watch=watch, hardware=hardware),
        max_length=None,
    )
    lora = LoraConfig(
        **lora_settings(recipe),
        task_type="CAUSAL_LM",
    )
    trainer = GroupedSftTrainer(
        model=model,
        args=arguments,
        train_dataset=as_columns(data.train),
        eval_dataset=as_columns(data.validation) if watch else None,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=callbacks_of(f"adapter {recipe.role}"),
    )
    trainer.pop_callback(PrinterCallback)
    return trainer


def curve(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Training and validation losses as plain rows: step, and loss or validation_loss.

    In nats per supervised token; validation losses are the mean over batches, as transformers takes it.
    """
    rows = []
    for row in history:
        if "loss" in row:
            rows.append({"step": float(row["step"]), "loss": float(row["loss"])})
        elif "eval_loss" in row:
            rows.append({"step": float(row["step"]), "validation_loss": float(row["eval_loss"])})
    return rows


def facts_of(dataset: Dataset, base: Loaded, data: SftData, rows: list[dict[str, float]]) -> dict[str, Any]:
    """What every record of a training tells: names, numbers of examples and learnt tokens, lowest validation loss."""
    return {
        "dataset": dataset.name,
        "base": base.name,
        "n_train": len(data.train),
        "n_validation": len(data.validation),
        "n_longer": data.n_longer,
        "n_supervised": supervised_tokens(data.train),
        "best": first_and_best(rows)["best_validation_loss"],
    }


def first_and_best(rows: list[dict[str, float]]) -> dict[str, float | None]:
    """First training loss and lowest validation loss of a curve; None for what was not measured."""
    losses = [row["loss"] for row in rows if "loss" in row]
    validation = [row["validation_loss"] for row in rows if "validation_loss" in row]
    return {"first_loss": losses[0] if losses else None, "best_validation_loss": min(validation, default=None)}
