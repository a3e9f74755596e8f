"""What a vLLM engine is started with: its settings, its arguments, and the text side of its model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from llmrec.errors import ConfigError, MissingDependencyError, ModelNotFoundError
from llmrec.lm import hardware
from llmrec.lm.adapters import content_hash
from llmrec.lm.pretrained import TOKENIZER_FILES, first_line, hub_name, quiet

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM has kernels for; a smaller adapter fits the next one
_CPU_CACHE_GIB = 4.0
_CPU_CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    # A forked child of a process whose torch has run threads can hang.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}


class VllmSettings(BaseModel):
    """How much of the machine a vLLM engine takes (the fields of a `vllm:FILE.yaml`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """A Hugging Face folder or a hub id."""
    max_model_len: int | None = Field(default=None, gt=0)
    """Longest prompt and answer together, in tokens; None is the model's own, or less where the cache is smaller."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Part of each GPU's memory for weights and key-value cache."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """Key-value cache in GiB; None is what is left on a GPU, and VLLM_CPU_KVCACHE_SPACE (or 4) on a CPU."""
    max_num_seqs: int | None = Field(default=None, gt=0)
    """Most samples computed at once; None is vLLM's own choice."""
    tensor_parallel_size: int = Field(default=1, gt=0)
    """GPUs that share the weights of one model."""
    enforce_eager: bool | None = None
    """Whether to do without compilation and CUDA graphs; None is yes on a CPU and no on a GPU."""


class ModelText(NamedTuple):
    """The text side of a model folder."""

    tokenizer: Any
    ends: Any
    """Object with `config` and `generation_config`, as a loaded model has them."""
    name: str
    content_hash: str | None


def require_vllm() -> None:
    """Import vLLM, quiet and without usage reports unless the environment says otherwise.

    Raises:
        MissingDependencyError: it is not installed.
        ConfigError: what is installed does not fit together.
    """
    if find_spec("vllm") is None:
        raise MissingDependencyError("vllm", needed_for="a vllm: backbone", extra="vllm")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm.v1.engine.async_llm  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # such as a torchvision built for another torch
        raise ConfigError(
            f"vLLM is installed but cannot be imported: {first_line(error)}; install it in an environment of its own"
        ) from error


def engine_arguments(
    settings: VllmSettings, adapters: Sequence[Path], *, seed: int, device: str, dtype: str
) -> dict[str, Any]:
    """Arguments of vLLM's `AsyncEngineArgs`.

    Raises:
        ConfigError: a setting that vLLM cannot follow.
    """
    from vllm.platforms import current_platform

    on_cpu = bool(current_platform.is_cpu())
    check_device(device, on_cpu=on_cpu)
    wanted: dict[str, Any] = {
        "model": settings.model,
        "seed": seed,
        "dtype": number_type(dtype, on_cpu=on_cpu),
        "max_model_len": settings.max_model_len or -1,  # -1: as much as fits
        "tensor_parallel_size": settings.tensor_parallel_size,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enforce_eager": on_cpu if settings.enforce_eager is None else settings.enforce_eager,
        "generation_config": "vllm",  # the model's own sampling defaults would change what temperature 1 means
        "structured_outputs_config": {"backend": "guidance"},  # llguidance, whose dialect our grammars speak
        "disable_log_stats": True,
    }
    cache_gib = settings.kv_cache_gib
    if cache_gib is None and on_cpu and _CPU_CACHE_VARIABLE not in os.environ:
        cache_gib = _CPU_CACHE_GIB  # vLLM would take nine tenths of the machine's memory
    if cache_gib is not None:
        wanted["kv_cache_memory_bytes"] = int(cache_gib * 2**30)
    if settings.max_num_seqs is not None:
        wanted["max_num_seqs"] = settings.max_num_seqs
    if adapters:
        # vLLM's CPU kernels give rows without adapter the last slot's weights when the batch has adapted rows too
        # (seen in 0.32): a slot that stays empty, all zeros, keeps them bare.
        slots = len(adapters) + (1 if on_cpu else 0)
        wanted |= {
            "enable_lora": True,
            "max_loras": slots,
            "max_lora_rank": lora_rank(adapters),
            "lora_target_modules": lora_modules(adapters),
        }
    return wanted


def check_device(device: str, *, on_cpu: bool) -> None:
    """Refuse a device that the installed vLLM was not built for.

    Raises:
        ConfigError: it was not.
    """
    built_for = "cpu" if on_cpu else "cuda"
    if device not in ("auto", built_for):
        raise ConfigError(
            f"the installed vLLM runs on {built_for!r}, got device {device!r}; use 'auto' "
            "(CUDA_VISIBLE_DEVICES chooses among several GPUs), or load the model without vllm:"
        )


def number_type(dtype: str, *, on_cpu: bool) -> str:
    """Name of the number type for vLLM: measured on a CPU, the model's own on a GPU.

    Raises:
        ConfigError: an unknown name.
    """
    if on_cpu:
        chosen = hardware.choose(device="cpu", dtype=dtype).dtype
    else:  # measuring would open the GPU in this process, which leaves the engine's process less memory
        name = os.environ.get("LLMREC_DTYPE") or dtype
        if name == "auto":
            return name
        chosen = hardware.parse_dtype(name)
    return str(chosen).removeprefix("torch.")


def lora_rank(adapters: Sequence[Path]) -> int:
    """The smallest rank that vLLM offers and that holds all these adapters.

    Raises:
        ConfigError: an adapter's rank is missing or too large.
    """
    largest = 1
    for folder in adapters:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
        if not all(isinstance(rank, int) and 0 < rank <= _RANKS[-1] for rank in ranks):
            raise ConfigError(f"vLLM takes LoRA adapters of rank 1 to {_RANKS[-1]}, got {ranks} in {str(folder)!r}")
        largest = max(largest, *ranks)
    return next(rank for rank in _RANKS if rank >= largest)


def lora_modules(adapters: Sequence[Path]) -> list[str]:
    """Names of the modules that these adapters change, such as q_proj; vLLM need not prepare the others.

    Raises:
        ConfigError: an adapter changes what vLLM cannot change for one request alone.
    """
    names: set[str] = set()
    for folder in adapters:
        file = folder / "adapter_model.safetensors"
        try:
            with safe_open(file, framework="numpy") as weights:
                keys = list(weights.keys())
        except (OSError, SafetensorError) as error:
            raise ModelNotFoundError(f"the adapter weights {str(file)!r} cannot be read: {error}") from error
        for key in keys:
            module, mark, _ = key.partition(".lora_")
            name = module.rpartition(".")[2]
            # Once lm_head can be adapted, vLLM's CPU engine dies of the first score (seen in 0.32).
            if not mark or name in ("lm_head", "embed_tokens"):
                raise ConfigError(
                    f"vLLM takes LoRA matrices of inner layers alone, got {key!r} in {str(file)!r}; "
                    "load the model without vllm:, or train the adapter without that module"
                )
            names.add(name)
    return sorted(names)


def read_settings(spec: str | Path) -> VllmSettings:
    """Settings of a folder or hub id, or those that a YAML file holds.

    Raises:
        ConfigError: the file is missing or its settings are wrong.
    """
    path = Path(spec).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        return VllmSettings(model=str(path) if path.is_dir() else str(spec))
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return VllmSettings.model_validate(values)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the settings of a vLLM engine cannot be read from {str(path)!r}: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"the settings of a vLLM engine in {str(path)!r} are wrong: {faults}") from error


def load_text(model: str) -> ModelText:
    """Tokenizer, end tokens and name of a model; its weights are vLLM's to load."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    folder = Path(model)
    if folder.is_dir() and not (folder / "config.json").exists():
        raise ModelNotFoundError(f"the folder holds no model (no config.json), got {model!r}")
    if folder.is_dir() and not any((folder / file).exists() for file in TOKENIZER_FILES):
        raise ModelNotFoundError(f"the model folder has no tokenizer (tokenizer.json), got {model!r}")
    if not folder.is_dir() and (model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise ModelNotFoundError(f"no model folder, got {model!r}")
    try:
        with quiet():
            config, tokenizer = AutoConfig.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelNotFoundError(f"model or tokenizer of {model!r} cannot be loaded: {first_line(error)}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(f"a fast tokenizer (tokenizer.json) is needed, got {type(tokenizer).__name__} from {model!r}")
    try:
        generation = GenerationConfig.from_pretrained(model)
    except OSError:  # a model need not have one
        generation = None
    ends = SimpleNamespace(config=config, generation_config=generation)
    if folder.is_dir():
        digest = content_hash(folder)
        return ModelText(tokenizer, ends, f"{folder.resolve().name}@{digest[:12]}", digest)
    return ModelText(tokenizer, ends, hub_name(model), None)
