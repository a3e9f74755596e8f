"""transformers' Trainer with a fresh LoRA adapter over rows of whole examples: for recipes whose examples are short."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.training.packed_examples import pack_examples
from llmrec.training.trainer_settings import lora_settings, trainer_settings

if TYPE_CHECKING:
    from llmrec.lm.hardware import Hardware
    from llmrec.training.examples import Encoded
    from llmrec.training.recipe import Recipe
    from llmrec.training.sft import SftData


def make_packed_trainer(
    model: Any, tokenizer: Any, data: SftData, recipe: Recipe, folder: Path, hardware: Hardware, **lora: Any
) -> Any:
    """The trainer of a recipe, on a frozen backbone.

    Args:
        model: the backbone.
        tokenizer: names the padding behind the last example of a row.
        data: examples of at most `recipe.max_tokens`.
        recipe: settings; a step takes `batch_size` rows.
        folder: of checkpoints and logs.
        hardware: device and number type.
        lora: more arguments of peft's `LoraConfig`, such as trainable_token_indices.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    from llmrec.training.callbacks import callbacks_of
    from llmrec.training.loop import compile_layers

    pad = int(tokenizer.pad_token_id or 0)  # behind the examples, where no token carries loss
    rows, watch = _rows_of(data.train, recipe, pad), bool(data.validation)
    steps = max(1, recipe.epochs * len(rows) // (recipe.batch_size * recipe.gradient_accumulation))
    arguments = TrainingArguments(
        **trainer_settings(recipe, folder=folder, steps=steps, watch=watch, hardware=hardware),
        remove_unused_columns=False,
        label_names=["labels"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        wrapped = get_peft_model(model, LoraConfig(**lora_settings(recipe), **lora, task_type="CAUSAL_LM"))
    model.config.use_cache = False  # packed rows are masked by their position ids only where there is no cache
    if hardware.compile:
        compile_layers(model)
    trainer = Trainer(
        model=wrapped,
        args=arguments,
        train_dataset=rows,
        eval_dataset=_rows_of(data.validation, recipe, pad) if watch else None,
        callbacks=callbacks_of(f"adapter {recipe.role}"),
    )
    trainer.pop_callback(PrinterCallback)
    return trainer


def _rows_of(encoded: Sequence[Encoded], recipe: Recipe, pad: int) -> Any:
    """A `datasets.Dataset` of packed rows."""
    import datasets

    packed = pack_examples(encoded, length=recipe.max_tokens, pad=pad)
    return datasets.Dataset.from_dict({name: list(values) for name, values in packed._asdict().items()})
