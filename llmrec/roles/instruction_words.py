"""The words of instructions: what stands before the value, and ways to say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

InstructionClass = Literal["less_of", "more_of", "shift", "attribute", "tone", "different", "vague"]
OPENERS: Mapping[InstructionClass, tuple[str, ...]] = {
    "less_of": ("less", "fewer", "no more", "not so much", "enough"),
    "more_of": ("more", "some", "a bit of"),
    "shift": ("more like", "rather", "closer to"),
    "attribute": ("something", "anything", "a bit"),
    "tone": ("something", "anything", "a bit"),
    "different": ("something", "anything", "quite"),
    "vague": ("something more", "anything more", "a bit more"),
}
"""Words of which one stands before the value, so that the words cannot say the opposite of the class."""

PHRASES: Mapping[InstructionClass, tuple[str, ...]] = {
    "less_of": (
        "Please less {value}",
        "No more {value}, please",
        "I have had enough {value} for today",
        "Could I get fewer {value} ones",
        "Not so much {value} this time",
        "Less {value} would be nice",
        "Enough {value} for now",
        "Tired of this, no more {value}",
    ),
    "more_of": (
        "Please more {value}",
        "I would like some {value}",
        "Can you show me more {value}",
        "How about some {value} instead",
        "More {value} would be nice",
        "I feel like a bit of {value} tonight",
        "Some {value} would help",
        "Give me more {value}, please",
    ),
    "shift": (
        "Can we move closer to {value}",
        "I want it more like {value} now",
        "Rather {value} than this",
        "Let us try rather {value} now",
        "Show me things closer to {value}",
        "More like {value}, please",
    ),
    "attribute": (
        "Please something {value}",
        "Do you have anything {value}",
        "Could it be a bit {value}",
        "I would like something {value}",
        "Anything {value} would be better",
        "A bit {value}, please",
    ),
    "tone": (
        "Please something {value}",
        "In the mood for something {value}",
        "Could it be a bit {value}",
        "Do you have anything {value} than this",
        "Something {value} would suit me",
        "A bit {value}, please",
    ),
    "different": (
        "Too alike, show me something {value}",
        "I want something {value}",
        "Do you have anything {value}",
        "Please try something quite {value}",
        "Something {value}, please",
        "Anything {value} would do",
    ),
    "vague": (
        "I want something more {value}",
        "Do you have anything more {value}",
        "Something more {value}, please",
        "Could it be a bit more {value}",
        "Anything more {value} than these",
    ),
}
"""Ways to say it; each fits the grammar of its class whatever the value."""
