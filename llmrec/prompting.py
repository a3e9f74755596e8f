"""The one loader of prompt templates, and the one function through which item text enters a prompt.

Templates are ``prompts/<role>/<name>.jinja``. Each opens with a ``{# ... #}`` header: purpose, variables, who calls it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import jinja2

from llmrec.assets import asset
from llmrec.errors import ConfigError

# Markup that chat templates give a meaning to. Text of items or users must never carry it.
_MARKUP = re.compile(
    r"<\|[^|<>]{0,40}\|>|</?(?:tool_call|tool_response|think|tools|system|assistant|user)>", re.IGNORECASE
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")
_SPACES = re.compile(r" {2,}")


def as_data(text: object, *, max_characters: int = 400) -> str:
    """Render foreign text as data: no control characters, no chat markup, one line, bounded length."""
    cleaned = _CONTROL.sub(" ", str(text))
    while (stripped := _MARKUP.sub("", cleaned)) != cleaned:  # removal may join two halves into new markup
        cleaned = stripped
    return _SPACES.sub(" ", cleaned).strip()[:max_characters]


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(asset("prompts")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        autoescape=False,  # prompts are plain text, not HTML
    )
    environment.filters["data"] = as_data
    return environment


@lru_cache(maxsize=256)
def _template(name: str) -> jinja2.Template:
    try:
        return _environment().get_template(f"{name}.jinja")
    except jinja2.TemplateNotFound as error:
        raise ConfigError(f"no prompt template, got {name!r}; expected a file prompts/{name}.jinja") from error


def render(name: str, **values: Any) -> str:
    """Render ``prompts/<name>.jinja``.

    Raises:
        ConfigError: the template is missing, broken, or a variable was not given.
    """
    try:
        return _template(name).render(**values)
    except jinja2.TemplateError as error:
        raise ConfigError(f"prompt template {name!r} cannot be rendered: {error}") from error
