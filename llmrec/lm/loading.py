"""Turns a backbone spec string into an engine."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import NamedTuple

from llmrec.errors import ConfigError
from llmrec.lm.adapters import ADAPTER_FILE, STORE_FILE, AdapterStore
from llmrec.lm.protocol import LanguageModel


class ChosenAdapter(NamedTuple):
    """An adapter that settings give by its name at the backbone, or by its folder."""

    name: str | None
    """What the engine calls it; None is the bare backbone."""
    folder: Path | None = None
    """Where it lies; None where that is not known, as at a server."""
    registered: bool = True
    """Whether the backbone brings it along; else `load_backbone` must be given it."""

    @property
    def folders(self) -> Mapping[str, Path]:
        """What `load_backbone` must be given."""
        return {} if self.registered or self.name is None or self.folder is None else {self.name: self.folder}


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

    known = checked_adapters(text, but=adapters or ())
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


def chosen_adapter(spec: str | Path, given: str | None, *, role: str) -> ChosenAdapter:
    """The adapter that is meant by a name or a folder.

    Args:
        spec: as for `load_backbone`.
        given: a name in the backbone's `adapters.json` or at its server, which comes first, or an adapter folder.
            What is neither stays a name, which the engine then does not have.
        role: name for a folder; a registered adapter of this name stays, and the folder gets a longer one.

    Raises:
        ConfigError: `adapters.json` is damaged.
    """
    if given is None:
        return ChosenAdapter(None)
    known, folder = adapter_folders(spec), Path(given).expanduser()
    if given in known or not (folder / ADAPTER_FILE).is_file():
        return ChosenAdapter(given, known.get(given))
    name = role
    while name in known:
        name += "-given"
    return ChosenAdapter(name, folder, registered=False)


def checked_adapters(spec: str | Path, *, but: Container[str] = ()) -> Mapping[str, Path]:
    """`adapter_folders`, after a look at every one of them: each is there and belongs to the backbone.

    Args:
        spec: as for `load_backbone`.
        but: names that are given anew, so that what lies there does not matter.

    Raises:
        ModelNotFoundError: a folder that `adapters.json` names, or one of its files, is gone.
        ConfigError: an adapter was made for another backbone, or `adapters.json` is damaged.
    """
    store = _store(spec)
    if store is None:
        return {}
    store.check(but=but)
    return store.folders()


def model_of(spec: str | Path) -> str:
    """Folder or hub id behind the spec of a backbone that loads adapters."""
    kind, colon, rest = str(spec).partition(":")
    if colon and kind == "vllm":
        from llmrec.lm.vllm_setup import read_settings

        return read_settings(rest).model
    return str(spec)


def _store(spec: str | Path) -> AdapterStore | None:
    folder = Path(model_of(spec)).expanduser()
    return AdapterStore.load(folder) if (folder / STORE_FILE).exists() else None


def _vllm(what: str, adapters: Mapping[str, Path], *, seed: int, device: str, dtype: str) -> LanguageModel:
    from llmrec.lm.vllm_engine import VllmLM

    known = checked_adapters(f"vllm:{what}", but=adapters)
    return VllmLM.from_spec(what, adapters={**known, **adapters}, seed=seed, device=device, dtype=dtype)


def _endpoint(where: str, adapters: Mapping[str, Path]) -> LanguageModel:
    if adapters:
        raise ConfigError(
            f"adapters of an endpoint are those that its server was started with, got {', '.join(adapters)}; start the "
            "server with them and leave them out here"
        )
    from llmrec.lm.endpoint.engine import EndpointLM

    return EndpointLM.connect(where)
