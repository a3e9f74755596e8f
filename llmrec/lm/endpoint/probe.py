"""The first questions to a server: which one it is, which model it has and what it can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from llmrec.errors import ConfigError, ModelError, UnsupportedError
from llmrec.lm.endpoint import faults
from llmrec.lm.endpoint.client import Client
from llmrec.lm.endpoint.dialect import Dialect
from llmrec.lm.endpoint.llamacpp import LlamaCpp
from llmrec.lm.endpoint.openai_api import OpenAIApi
from llmrec.lm.endpoint.vllm import Vllm

_SAME = 0.02  # largest difference of an embedding alone and beside another one, in 16-bit arithmetic


@dataclass(frozen=True)
class Server:
    """What a server said about itself."""

    dialect: Dialect
    model: str
    """Name of the model in requests."""
    identity: str
    """Name of the model with what the server tells of its weights; no part of it depends on host or port."""
    context: int | None
    adapters: Mapping[str, Any] = field(default_factory=dict)
    """Adapter name -> what the server calls it."""
    embedding_model: str | None = None
    """None: the server does not embed."""
    generates: bool = True
    """Whether it writes; False for one that only embeds."""


def probe(client: Client) -> Server:
    """Ask a server what it is.

    Raises:
        ServerDownError: nobody answers.
        ConfigError: the key, the model or the URL is wrong.
        ModelError: it is no OpenAI-compatible server, or fails.
    """
    try:
        return _probe(client)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"what {client.settings.base_url} says of itself cannot be read ({error!r}); update the server"
        ) from error


def _probe(client: Client) -> Server:
    entries = _models(client)
    client.models = tuple(str(entry["id"]) for entry in entries)
    kind = client.settings.dialect
    if kind == "auto":
        owners = {entry.get("owned_by") for entry in entries}
        kind = "llama.cpp" if "llamacpp" in owners else "vllm" if "vllm" in owners else "openai"
    if kind == "llama.cpp":
        return _llamacpp(client, entries)
    if kind == "vllm":
        return _vllm(client, entries)
    entry = _chosen(client, entries, strict=False)
    return Server(
        dialect=OpenAIApi(official="api.openai.com" in client.settings.base_url, logprobs=client.settings.logprobs),
        model=entry["id"],
        identity=entry["id"],
        context=client.settings.context,
        embedding_model=client.settings.embedding_model,
    )


def _models(client: Client) -> list[Mapping[str, Any]]:
    try:
        listed = client.ask_now("get", "models", retry=False)  # a server that is not there is told at once
    except ModelError:
        listed = client.ask_now("get", "models")  # one that is loading or busy gets its time
    entries = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
        raise ModelError(f"{client.settings.base_url}/models lists no models: it is no OpenAI-compatible server")
    return entries


def _chosen(client: Client, entries: Sequence[Mapping[str, Any]], *, strict: bool = True) -> Mapping[str, Any]:
    """The entry of the model that is meant.

    Args:
        strict: whether a name that is not listed is an error; large services do not list all that they serve, and
            refuse at the first call what they do not know.
    """
    names = [str(entry["id"]) for entry in entries]
    wanted, url = client.settings.model, client.settings.base_url
    if wanted is None:
        if len(entries) != 1:
            raise ConfigError(
                f"{url} has {len(entries)} models; name one, as in endpoint:{url}#MODEL: {faults.some(names)}"
            )
        return entries[0]
    for entry in entries:
        if wanted in (entry["id"], *(entry.get("aliases") or ())):
            return entry
    if strict:
        raise ConfigError(f"{url} has no model {wanted!r}; it has: {faults.some(names)}")
    return {"id": wanted}


def _llamacpp(client: Client, entries: Sequence[Mapping[str, Any]]) -> Server:
    entry = _chosen(client, entries)
    properties = client.ask_now("get", "/props")
    loras = client.ask_now("get", "/lora-adapters")
    adapters = _named({int(lora["id"]): PurePath(str(lora["path"])) for lora in loras})
    meta = entry.get("meta") or {}
    facts = [str(meta[name]) for name in ("ftype", "n_params", "size") if name in meta]
    identity = PurePath(str(entry["id"])).name + (f"({','.join(facts)})" if facts else "")
    model, set_one = str(entry["id"]), client.settings.embedding_model
    embeds = _embeds(client, model) if set_one is None else True
    return Server(
        dialect=LlamaCpp(adapters),
        model=model,
        identity=identity,
        context=client.settings.context or _at(properties, "default_generation_settings", "n_ctx"),
        adapters=adapters,
        embedding_model=set_one or (model if embeds else None),
        generates=embeds is None or _generates(client),  # one without embeddings was started to write
    )


def _named(paths: Mapping[int, PurePath]) -> dict[str, int]:
    """Adapter name -> number: the stem of its file, with its folder where several have the same.

    Raises:
        ConfigError: folder and stem are the same too.
    """
    stems = [path.stem for path in paths.values()]
    names: dict[str, int] = {}
    for number, path in paths.items():
        name = path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}/{path.stem}"
        if name in names:
            raise ConfigError(f"the server has several adapters {name!r}; rename a file and start it again")
        names[name] = number
    return names


def _generates(client: Client) -> bool:
    """Whether llama.cpp writes: not when it was started for embeddings alone, or with a model that only embeds."""
    body = {"prompt": "a", "n_predict": 1, "cache_prompt": False}
    try:
        client.ask_now("post", "/completion", body, retry=False)
    except (UnsupportedError, faults.Refused):
        return False
    except ModelError as error:
        if "logits" in str(error):  # what it says of a model without a language head
            return False
        client.ask_now("post", "/completion", body)  # one that is busy gets its time
    return True


def _vllm(client: Client, entries: Sequence[Mapping[str, Any]]) -> Server:
    bases = [entry for entry in entries if not entry.get("parent")]
    entry = _chosen(client, bases)
    # a model that is served under several names is the parent of an adapter under one of them
    same = {other["id"] for other in bases if other.get("root") == entry.get("root")}
    adapters = {str(other["id"]): str(other["id"]) for other in entries if other.get("parent") in same}
    return Server(
        dialect=Vllm(),
        model=str(entry["id"]),
        identity=str(entry["id"]),
        context=client.settings.context or entry.get("max_model_len"),
        adapters=adapters,
        embedding_model=client.settings.embedding_model or (str(entry["id"]) if _embeds(client, entry["id"]) else None),
    )


def _embeds(client: Client, model: str) -> bool | None:
    """Whether the model embeds; the server is asked, because it does so only when it was started for it.

    llama.cpp with several slots and no --kv-unified pools a part of a text when it reads a shorter one at the same
    time; that is False, and None a server without embeddings.
    """
    # enough texts that some are read at the same time, and two lengths that leave a small part over
    texts = ["two films about the sea and one", "two films about the sea"] * 4
    try:
        together = _embeddings(client, model, texts)
        alone = [_embeddings(client, model, [text])[0] for text in texts[:2]] * 4
    except ModelError:  # the server does not embed
        return None
    return all(
        len(one) == len(other) and max(abs(a - b) for a, b in zip(one, other, strict=True)) < _SAME
        for one, other in zip(together, alone, strict=True)
    )


def _embeddings(client: Client, model: str, texts: Sequence[str]) -> list[list[float]]:
    answer = client.ask_now("post", "embeddings", {"model": model, "input": list(texts)}, retry=False)
    try:
        rows = sorted(answer["data"], key=lambda row: int(row["index"]))
        return [[float(value) for value in row["embedding"]] for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the server's embeddings cannot be read ({error!r}); use another server") from error


def _at(value: Any, *path: str) -> int | None:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return int(value) if value else None
