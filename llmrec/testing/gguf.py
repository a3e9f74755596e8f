"""Writes a small Qwen3 folder as a GGUF file, so that tests can serve it with llama.cpp."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.errors import ConfigError, MissingDependencyError

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # kinds of tokens in GGUF


def save_gguf(folder: Path, path: Path) -> Path:
    """Write a Qwen3 folder (byte-level BPE with the splitting rule of GPT-2) as a GGUF file with 32-bit weights.

    Args:
        folder: as `llmrec.testing.models.save_tiny_model` writes it.
        path: the GGUF file.

    Raises:
        ConfigError: the folder holds another architecture.
        MissingDependencyError: the package gguf is not installed.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] != "qwen3":
        raise ConfigError(f"only Qwen3 folders can be written as GGUF here, got {config['model_type']!r}")
    writer = _writer(path)
    _add_shape(writer, config)
    _add_tokenizer(writer, folder)
    for name, values in _tensors(folder).items():
        writer.add_tensor(name, values)
    return _finish(writer, path)


def save_gguf_adapter(folder: Path, path: Path) -> Path:
    """Write a LoRA adapter of such a model (a peft folder) as a GGUF file.

    Raises:
        MissingDependencyError: the package gguf is not installed.
    """
    from safetensors.numpy import load_file

    writer = _writer(path)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    for name, values in load_file(folder / "adapter_model.safetensors").items():
        stem, half, _ = name.removeprefix("base_model.model.").rsplit(".", 2)  # ...q_proj, lora_A, weight
        _, _, layer, part = stem.split(".", 3)
        writer.add_tensor(f"blk.{layer}.{_LAYER[part]}.weight.{half.lower()}", values.astype(np.float32))
    return _finish(writer, path)


def _writer(path: Path) -> Any:
    try:
        gguf: Any = importlib.import_module("gguf")
    except ImportError as error:
        raise MissingDependencyError("gguf", needed_for="writing a GGUF file", extra="gguf") from error
    return gguf.GGUFWriter(path, "qwen3")


def _finish(writer: Any, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_shape(writer: Any, config: Mapping[str, Any]) -> None:
    rope = config.get("rope_parameters") or config
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])


def _add_tokenizer(writer: Any, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    added = tokenizer.get_added_vocab()
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([_kind(token) if token in added else _NORMAL for token in tokens])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    if merges:
        writer.add_token_merges(merges)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def _kind(added: str) -> int:
    return _CONTROL if added.startswith("<|") else _USER_DEFINED


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    named: dict[str, Any] = {}
    for name, values in load_file(folder / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        if stem in _OUTER:
            named[f"{_OUTER[stem]}.weight"] = values.astype(np.float32)
            continue
        _, _, layer, part = stem.split(".", 3)  # model.layers.0.mlp.up_proj
        named[f"blk.{layer}.{_LAYER[part]}.weight"] = values.astype(np.float32)
    return named
