"""What went wrong at a server, as one of this package's errors.

No message and no cause carries the key: servers echo it in error bodies, and the SDK's exceptions hold requests with
their headers. So SDK errors are translated to new ones and not chained.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
import openai

from llmrec.errors import ConfigError, LlmrecError, ModelError, PromptTooLong, ServerDownError, UnsupportedError
from llmrec.lm.endpoint.settings import EndpointSettings

_UNREACHABLE = (httpx2.ConnectError, httpx2.ConnectTimeout)
_OVERFLOW = re.compile(
    r"context[ _](length|size|window)|maximum context|prompt is too long|longer than the maximum model",
    re.IGNORECASE,
)


class Refused(ModelError):
    """The server refuses the request as it is (status 400 or 422)."""


def translate(
    error: openai.OpenAIError, settings: EndpointSettings, *, models: Sequence[str] = (), starting: bool = False
) -> LlmrecError:
    """The error to raise in place of an SDK error.

    Args:
        error: what the SDK raised.
        settings: of the endpoint.
        models: names of the server's models, for messages.
        starting: whether this is the first contact.
    """
    url = settings.base_url
    if isinstance(error, openai.APIStatusError):
        return _status_error(error, settings, models)
    if isinstance(error, openai.APITimeoutError) and not isinstance(error.__cause__, _UNREACHABLE):
        return ModelError(
            f"{url} gave no answer within {settings.timeout_s:g} s, asked {times(error)}; is it overloaded? "
            "raise timeout_s of the endpoint"
        )
    if isinstance(error, openai.APIConnectionError):
        if isinstance(error.__cause__, _UNREACHABLE):
            return _down(settings, starting=starting)
        what = type(error.__cause__).__name__
        return ModelError(f"the connection to {url} broke ({what}), asked {times(error)}; look at the server's log")
    return ModelError(f"{url} failed: {clean(str(error), settings)}; look at the server's log")


def is_free(error: openai.OpenAIError) -> bool:
    """Whether the model was certainly not asked: nobody answered, or the server refused the request."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code < 500
    return isinstance(error.__cause__, _UNREACHABLE)


def times(error: openai.APIConnectionError | openai.APIStatusError) -> str:
    """How often a call was made: "5 times"."""
    n = 1 + retries_of(error)
    return f"{n} times" if n > 1 else "once"


def retries_of(error: openai.OpenAIError) -> int:
    """How often the SDK made the call again before it gave up."""
    request = getattr(error, "request", None)  # not every SDK error belongs to a request
    return int(request.headers.get("x-stainless-retry-count", 0)) if request is not None else 0


def clean(text: str, settings: EndpointSettings) -> str:
    """A server's words, on one line, short, and without the key."""
    key = settings.key()
    if key:
        text = text.replace(key, "***")
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:300] + " ..."


def some(names: Sequence[str], most: int = 20) -> str:
    """Names for a message; "none" where there are none."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "none"


def _down(settings: EndpointSettings, *, starting: bool) -> LlmrecError:
    url = settings.base_url
    if starting:
        return ServerDownError(
            f"no server answers at {url}; start one, such as: llmrec models serve FILE.gguf, and give its URL"
        )
    return ServerDownError(
        f"the server at {url} does not answer any more; start it again (such as: llmrec models serve FILE.gguf) and "
        "run the command again"
    )


def _status_error(error: openai.APIStatusError, settings: EndpointSettings, models: Sequence[str]) -> LlmrecError:
    url, status, said = settings.base_url, error.status_code, clean(_message(error), settings)
    body = error.body if isinstance(error.body, Mapping) else {}
    if status in (401, 403):
        return _refused_key(settings, status)
    if status == 429 and "insufficient_quota" in (body.get("code"), body.get("type")):
        return ConfigError(f"the account behind {url} has no quota left: {said}; add credit or use another key")
    if status == 429:
        return ModelError(
            f"{url} refused the call for too many requests (status 429), asked {times(error)}: {said}; "
            "lower max_concurrency of the endpoint, or try later"
        )
    if status == 501:
        return UnsupportedError(f"{url} cannot do this: {said}; use another server or start it with this feature")
    if status >= 500:
        return ModelError(f"{url} failed (status {status}), asked {times(error)}: {said}; look at the server's log")
    if _is_overflow(body, said):
        return _too_long(body, said)
    if status == 404:
        return _not_found(error, settings, said, models)
    return Refused(f"{url} refuses the request (status {status}): {said}; change the request or the server")


def _message(error: openai.APIStatusError) -> str:
    body: Any = error.body
    if isinstance(body, Mapping):
        value = body.get("message") or body.get("detail") or body.get("error") or body
        return str(value)
    if isinstance(body, str) and body:
        return "an HTML page" if "<html" in body.lower() else body
    return error.response.reason_phrase or "no message"


def _refused_key(settings: EndpointSettings, status: int) -> ConfigError:
    if settings.key():
        return ConfigError(
            f"{settings.base_url} refuses the key in the environment variable {settings.key_variable} "
            f"(status {status}); set it to a valid key that may use this model"
        )
    return ConfigError(
        f"{settings.base_url} needs a key (status {status}), and the environment variable {settings.key_variable} is "
        "empty; put the key there, or name another variable by key_variable of the endpoint"
    )


def _is_overflow(body: Mapping[str, Any], said: str) -> bool:
    known = ("exceed_context_size_error", "context_length_exceeded")
    return body.get("type") in known or body.get("code") in known or bool(_OVERFLOW.search(said))


def _too_long(body: Mapping[str, Any], said: str) -> PromptTooLong:
    if "n_prompt_tokens" in body and "n_ctx" in body:
        return PromptTooLong(
            f"the prompt has {body['n_prompt_tokens']} tokens, the model's context is {body['n_ctx']}: shorten it"
        )
    return PromptTooLong(f"the prompt does not fit the model's context: {said}; shorten it")


def _not_found(
    error: openai.APIStatusError, settings: EndpointSettings, said: str, models: Sequence[str]
) -> LlmrecError:
    path = error.request.url.path
    nowhere = ConfigError(
        f"{settings.base_url} has no {path} (status 404), so it is no OpenAI-compatible server; check base_url"
    )
    if path.endswith("/models"):  # asked without naming a model, whatever words the answer has
        return nowhere
    if re.search(r"\bmodel\b", said, re.IGNORECASE):
        return ConfigError(f"{settings.base_url} has no such model: {said}; it has: {some(models)}")
    if path.endswith("/chat/completions"):
        return nowhere
    return UnsupportedError(f"the server at {settings.base_url} has no {path} (status 404); use a server that has it")
