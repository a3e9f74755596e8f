"""Turns a backbone spec string into an engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmrec.errors import ConfigError
from llmrec.lm.adapters import STORE_FILE, AdapterStore
from llmrec.lm.protocol import LanguageModel


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
        spec: a Hugging Face folder, a hub id, "scripted:FILE.jsonl" (replays a recording), or "endpoint:URL",
            "endpoint:URL#MODEL" or "endpoint:FILE.yaml" (an OpenAI-compatible server, see `llmrec.lm.endpoint`),
            or "vllm:" before a folder, a hub id or a YAML file (see `llmrec.lm.vllm_setup.VllmSettings`).
        adapters: name -> adapter folder. They are added to those of the folder's `adapters.json` and win over them.
        seed: for engines that take a seed when they start; the local engine draws from the seed of each call alone.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "auto" (measured), or a number type's name.

    Raises:
        ModelNotFoundError: the model, its tokenizer, an adapter or the recording is missing or damaged.
        ServerDownError: no server answers at an endpoint.
        ConfigError: the kind of engine is unknown or not available in this version, or a setting is wrong.
    """
    text = str(spec)
    kind, colon, rest = text.partition(":")
    if colon and kind == "vllm":
        return _vllm(rest, adapters or {}, seed=seed, device=device, dtype=dtype)
    if colon and kind == "scripted":
        from llmrec.lm.scripted import ReplayLM

        return ReplayLM(Path(rest))
    if colon and kind == "endpoint":
        return _endpoint(rest, adapters or {})
    if colon and not Path(text).exists():
        raise ConfigError(
            f"unknown kind of backbone {kind!r}, got {text!r}; use a folder, a hub id, scripted:FILE, endpoint:URL "
            "or vllm:FOLDER"
        )
    from llmrec.lm.local import LocalLM

    known = _checked_adapters(text, adapters or {})
    return LocalLM.from_folder(text, adapters={**known, **(adapters or {})}, device=device, dtype=dtype)


def adapter_folders(spec: str | Path) -> Mapping[str, Path]:
    """Folders of the adapters that a backbone's `adapters.json` names; empty for endpoints, recordings and hub ids.

    Args:
        spec: as for `load_backbone`.

    Raises:
        ConfigError: `adapters.json` is damaged.
    """
    store = _store(spec)
    return {} if store is None else store.folders()


def _checked_adapters(spec: str, given: Mapping[str, Path]) -> Mapping[str, Path]:
    """Adapters that `adapters.json` names, known to exist before the backbone is loaded, but for what is given anew."""
    store = _store(spec)
    if store is None:
        return {}
    store.check(but=given)
    return store.folders()


def _store(spec: str | Path) -> AdapterStore | None:
    kind, colon, rest = str(spec).partition(":")
    model = str(spec)
    if colon and kind == "vllm":
        from llmrec.lm.vllm_setup import read_settings

        model = read_settings(rest).model
    folder = Path(model).expanduser()
    return AdapterStore.load(folder) if (folder / STORE_FILE).exists() else None


def _vllm(what: str, adapters: Mapping[str, Path], *, seed: int, device: str, dtype: str) -> LanguageModel:
    from llmrec.lm.vllm_engine import VllmLM

    known = _checked_adapters(f"vllm:{what}", adapters)
    return VllmLM.from_spec(what, adapters={**known, **adapters}, seed=seed, device=device, dtype=dtype)


def _endpoint(where: str, adapters: Mapping[str, Path]) -> LanguageModel:
    if adapters:
        raise ConfigError(
            f"adapters of an endpoint are those that its server was started with, got {', '.join(adapters)}; start the "
            "server with them and leave them out here"
        )
    from llmrec.lm.endpoint.engine import EndpointLM

    return EndpointLM.connect(where)
