"""Wishes about an attribute, written as one short string that a model can choose and a program can check.

genres=Comedy        the attribute has this value
genres!=Horror       ... has it not
year=1980..1989      a number in a range, both ends included; either end may be left out: ``year=..1989``
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from llmrec.data.catalogue import Catalogue
from llmrec.errors import ToolError

_CONDITION = re.compile(r"^\s*(?P<attribute>[^=!]+?)\s*(?P<operator>!?=)\s*(?P<value>.+?)\s*$")
_NUMBER = r"-?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"^(?P<low>{_NUMBER})?\s*\.\.\s*(?P<high>{_NUMBER})?$|^(?P<exact>{_NUMBER})$")


class Wish(BaseModel):
    """One attribute value or one range of a numeric attribute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attribute: str
    """Name of a catalogue attribute."""
    value: str | None = None
    """Exact catalogue value; None for a range."""
    low: float | None = None
    """Lower end of the range, included; None is open."""
    high: float | None = None
    """Upper end of the range, included; None is open."""

    def text(self) -> str:
        """The condition as a model writes it."""
        return f"{self.attribute}={self.value_text()}"

    def value_text(self) -> str:
        """The part after the equals sign."""
        if self.value is not None:
            return self.value
        if self.low is not None and self.low == self.high:
            return _number(self.low)
        return f"{_number(self.low)}..{_number(self.high)}"

    def holds(self, catalogue: Catalogue, row: int) -> bool:
        """Whether the item has the value; an item without the attribute has not."""
        values = catalogue.values(row, self.attribute)
        if self.value is not None:
            return self.value in map(str, values)
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return any(low <= float(value) <= high for value in values)


class Condition(NamedTuple):
    """A wish, or with `exclude` its opposite."""

    wish: Wish
    exclude: bool = False

    def text(self) -> str:
        """``genres=Comedy`` or ``genres!=Horror``."""
        return self.wish.text().replace("=", "!=", 1) if self.exclude else self.wish.text()


def parse_condition(text: str, catalogue: Catalogue) -> Condition:
    """Read a condition and check it against the catalogue.

    Raises:
        ToolError: the form, the attribute or the value is wrong; the message names the nearest valid ones.
    """
    match = _CONDITION.match(text)
    if match is None:
        raise ToolError(f"condition got {text!r}; write attribute=value, attribute!=value or attribute=low..high")
    attribute = _attribute(match["attribute"], catalogue)
    exclude = match["operator"] == "!="
    match catalogue.kind(attribute):
        case "number":
            return Condition(_range(attribute, match["value"]), exclude)
        case "text":
            raise ToolError(f"{attribute} is free text; put the words into the query of search instead")
        case _:
            return Condition(Wish(attribute=attribute, value=_value(attribute, match["value"], catalogue)), exclude)


def nearest(text: str, choices: list[str], n: int = 3) -> list[str]:
    """The choices most like the text, best first."""
    from rapidfuzz import fuzz, process, utils

    found = process.extract(text, choices, scorer=fuzz.WRatio, processor=utils.default_process, limit=n)
    return [choice for choice, _, _ in found]


def _attribute(name: str, catalogue: Catalogue) -> str:
    for known in catalogue.attribute_names:
        if known.casefold() == name.casefold():
            return known
    raise ToolError(f"no attribute {name!r}; the attributes are {', '.join(catalogue.attribute_names)}")


def _value(attribute: str, value: str, catalogue: Catalogue) -> str:
    vocabulary = catalogue.vocabulary(attribute)
    if value in vocabulary:
        return value
    for known in vocabulary:
        if known.casefold() == value.casefold():
            return known
    close = nearest(value, list(vocabulary))
    hint = f"nearest values: {', '.join(close)}" if close else "it has no values"
    raise ToolError(f"no {attribute} {value!r}; {hint}")


def _range(attribute: str, text: str) -> Wish:
    match = _RANGE.match(text)
    if match is None or text.strip() == "..":
        raise ToolError(
            f"{attribute} is a number, got {text!r}; write {attribute}=1980..1989, =..1989, =1990.. or =1994"
        )
    if match["exact"]:
        return Wish(attribute=attribute, low=float(match["exact"]), high=float(match["exact"]))
    low = float(match["low"]) if match["low"] else None
    high = float(match["high"]) if match["high"] else None
    if low is not None and high is not None and low > high:
        raise ToolError(f"{attribute}={text}: the lower end is above the upper end; swap them")
    return Wish(attribute=attribute, low=low, high=high)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if value == int(value) else str(value)
