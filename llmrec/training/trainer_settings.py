"""What the trainers of all recipes share: schedule, checkpoints, logs, seeds, and the shape of LoRA."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.errors import ConfigError
from llmrec.training.recipe import Recipe

if TYPE_CHECKING:
    from llmrec.lm.hardware import Hardware


def trainer_settings(recipe: Recipe, *, folder: Path, steps: int, watch: bool, hardware: Hardware) -> dict[str, Any]:
    """What every recipe's trainer shares, as arguments of transformers' `TrainingArguments` and its children.

    Args:
        folder: of checkpoints and logs.
        steps: optimiser steps of the whole training.
        watch: measure the validation loss on the way and keep the best adapter.
        hardware: device and number type.
    """
    import torch

    every = max(1, steps // recipe.evaluations)
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": batch_share(recipe.batch_size),
        "per_device_eval_batch_size": batch_share(recipe.batch_size),
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "num_train_epochs": recipe.epochs,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": int(recipe.warmup_fraction * steps),
        "weight_decay": recipe.weight_decay,
        "activation_checkpointing": recipe.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False} if recipe.gradient_checkpointing else None,
        "ddp_find_unused_parameters": False,  # the self-checks refuse a weight that no gradient reaches
        "bf16": hardware.dtype == torch.bfloat16,
        "use_cpu": hardware.device == "cpu",
        "logging_steps": max(1, steps // 40),
        "logging_nan_inf_filter": False,  # a loss that is no number is shown, and ends the training
        "eval_strategy": "steps" if watch else "no",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 2,
        "load_best_model_at_end": watch,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "report_to": ["tensorboard"],
        "disable_tqdm": True,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
    }


def batch_share(batch_size: int) -> int:
    """One process's part of a batch, so that a run on several processes takes the same steps as a run on one.

    Raises:
        ConfigError: the batch cannot be divided among the processes that `accelerate launch` started.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if batch_size % processes:
        raise ConfigError(
            f"batch_size must be a multiple of the number of processes ({processes}), got {batch_size!r}; it counts "
            "the examples of all processes together"
        )
    return batch_size // processes


def lora_settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's LoRA, as arguments of peft's `LoraConfig`."""
    lora = recipe.lora
    return {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": lora.target_modules,
    }
