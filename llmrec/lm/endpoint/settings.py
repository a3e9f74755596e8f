"""Where a model server is, and how it may be used."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import httpx2
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llmrec.errors import ConfigError

DialectName = Literal["llama.cpp", "vllm", "openai"]


class BudgetSettings(BaseModel):
    """What may be spent through one engine. Without limits everything is only counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens, read and written together; None is no limit."""
    max_cost: float | None = Field(default=None, gt=0)
    """Most money, in the currency of the prices; None is no limit. Needs both prices."""
    price_per_million_input: float | None = Field(default=None, ge=0)
    """Price of a million prompt tokens."""
    price_per_million_cached: float | None = Field(default=None, ge=0)
    """Price of a million prompt tokens that the server had cached; None is the price of input."""
    price_per_million_output: float | None = Field(default=None, ge=0)
    """Price of a million new tokens."""

    @model_validator(mode="after")
    def _priced(self) -> BudgetSettings:
        prices = (self.price_per_million_input, self.price_per_million_output)
        if self.max_cost is not None and None in prices:
            raise ValueError("max_cost needs price_per_million_input and price_per_million_output")
        return self


class EndpointSettings(BaseModel):
    """A model behind an OpenAI-compatible server.

    The key itself is no setting: it is read from the environment when a connection is opened, and kept nowhere else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str
    """Such as http://127.0.0.1:8080/v1; without a path, /v1 is added."""
    model: str | None = None
    """Name of the model on the server; None is the only one that the server lists."""
    dialect: Literal["auto", "llama.cpp", "vllm", "openai"] = "auto"
    """Which server it is, beyond the common API; "auto" asks it."""
    key_variable: str = Field(default="OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the key; servers without keys need none."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Longest wait for an answer, or in a stream for its next piece, seconds."""
    max_retries: int = Field(default=4, ge=0, le=100)
    """How often a call is made again after an overload, an error of the server or a broken connection."""
    max_concurrency: int = Field(default=16, ge=1)
    """Most requests under way at once, in each event loop."""
    context: int | None = Field(default=None, ge=1)
    """Tokens of the model's context; None asks the server."""
    embedding_model: str | None = None
    """Model that embeds, where it is another one; None is `model`, where the server says that it embeds."""
    logprobs: bool = True
    """Whether to ask plain OpenAI servers for log-probabilities, which some models there refuse to give."""
    budget: BudgetSettings = BudgetSettings()
    """What may be spent."""

    @field_validator("base_url")
    @classmethod
    def _clean(cls, value: str) -> str:
        parts = urlsplit(value)
        try:
            _ = parts.port
        except ValueError:
            raise ValueError("the port in base_url must be a number from 0 to 65535") from None  # it may be a key
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url must look like http://127.0.0.1:8080/v1 or https://host/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("base_url must hold no user, password, query or fragment; a key belongs in key_variable")
        url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") or "/v1", "", ""))
        try:
            httpx2.URL(url)
        except httpx2.InvalidURL:
            good = False
        else:  # the URL parser there escapes spaces
            good = re.fullmatch(r"[\w.-]+|[0-9a-fA-F:.]+(%\w+)?", parts.hostname) is not None
        if not good:
            raise ValueError("the host in base_url must be a name or an address, without spaces and other signs")
        return url

    @property
    def root_url(self) -> str:
        """The server without the API's path, where llama.cpp and vLLM have their own routes."""
        return self.base_url.removesuffix("/v1")

    def key(self) -> str:
        """The key now in the environment; "" is none."""
        return os.environ.get(self.key_variable, "").strip()

    def key_to_send(self) -> str:
        """The key, if the server may have it.

        Raises:
            ConfigError: it is no key, or it would go to another machine in clear and nobody has asked for that.
        """
        key, variable = self.key(), self.key_variable
        if not re.fullmatch(r"[\x20-\x7e]*", key):
            raise ConfigError(f"the key in {variable} has characters no key has; paste it again")
        asked = "key_variable" in self.model_fields_set
        if key and not asked and self.base_url.startswith("http://") and not self._on_this_machine():
            raise ConfigError(
                f"the key in {variable} would go to {self.base_url} in clear; use https, or set key_variable in the "
                f"endpoint's YAML file: {variable} if this server may have the key, else another variable"
            )
        return key

    def _on_this_machine(self) -> bool:
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    @classmethod
    def from_spec(cls, spec: str) -> EndpointSettings:
        """Settings from "URL", "URL#MODEL" or "FILE.yaml" (each with or without "endpoint:" before it).

        Raises:
            ConfigError: neither a URL nor a readable YAML file, or a setting is wrong.
        """
        text = spec.removeprefix("endpoint:")
        if text.startswith(("http://", "https://")):
            url, _, model = text.partition("#")
            return cls.checked({"base_url": url, "model": model or None}, source=_without_secrets(url))
        if not text.endswith((".yaml", ".yml")):
            raise ConfigError(
                f"an endpoint is endpoint:URL, endpoint:URL#MODEL or endpoint:FILE.yaml, got {_without_secrets(text)!r}"
            )
        return cls.checked(_read(Path(text).expanduser()), source=text)

    @classmethod
    def checked(cls, values: Mapping[str, Any], *, source: str) -> EndpointSettings:
        """Validated settings; no message shows a value, which might be a key in the wrong place.

        Raises:
            ConfigError: a setting is unknown or wrong.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError(f"the endpoint {source!r} is not usable: {'; '.join(faults)}")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the endpoint file {str(path)!r} cannot be read: {error}") from error
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict):
        raise ConfigError(f"the endpoint file {str(path)!r} must be YAML with base_url and other settings")
    return {str(name): value for name, value in values.items()}


def _without_secrets(url: str) -> str:
    """The URL without a user part and without what follows "?"."""
    head, at, tail = url.partition("?")[0].rpartition("@")
    return f"{head.split('://')[0]}://...@{tail}" if at else tail
