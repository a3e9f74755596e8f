"""The first questions to a server: which one it is, which model it has and what it can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from llmrec.errors import ConfigError, ModelError
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


def probe(client: Client) -> Server:
    """Ask a server what it is.

    Raises:
        ServerDownError: nobody answers.
        ConfigError: the key, the model or the URL is wrong.
        ModelError: it is no OpenAI-compatible server, or fails.
    """
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
        strict: whether a name that is not listed is an error; large services do not list all that they serve.
    """
    names = [str(entry["id"]) for entry in entries]
    wanted, url = client.settings.model, client.settings.base_url
    if wanted is None:
        if len(entries) != 1:
            raise ConfigError(
                f"{url} has {len(entries)} models; name one, as in endpoint:{url}#MODEL: {_some(names) or 'none'}"
            )
        return entries[0]
    for entry in entries:
        if wanted in (entry["id"], *(entry.get("aliases") or ())):
            return entry
    if strict or entries:
        raise ConfigError(f"{url} has no model {wanted!r}; it has: {_some(names) or 'none'}")
    return {"id": wanted}


def _some(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _llamacpp(client: Client, entries: Sequence[Mapping[str, Any]]) -> Server:
    entry = _chosen(client, entries)
    properties = client.ask_now("get", "/props")
    loras = client.ask_now("get", "/lora-adapters")
    adapters = {PurePath(str(lora["path"])).stem: int(lora["id"]) for lora in loras}
    meta = entry.get("meta") or {}
    facts = [str(meta[name]) for name in ("ftype", "n_params", "size") if name in meta]
    identity = PurePath(str(entry["id"])).name + (f"({','.join(facts)})" if facts else "")
    return Server(
        dialect=LlamaCpp(adapters),
        model=str(entry["id"]),
        identity=identity,
        context=client.settings.context or _at(properties, "default_generation_settings", "n_ctx"),
        adapters=adapters,
        embedding_model=_embedding_model(client, str(entry["id"])),
    )


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
        embedding_model=_embedding_model(client, str(entry["id"])),
    )


def _embedding_model(client: Client, model: str) -> str | None:
    """The model that embeds; the server is asked, because it does so only when it was started for it.

    llama.cpp with several slots and no --kv-unified pools a part of a text when it reads a shorter one at the same
    time; such a server does not count as one that embeds.
    """
    if client.settings.embedding_model is not None:
        return client.settings.embedding_model
    # enough texts that some are read at the same time, and two lengths that leave a small part over
    texts = ["two films about the sea and one", "two films about the sea"] * 4
    try:
        together = _embeddings(client, model, texts)
        alone = [_embeddings(client, model, [text])[0] for text in texts[:2]] * 4
    except ModelError:  # the server does not embed
        return None
    same = all(
        len(one) == len(other) and max(abs(a - b) for a, b in zip(one, other, strict=True)) < _SAME
        for one, other in zip(together, alone, strict=True)
    )
    return model if same else None


def _embeddings(client: Client, model: str, texts: Sequence[str]) -> list[list[float]]:
    answer = client.ask_now("post", "embeddings", {"model": model, "input": list(texts)}, retry=False)
    try:
        return [[float(value) for value in row["embedding"]] for row in answer["data"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the server's embeddings cannot be read ({error!r}); use another server") from error


def _at(value: Any, *path: str) -> int | None:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return int(value) if value else None
