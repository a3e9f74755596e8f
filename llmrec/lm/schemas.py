"""Tool schemas: the function inside an OpenAI tool, and objects that take nothing but what they name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from llmrec.errors import ConfigError


def function_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function schema inside an OpenAI tool (or the schema itself).

    Raises:
        ConfigError: it has no name.
    """
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ConfigError(f"a tool needs a function with a name, got {tool!r}")
    return function


def closed_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema whose objects take no properties but those they name.

    JSON schema allows unknown properties unless told not to; a grammar would then let the model invent them.
    """

    def close(value: Any) -> Any:
        if isinstance(value, list):
            return [close(entry) for entry in value]
        if not isinstance(value, Mapping):
            return value
        closed = {key: close(entry) for key, entry in value.items()}
        if closed.get("type") == "object" and isinstance(closed.get("properties"), dict):
            closed.setdefault("additionalProperties", False)
        return closed

    return cast(dict[str, Any], close(schema))
