"""Loads models and tokenizers through transformers, and turns its failures into one clear line each."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from llmrec.errors import ConfigError, ModelNotFoundError
from llmrec.lm.adapters import content_hash
from llmrec.lm.hardware import Hardware

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
"""A folder with none of these has no tokenizer."""


@dataclass(frozen=True)
class Loaded:
    """A model ready for inference."""

    model: Any
    tokenizer: Any
    name: str
    content_hash: str | None


def load_pretrained(spec: str, hardware: Hardware) -> Loaded:
    """Load a model and its tokenizer.

    Args:
        spec: a folder, or a hub id.
        hardware: where to and in which number type.

    Raises:
        ModelNotFoundError: it is missing or damaged.
    """
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        return _load_hub(spec, hardware)
    if not (folder / "config.json").exists():
        raise ModelNotFoundError(f"the folder holds no model (no config.json), got {spec!r}")
    if not any((folder / file).exists() for file in TOKENIZER_FILES):
        raise ModelNotFoundError(f"the model folder has no tokenizer (tokenizer.json), got {spec!r}")
    digest = content_hash(folder)
    model, tokenizer = _load(str(folder), hardware, f"the model in {spec!r} cannot be loaded")
    return Loaded(model, tokenizer, name=f"{folder.resolve().name}@{digest[:12]}", content_hash=digest)


def _load_hub(spec: str, hardware: Hardware) -> Loaded:
    check_spec(spec)
    failure = f"there is no folder {spec!r}, and no such model could be had from the Hugging Face hub"
    model, tokenizer = _load(spec, hardware, failure)
    return Loaded(model, tokenizer, name=hub_name(spec), content_hash=None)


def check_spec(spec: str) -> None:
    """Refuse a path where nothing is, without a look at the hub: whatever may be a hub id passes.

    Raises:
        ModelNotFoundError: there is no such folder.
    """
    may_be_id = spec.count("/") <= 1 and not spec.startswith((".", "/", "~")) and os.sep not in spec.partition("/")[2]
    if not may_be_id and not Path(spec).expanduser().is_dir():
        raise ModelNotFoundError(f"no model folder, got {spec!r}")


def hub_name(model_id: str) -> str:
    """A hub id with the revision that lies in the cache: ``Qwen/Qwen3-0.6B@c1899de289a0``; else the id."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model_id, "config.json")
    return f"{model_id}@{Path(config).parent.name[:12]}" if isinstance(config, str) else model_id


def _load(source: str, hardware: Hardware, failure: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source)
            model, info = AutoModelForCausalLM.from_pretrained(source, dtype=hardware.dtype, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, ImportError) as error:
        raise ModelNotFoundError(f"{failure}: {first_line(error)}") from error
    check_complete(info, failure)
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"a fast tokenizer (tokenizer.json) is needed, got {type(tokenizer).__name__} from {source!r}"
        )
    return with_plain_head(model.to(hardware.device).eval()), tokenizer


def with_plain_head(model: Any) -> Any:
    """The model, whose output layer gets its states side by side in memory; the result is the same.

    A model that computes the logits of its last places alone (`logits_to_keep`) hands over a slice of the states, and
    torch then copies the output layer once for every row of the batch: gigabytes, for a large vocabulary.
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_side_by_side)
    return model


def _side_by_side(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(states.contiguous() for states in given)


def check_complete(info: Mapping[str, Any], what: str) -> None:
    """Refuse a model of which transformers drew a part at random.

    Args:
        info: what `from_pretrained(..., output_loading_info=True)` gave.
        what: begins the message.

    Raises:
        ModelNotFoundError: weights were missing.
    """
    if missing := sorted(info["missing_keys"]):
        raise ModelNotFoundError(f"{what}: {len(missing)} weights are missing, {missing[0]!r} among them")


def check_free(out: Path) -> None:
    """Refuse to write over a folder.

    Raises:
        ConfigError: it exists.
    """
    if out.exists():
        raise ConfigError(f"the output folder exists, got {str(out)!r}; name another with --out, or delete it")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar for a load of milliseconds, and not the deprecations that peft meets inside transformers."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, for ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
