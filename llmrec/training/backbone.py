"""The backbone of a training: on this process's device, and in four bits where the recipe asks for it."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.errors import ConfigError, MissingDependencyError, ModelNotFoundError
from llmrec.lm.hardware import Hardware, choose
from llmrec.lm.pretrained import Loaded, first_line, hub_name, load_pretrained, quiet

if TYPE_CHECKING:
    from llmrec.training.recipe import Recipe


def training_hardware() -> Hardware:
    """`choose` for training; of several processes on one machine each takes the GPU of its own number."""
    import torch

    own = os.environ.get("LOCAL_RANK")
    return choose(device=f"cuda:{own}" if own and torch.cuda.is_available() else "auto", purpose="training")


def load_for_training(recipe: Recipe, hardware: Hardware) -> Loaded:
    """The recipe's backbone.

    Raises:
        ModelNotFoundError: it is missing or damaged.
        ConfigError: four bits were asked for where there is no CUDA device, or `lora.target_modules` names layers
            that it has not.
        MissingDependencyError: four bits were asked for without bitsandbytes.
    """
    if recipe.quantise == "none":
        loaded = load_pretrained(recipe.backbone, hardware)
    else:
        check_four_bits(hardware)
        loaded = _load_four_bits(recipe, hardware)
    check_targets(loaded.model, recipe.lora.target_modules)
    return loaded


def check_targets(model: Any, targets: str | list[str]) -> None:
    """Every name of `target_modules` is that of a layer; peft lets a misspelt one among others pass.

    Args:
        model: the backbone.
        targets: ends of names, or a regular expression for whole ones, or "all-linear", as peft takes them.

    Raises:
        ConfigError: a name fits no layer.
    """
    if targets == "all-linear":
        return
    names = [name for name, module in model.named_modules() if getattr(getattr(module, "weight", None), "ndim", 0) == 2]
    wanted = [targets] if isinstance(targets, str) else [rf"(.*\.)?{re.escape(one)}" for one in targets]
    try:
        missing = [one for one in wanted if not any(re.fullmatch(one, name) for name in names)]
    except re.error as error:
        raise ConfigError(f"lora.target_modules is no regular expression ({error}), got {targets!r}") from error
    if missing or not wanted:
        ends = sorted({name.rpartition(".")[2] for name in names})
        raise ConfigError(
            f"lora.target_modules must name layers of the backbone, got {targets!r}; they are: "
            f"{', '.join(ends)}; or all-linear"
        )


def backbone_folder(spec: str) -> Path:
    """The folder of a backbone: the one that is named, or the files of a hub id, downloaded where they are not yet.

    Raises:
        ModelNotFoundError: there is neither.
    """
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    folder = Path(spec).expanduser()
    if folder.exists() or spec.startswith((".", "/", "~")) or spec.count("/") > 1:
        return folder
    try:
        return Path(snapshot_download(spec))
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"there is no folder {spec!r}, and no such model could be had from the Hugging Face hub: "
            f"{first_line(error)}"
        ) from error


def check_four_bits(hardware: Hardware) -> None:
    """Refuse what cannot quantise, before anything is loaded."""
    if not hardware.device.startswith("cuda"):
        raise ConfigError(
            f"quantise=4bit needs a CUDA device, and this training runs on {hardware.device!r}; set quantise=none"
        )
    if find_spec("bitsandbytes") is None:
        raise MissingDependencyError("bitsandbytes", needed_for="quantise=4bit", extra="qlora")


def _load_four_bits(recipe: Recipe, hardware: Hardware) -> Loaded:
    """NF4 with double quantisation; products are computed in the number type of this machine (QLoRA, section 3)."""
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    from llmrec.lm.adapters import content_hash

    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=hardware.dtype,
    )
    folder = Path(recipe.backbone).expanduser()
    source = str(folder) if folder.is_dir() else recipe.backbone
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModelForCausalLM.from_pretrained(
                source, quantization_config=four_bits, dtype=hardware.dtype, device_map={"": hardware.device}
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelNotFoundError(f"{source!r} cannot be loaded in four bits: {first_line(error)}") from error
    ready = prepare_model_for_kbit_training(model, use_gradient_checkpointing=recipe.gradient_checkpointing)
    digest = content_hash(folder) if folder.is_dir() else None
    name = hub_name(recipe.backbone) if digest is None else f"{folder.resolve().name}@{digest[:12]}"
    return Loaded(ready, tokenizer, name=f"{name} in four bits", content_hash=digest)
