"""Direct preference optimisation of a LoRA adapter (Rafailov et al., NeurIPS 2023, arXiv 2305.18290, equation 7).

    L = -E log sigmoid(beta [(log pi - log ref)(chosen) - (log pi - log ref)(rejected)])

over completion tokens alone, end token included. The reference is the backbone with the adapter off, or, where the
policy goes on from an adapter (supervised start, an earlier stage of Curri-DPO), a frozen copy of that adapter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llmrec.errors import DataError
from llmrec.lm.adapters import content_hash
from llmrec.lm.codec import TokenCodec
from llmrec.training.backbone import load_for_training
from llmrec.training.checks.frozen import check_frozen, frozen_digest
from llmrec.training.checks.gradient import check_gradients
from llmrec.training.checks.suite import Checks, in_pieces
from llmrec.training.lettingo.pairs import Pair
from llmrec.training.lettingo.prompts import Prompt, Style
from llmrec.training.run_folder import last_checkpoint, read_record, write_record

if TYPE_CHECKING:
    from llmrec.lm.hardware import Hardware
    from llmrec.training.lettingo.recipe import LettingoRecipe
    from llmrec.training.recipe import Recipe

POLICY = "policy"
"""Folder of a finished stage's adapter, beside its checkpoints."""
REFERENCE = "ref"
"""TRL's name of the frozen copy of the adapter that a policy goes on from."""
_RECORD = "stage.json"


class PairRows(NamedTuple):
    """Tokenised pairs."""

    rows: list[dict[str, list[int]]]
    """prompt_ids, chosen_ids and rejected_ids."""
    n_longer: int
    """Pairs left out because prompt and longer completion exceed max_tokens."""


class Policy(NamedTuple):
    """A model whose adapter is to be aligned."""

    model: Any
    """A PeftModel with the trainable adapter "default", or the bare model where the adapter is new."""
    tokenizer: Any
    name: str
    """Backbone and digest of its weights."""


class StageData(NamedTuple):
    """Pairs of one stage."""

    train: list[dict[str, list[int]]]
    validation: list[dict[str, list[int]]]


def load_policy(recipe: Recipe, hardware: Hardware, *, start: Path | None) -> Policy:
    """A backbone with a trainable copy of an adapter, or bare.

    Args:
        recipe: names the backbone.
        hardware: where to and in which number type.
        start: adapter folder to go on from; None gives the bare backbone.
    """
    base = load_for_training(recipe, hardware)
    if start is None:
        return Policy(base.model, base.tokenizer, base.name)
    from peft import PeftModel

    model = PeftModel.from_pretrained(base.model, str(start), is_trainable=True)
    return Policy(model, base.tokenizer, base.name)


def encode_pairs(
    pairs: Sequence[Pair],
    asked: Mapping[int, Prompt],
    policy: Policy,
    *,
    style: Style,
    max_tokens: int,
    needed: bool = True,
) -> PairRows:
    """Token ids of pairs, prompt and completion tokenised apart, as inference does.

    Args:
        pairs: of users in `asked`.
        asked: each user's prompt to the writer.
        policy: has the tokenizer.
        style: raw completions begin with a space, chat completions do not.
        max_tokens: of prompt and completion together.
        needed: whether nothing can be done without one of them.

    Raises:
        DataError: every pair is longer, and they are needed.
    """
    n_vocabulary = int(policy.model.get_output_embeddings().weight.shape[0])
    codec = TokenCodec(policy.model, policy.tokenizer, n_vocabulary=n_vocabulary, name=policy.name)
    end = [int(policy.tokenizer.eos_token_id)]
    before = " " if style == "raw" else ""
    rows, longer = [], 0
    for pair in pairs:
        prompt = list(codec.prompt(asked[pair.user]))
        chosen, rejected = (list(codec.encode(before + text)) + end for text in (pair.chosen, pair.rejected))
        if len(prompt) + max(len(chosen), len(rejected)) > max_tokens:
            longer += 1
        else:
            rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    if needed and pairs and not rows:
        raise DataError(f"none of {len(pairs)} pairs fits into max_tokens={max_tokens}; raise it or show fewer items")
    return PairRows(rows, longer)


def tokens_with_loss(rows: Sequence[Mapping[str, Sequence[int]]], method: Literal["dpo", "sft"]) -> int:
    """Tokens of these pairs that the objective scores, ends included: sft learns the chosen profiles alone."""
    learnt = ("chosen_ids",) if method == "sft" else ("chosen_ids", "rejected_ids")
    return sum(len(row[name]) for row in rows for name in learnt)


def profile_lengths(rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, float]:
    """Mean tokens of the chosen and of the rejected profiles, without ends: an objective that prefers one of two
    lengths teaches length."""
    n = max(len(rows), 1)
    return {side: sum(len(row[f"{side}_ids"]) - 1 for row in rows) / n for side in ("chosen", "rejected")}


def stage_key(number: int, n_stages: int, data: StageData, start: Path | None) -> str:
    """Identifies a stage beside recipe, backbone and dataset: its pairs as they are learnt, and the adapter it goes on
    from. Engines do not answer alike forever, so that the same recipe may have other pairs.

    Args:
        number: of the stage, from 1.
        n_stages: of the training.
        data: tokenised pairs.
        start: adapter folder; None is the bare backbone.
    """
    text = json.dumps([data.train, data.validation, None if start is None else content_hash(start)])
    return f"{number} of {n_stages} {hashlib.sha256(text.encode()).hexdigest()}"


def make_dpo_trainer(
    policy: Policy, data: StageData, recipe: LettingoRecipe, folder: Path, hardware: Hardware, *, title: str = "profile"
) -> Any:
    """TRL's trainer over tokenised pairs; the reference is what the policy is now.

    Args:
        policy: changed in place.
        data: tokenised pairs; without validation rows nothing is watched and the last adapter is kept.
        recipe: objective, schedule and LoRA.
        folder: of checkpoints.
        hardware: device and number type.
        title: of the progress line.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers.trainer_callback import PrinterCallback
    from trl import DPOConfig

    from llmrec.training.callbacks import callbacks_of
    from llmrec.training.lettingo.dpo_trainer import PairTrainer
    from llmrec.training.trainer_settings import lora_settings, trainer_settings

    dpo, watch = recipe.dpo, bool(data.validation)
    steps = max(1, recipe.epochs * len(data.train) // (recipe.batch_size * recipe.gradient_accumulation))
    losses = {"sft": 1.0} if dpo.method == "sft" else {"sigmoid": 1.0, "sft": dpo.sft_weight}
    losses = {name: weight for name, weight in losses.items() if weight}
    arguments = DPOConfig(
        **trainer_settings(recipe, folder=folder, steps=steps, watch=watch, hardware=hardware),
        beta=dpo.beta,
        loss_type=list(losses),
        loss_weights=list(losses.values()),
        max_length=None,  # pairs that are too long were left out and counted
        eval_on_start=watch,
    )
    fresh = not hasattr(policy.model, "peft_config")
    trainer = PairTrainer(
        model=policy.model,
        args=arguments,
        train_dataset=Dataset.from_list(data.train),
        eval_dataset=Dataset.from_list(data.validation) if watch else None,
        processing_class=policy.tokenizer,
        peft_config=LoraConfig(**lora_settings(recipe), task_type="CAUSAL_LM") if fresh else None,
        callbacks=callbacks_of(title),
    )
    for name, parameter in trainer.model.named_parameters():
        if f".{REFERENCE}." in name:
            parameter.requires_grad_(False)
    trainer.pop_callback(PrinterCallback)
    return trainer


def set_reference(model: Any, start: Path | None) -> None:
    """Make an earlier adapter the reference instead of a copy of the policy.

    Args:
        model: of a trainer of `make_dpo_trainer` whose policy went on from an adapter.
        start: adapter folder; None makes the backbone without adapter the reference.
    """
    from peft import load_peft_weights, set_peft_model_state_dict

    if start is None:
        model.delete_adapter(REFERENCE)
        return
    set_peft_model_state_dict(model, load_peft_weights(str(start), device="cpu"), adapter_name=REFERENCE)


def train_stage(
    trainer: Any, folder: Path, *, beta: float, first_step: int = 0, checks: Checks | None = None
) -> list[dict[str, float]]:
    """Train one stage between its self-checks, resume it where it was killed, and keep its adapter in `folder`/policy.

    Args:
        trainer: of `make_dpo_trainer`.
        folder: of checkpoints.
        beta: of the objective.
        first_step: steps of earlier stages.
        checks: takes what the checks find.

    Returns:
        Its curve (`llmrec.training.lettingo.dpo_trainer.preference_curve`).

    Raises:
        ModelError: gradients do not reach the adapter alone, or backbone or reference moved.
    """
    from llmrec.training.lettingo.dpo_trainer import preference_curve

    checks = Checks() if checks is None else checks
    model, few = trainer.model, [trainer.train_dataset[place] for place in range(min(2, len(trainer.train_dataset)))]
    checks.run("gradients", lambda: check_gradients(model, lambda: trainer.probe(few)))
    digests = {adapter: frozen_digest(model, adapter) for adapter in fixed_parts(model)}
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    checks.run("frozen", lambda: _compare(trainer, digests))
    rows = preference_curve(trainer.state.log_history, beta=beta, first_step=first_step)
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.save_pretrained(str(folder / POLICY), selected_adapters=["default"])
        write_record(folder / _RECORD, FinishedStage(rows, checks.record)._asdict())
    trainer.accelerator.wait_for_everyone()
    return rows


def fixed_parts(model: Any) -> tuple[str | None, ...]:
    """What must not move: the backbone (None) and, where the reference is an adapter, that one."""
    return (None, REFERENCE) if REFERENCE in model.peft_config else (None,)


def _compare(trainer: Any, digests: Mapping[str | None, str]) -> dict[str, Any]:
    compared = not in_pieces(trainer)
    for adapter, before in digests.items():
        if compared:
            check_frozen(trainer.model, before, adapter)
    return {"digest": digests[None], "reference": digests.get(REFERENCE), "compared": compared}


class FinishedStage(NamedTuple):
    """What a stage leaves beside its adapter."""

    curve: list[dict[str, float]]
    checks: dict[str, dict[str, Any]]
    """What its self-checks found."""


def finished_stage(folder: Path) -> FinishedStage | None:
    """A stage that was finished before; None where it was not."""
    record = read_record(folder / _RECORD)
    return None if record is None else FinishedStage(**record)
