"""The two stages of CALRec: what is trained, what a finished stage leaves, and that it serves what it trained."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmrec.errors import ConfigError, ModelError
from llmrec.lm.adapters import check_adapter, content_hash
from llmrec.lm.codec import TokenCodec
from llmrec.retrieval.calrec import CalrecConfig, CalrecRecommender
from llmrec.training.backbone import load_for_training
from llmrec.training.calrec.data import Domain, Form, make_row, sampled_targets
from llmrec.training.calrec.domain import domain_recipe, with_shared_inside
from llmrec.training.folders import STAGE_RECORD
from llmrec.training.listener import Listener
from llmrec.training.run_folder import read_record, write_record
from llmrec.training.trainer_settings import lora_settings

if TYPE_CHECKING:
    from llmrec.lm.hardware import Hardware
    from llmrec.training.calrec.recipe import CalrecRecipe, Stage

_COMPARED = 4  # users whose prompts are compared


class Tunable(NamedTuple):
    """A model with weights to train."""

    model: Any
    tokenizer: Any
    base_name: str
    codec: TokenCodec
    """Reads prompts as the engine does that serves the model."""


def load_tunable(recipe: CalrecRecipe, hardware: Hardware, *, start: Path | None) -> Tunable:
    """The backbone with a LoRA adapter, or with all weights open.

    Args:
        recipe: backbone and kind of tuning.
        hardware: device and number type.
        start: what an earlier stage left: an adapter folder, or with full tuning a model folder; None begins anew. A
            domain's adapter stands on it and leaves it as it is.

    Raises:
        ModelNotFoundError: backbone or adapter is missing or damaged.
        ConfigError: the adapter was made for another backbone, or has another shape than the recipe says.
    """
    full = recipe.tuning == "full"
    source = recipe.model_copy(update={"backbone": str(start)}) if full and start is not None else recipe
    base = load_for_training(source, hardware)
    width = int(base.model.get_output_embeddings().weight.shape[0])
    codec = TokenCodec(base.model, base.tokenizer, n_vocabulary=width, name=base.name)
    if full:
        model = base.model.float().requires_grad_(True)  # half-precision weights would lose small updates
    elif start is None:
        model = _fresh_adapter(base.model, recipe)
    else:
        check_adapter(recipe.role, start, base_content_hash=base.content_hash)
        if recipe.tuning == "domain":
            inside = with_shared_inside(base.model, start)
            model = _fresh_adapter(inside, domain_recipe(recipe, inside))
        else:
            _check_shape(recipe, start)
            model = _adapter_of(base.model, start)
    return Tunable(model, base.tokenizer, base.name, codec)


def _fresh_adapter(model: Any, recipe: CalrecRecipe) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return get_peft_model(model, LoraConfig(**lora_settings(recipe), task_type="CAUSAL_LM"))


def _check_shape(recipe: CalrecRecipe, folder: Path) -> None:
    """An adapter that is trained further keeps its shape, so a recipe that says another one would not be true."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    found, wanted = (config["r"], config["lora_alpha"]), (recipe.lora.rank, recipe.lora.alpha)
    if found != wanted:
        raise ConfigError(
            f"the adapter in {folder} has rank {found[0]} and alpha {found[1]}, and the recipe says {wanted[0]} and "
            f"{wanted[1]}; a stage keeps the shape of the one before: set lora.rank={found[0]}, lora.alpha={found[1]}"
        )


def _adapter_of(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder), is_trainable=True)


def stage_folder(recipe: CalrecRecipe, stage: Stage) -> Path:
    """Where a stage leaves its weights: the output itself for the last one."""
    output = Path(recipe.output)
    return output if stage == recipe.stage_names[-1] else output / f"stage-{stage}"


def stage_key(checkpoints: Path, start: Path | None) -> str:
    """Identifies a stage: recipe, backbone and data, which name its checkpoints, and the weights it starts from."""
    text = f"{checkpoints.name} {'' if start is None else content_hash(start)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finished_stage(folder: Path, key: str) -> dict[str, Any] | None:
    """Curve and facts of a stage that is complete in its folder; None where it must be run."""
    record = read_record(folder / STAGE_RECORD)
    return record if record is not None and record.get("key") == key else None


def mark_finished(folder: Path, key: str, *, curve: Sequence[dict[str, float]], facts: dict[str, Any]) -> None:
    """Write what `finished_stage` reads, after the weights."""
    record = {"key": key, "curve": list(curve), "facts": facts}
    write_record(folder / STAGE_RECORD, record)


def check_prompts(domains: Sequence[Domain], form: Form, *, seed: int) -> dict[str, Any]:
    """Rows begin with the very tokens that the recommender asks its engine with.

    Rows that lost items to `max_tokens` are left out: serving shortens by items alone.

    Raises:
        ModelError: a prompt differs.
    """
    compared = 0
    for domain in domains:
        listener = Listener()
        recommender = CalrecRecommender(listener, config=CalrecConfig(history_items=form.history_items, samples=1))
        recommender.index_catalogue(domain.dataset.catalogue)
        for user, target in sampled_targets(domain, _COMPARED, seed=seed, key="prompts"):
            history = domain.split.history(user, "validation")
            row = make_row(domain, history, target, form)
            if row is None or row.n_items < min(len(history), form.history_items):
                continue
            asyncio.run(recommender.complete(history))
            if tuple(row.input_ids[: row.n_prompt]) != form.codec.prompt(listener.prompts[-1]):
                raise ModelError(
                    f"user {user} of {domain.dataset.name} is served with another prompt than the training's; served: "
                    f"{listener.prompts[-1][-200:]!r}; write both with llmrec.retrieval.calrec.history_prompt"
                )
            compared += 1
    return {"prompts": compared}
