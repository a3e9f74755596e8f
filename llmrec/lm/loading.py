"""Turns a backbone spec string into an engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmrec.errors import ConfigError
from llmrec.lm.adapters import STORE_FILE, AdapterStore
from llmrec.lm.protocol import LanguageModel

_LATER = {"vllm": "a vLLM engine", "endpoint": "an OpenAI-compatible endpoint"}


def load_backbone(
    spec: str | Path,
    *,
    adapters: Mapping[str, Path] | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
) -> LanguageModel:
    """Load a backbone.

    Args:
        spec: a Hugging Face folder, a hub id, or "scripted:FILE.jsonl" (replays a recording).
        adapters: name -> adapter folder. They are added to those of the folder's `adapters.json` and win over them.
        seed: for engines that take a seed when they start; the local engine draws from the seed of each call alone.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "auto" (measured), or a number type's name.

    Raises:
        ModelNotFoundError: the model, its tokenizer, an adapter or the recording is missing or damaged.
        ConfigError: the kind of engine is unknown or not available in this version, or a setting is wrong.
    """
    text = str(spec)
    kind, colon, rest = text.partition(":")
    if colon and kind in _LATER:
        raise ConfigError(
            f"{_LATER[kind]} is not available in this version, got {text!r}; use a model folder or hub id"
        )
    if colon and kind == "scripted":
        from llmrec.lm.scripted import ReplayLM

        return ReplayLM(Path(rest))
    if colon and not Path(text).exists():
        raise ConfigError(f"unknown kind of backbone {kind!r}, got {text!r}; use a folder, a hub id or scripted:FILE")
    from llmrec.lm.local import LocalLM

    folder = Path(text).expanduser()
    known = AdapterStore.load(folder).folders() if (folder / STORE_FILE).exists() else {}
    return LocalLM.from_folder(text, adapters={**known, **(adapters or {})}, device=device, dtype=dtype)
