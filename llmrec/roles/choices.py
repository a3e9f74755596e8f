"""Small Lark grammars (llguidance dialect) out of literal texts."""

from __future__ import annotations

import json
from collections.abc import Sequence

from llmrec.lm.protocol import Constraint


def literal(text: str) -> str:
    """A Lark string that matches exactly this text."""
    return json.dumps(text, ensure_ascii=False)


def json_text(value: object) -> str:
    """Compact JSON, the way models are trained to write it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def one_of(texts: Sequence[str]) -> str:
    """A group that matches one of the texts."""
    return "(" + " | ".join(literal(text) for text in texts) + ")"


def subset_rules(name: str, elements: Sequence[str]) -> dict[str, str]:
    """Rules for a non-empty, comma-separated selection of the elements in their order; `name` is the start rule.

    Args:
        elements: literal texts, at least one.
    """
    rules: dict[str, str] = {}
    for index, element in enumerate(elements):
        rule = name if index == 0 else f"{name}_{index}"
        if index + 1 < len(elements):
            rest = f"{name}_{index + 1}"
            rules[rule] = f'{literal(element)} ("," {rest})? | {rest}'
        else:
            rules[rule] = literal(element)
    return rules


def grammar(start: str, rules: dict[str, str] | None = None) -> Constraint:
    """A Lark constraint from the body of the start rule and further rules."""
    lines = [f"start: {start}", *(f"{name}: {body}" for name, body in (rules or {}).items())]
    return Constraint(kind="lark", value="\n".join(lines) + "\n")
