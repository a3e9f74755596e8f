"""The training loop of nano: transformers' Trainer over packed blocks, with a time estimate and resume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from llmrec.training.callbacks import callbacks_of
from llmrec.training.run_folder import last_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmrec.lm.hardware import Hardware


class Blocks(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Packed blocks as a dataset; every token is input and label."""

    def __init__(self, blocks: npt.NDArray[np.int32]) -> None:
        self.blocks = torch.from_numpy(blocks.astype(np.int64))

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.blocks[index], "labels": self.blocks[index]}


def run_trainer(
    model: PreTrainedModel,
    blocks: npt.NDArray[np.int32],
    *,
    folder: Path,
    hardware: Hardware,
    blocks_per_step: int,
    learning_rate: float,
    seed: int,
    title: str,
) -> list[dict[str, float]]:
    """One pass over the blocks; resumes from the newest checkpoint in `folder`.

    Returns:
        The learning curve: step, tokens, loss (nats per token), learning_rate.
    """
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    steps = len(blocks) // blocks_per_step
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=blocks_per_step,
        num_train_epochs=1,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=max(1, steps // 25),
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        bf16=hardware.dtype == torch.bfloat16,
        use_cpu=hardware.device == "cpu",
        dataloader_drop_last=True,  # one shape, one compilation
        logging_steps=max(1, steps // 60),
        logging_nan_inf_filter=False,
        save_steps=max(20, steps // 6),
        save_total_limit=1,
        report_to=["tensorboard"],
        disable_tqdm=True,
        seed=seed % 2**31,
        data_seed=seed % 2**31,
    )
    if hardware.compile:
        compile_layers(model)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Blocks(blocks),
        callbacks=callbacks_of(title, tokens_per_step=blocks_per_step * blocks.shape[1]),
    )
    trainer.pop_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    return learning_curve(trainer.state.log_history, tokens_per_step=blocks_per_step * blocks.shape[1])


_GRAPHS = 32
"""Of one layer: training, checks and validation have batches of several shapes, with gradients and without. Above its
limit, which is 8 as it comes, torch runs the layer as it is and says so in five lines."""


def compile_layers(model: Any) -> None:
    """Compile each decoder layer in place: one small graph serves all layers, where the whole model takes minutes."""
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, _GRAPHS)
    for layer in getattr(model.get_decoder(), "layers", ()):  # GPT-2 calls them otherwise: it runs as it is
        layer.compile()


def learning_curve(history: list[dict[str, float]], *, tokens_per_step: int) -> list[dict[str, float]]:
    """Logged losses as plain rows."""
    return [
        {
            "step": float(row["step"]),
            "tokens": float(row["step"] * tokens_per_step),
            "loss": float(row["loss"]),
            "learning_rate": float(row["learning_rate"]),
        }
        for row in history
        if "loss" in row
    ]
