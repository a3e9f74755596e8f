"""The plan as a JSON schema: what `llmrec.roles.planner` says as a grammar, for engines that take only schemas.

Every variant requires all of its properties and names the tool by a one-valued enum, so that the schema also passes
where optional properties and `const` are not allowed.
"""

from __future__ import annotations

import json
from typing import Any

from llmrec.errors import OutputError
from llmrec.lm.protocol import ToolCall
from llmrec.roles.planner import RANKINGS, PlanForm

MAX_PLANNED = 3
"""Calls of one answer."""


def plan_schema(plan: PlanForm) -> dict[str, Any] | None:
    """``{"calls": [...]}``: one to `MAX_PLANNED` calls with arguments from the request; None where no tool fits it."""
    variants = [_call(name, fields) for name, fields in _variants(plan) if name in plan.tools]
    if not variants:
        return None
    calls = {"type": "array", "items": {"anyOf": variants}, "minItems": 1, "maxItems": MAX_PLANNED}
    return _object({"calls": calls})


def read_plan(text: str) -> list[ToolCall]:
    """The calls of an answer; repeated list entries and repeated calls count once.

    Raises:
        OutputError: it is no plan.
    """
    try:
        calls = [ToolCall(one["name"], _unique(one["arguments"])) for one in json.loads(text)["calls"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"not a plan, got {text[:200]!r}") from error
    return [call for place, call in enumerate(calls) if call not in calls[:place]]


def _unique(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: list(dict.fromkeys(value)) if isinstance(value, list) else value for name, value in arguments.items()}


def _variants(plan: PlanForm) -> list[tuple[str, dict[str, Any]]]:
    """Tool and arguments of every call that makes sense for this request."""
    conditions = [condition.text() for condition in plan.request.conditions()]
    where = {"where": _some_of(conditions)} if conditions else {}
    query = {"query": {"enum": [plan.request.query]}} if plan.request.query else {}
    variants: list[tuple[str, dict[str, Any]]] = [("popular", {})]
    if plan.history:
        variants.append(("recommend", {}))
    if query:
        variants.append(("search", query))
    if where and plan.history:
        variants.append(("recommend", where))
    if where:
        variants += [("search", where), ("popular", where), ("filter", where)]
    if query and where:
        variants.append(("search", query | where))
    if plan.liked:
        variants.append(("similar", {"titles": _some_of(list(plan.liked))}))
    rankings = [ranking for ranking in RANKINGS if ranking != "taste" or plan.history]
    variants.append(("rank", {"by": {"enum": rankings}}))
    return variants


def _some_of(texts: list[str]) -> dict[str, Any]:
    return {"type": "array", "items": {"enum": texts}, "minItems": 1, "maxItems": len(texts)}


def _call(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    return _object({"name": {"enum": [name]}, "arguments": _object(fields)})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
