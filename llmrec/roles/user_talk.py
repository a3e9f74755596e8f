"""What a simulated user reads beyond slates: whether it leaves, and what it answers in a conversation.

As in `llmrec.roles.user`, training texts and prompts at run time come from one function each: a prompt is the training
text up to what the model writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from llmrec.data.catalogue import Catalogue
from llmrec.prompting import as_data, render
from llmrec.roles.persona import Persona, words
from llmrec.roles.user import Seen, decision_document

STAY, LEAVE = "stays", "leaves"
TALK_LABELS = ("accept", "liked", "reject", "unsure")
"""Of an offered thing: unknown and wanted; known and liked; not wanted; nothing said."""
SAID_LENGTH = 6
"""Newest messages that a prompt shows."""
_SAID_CHARACTERS, _TITLE_CHARACTERS = 200, 60


class Said(NamedTuple):
    """A message of a conversation, seen from the user."""

    speaker: Literal["You", "They"]
    text: str


def leave_prompt(
    catalogue: Catalogue, persona: Persona, history: Sequence[Seen], shown: Sequence[tuple[int, str]]
) -> str:
    """After these decisions: does the user stay or leave? `STAY` or `LEAVE` follows, after a space.

    Args:
        history: taken before the session, oldest first.
        shown: (catalogue row, label) of the session in order.
    """
    return render("user/leave", decisions=decision_document(catalogue, persona, history, shown))


def talk_prompt(noun: str, said: Sequence[Said], offers: Sequence[tuple[str, str]], title: str) -> str:
    """What does the user think of the offered title? One of `TALK_LABELS` follows, after a space.

    Args:
        noun: what an item is called.
        said: messages so far; the newest `SAID_LENGTH` are written.
        offers: (title, label) that the same message offers and that were decided on already.
    """
    return _render(noun, said, offers, title=title)


def answer_prompt(noun: str, said: Sequence[Said], offers: Sequence[tuple[str, str]]) -> str:
    """What does the user say about the offers? Its words follow, after a space."""
    return _render(noun, said, offers, answering=True)


def after_answer_prompt(noun: str, said: Sequence[Said], offers: Sequence[tuple[str, str]], reply: str) -> str:
    """Having answered so: does the user stay or leave? `STAY` or `LEAVE` follows, after a space."""
    return _render(noun, said, offers, answering=True, reply=said_text(reply))


def said_text(text: str) -> str:
    """A message as prompts show it."""
    return as_data(text, max_characters=_SAID_CHARACTERS).replace("->", "-")


def _render(
    noun: str,
    said: Sequence[Said],
    offers: Sequence[tuple[str, str]],
    *,
    title: str = "",
    answering: bool = False,
    reply: str = "",
) -> str:
    return render(
        "user/talk",
        person=words(noun).person,
        said=[(one.speaker, said_text(one.text)) for one in said[-SAID_LENGTH:]],
        offers=[(_title(name), label) for name, label in offers],
        next=_title(title),
        answering=answering,
        reply=reply,
    )


def _title(text: str) -> str:
    return as_data(text, max_characters=_TITLE_CHARACTERS).replace("->", "-")
