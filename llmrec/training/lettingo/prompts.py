"""Prompts of profile writers and of the predictor that reads profiles, as raw text or as chat messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmrec.prompting import as_data, render
from llmrec.roles.persona import topic_attributes, words
from llmrec.training.lettingo.windows import LABELS, Rated

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue
    from llmrec.data.dataset import Dataset
    from llmrec.lm.protocol import Message

Style = Literal["raw", "chat"]
"""raw: text to be continued, for models trained on it; chat: one message that asks."""
Field_ = Literal["title", "topics", "flat"]
Prompt = str | list["Message"]
_PROFILE_CHARACTERS = 4000


class ItemFields(BaseModel):
    """What prompts show of items: title, topics (genres, categories), or flat (the flattened text, which has both)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    older: tuple[Field_, ...] = Field(default=("title", "topics"), min_length=1)
    recent: tuple[Field_, ...] = Field(default=("title", "topics"), min_length=1)
    target: tuple[Field_, ...] = Field(default=("title", "topics"), min_length=1)


class ProfilePrompts:
    """Renders the prompts of one dataset.

    Args:
        dataset: names the wording and the items.
        fields: what of an item is shown.
    """

    def __init__(self, dataset: Dataset, fields: ItemFields) -> None:
        self._catalogue, self._fields = dataset.catalogue, fields
        self._noun, self._words = dataset.item_noun, words(dataset.item_noun)

    def write(self, older: Sequence[Rated], *, style: Style, template: str | None = None) -> Prompt:
        """Asks for a profile.

        Args:
            older: items that the profile is written from, oldest first.
            style: raw text or a chat message.
            template: a prompt of its own in place of ours (prompts/NAME.jinja, same variables).
        """
        text = render(
            template or ("profile/write" if style == "raw" else "profile/chat_write"),
            **self._shared(),
            items=self._lines(older, self._fields.older),
        )
        return _as_prompt(text, style)

    def predict(self, recent: Sequence[Rated], profile: str, target: int, *, style: Style) -> Prompt:
        """Asks for the label of a target item; an empty profile stands for none."""
        text = render(
            "profile/predict" if style == "raw" else "profile/chat_predict",
            **self._shared(),
            items=self._lines(recent, self._fields.recent),
            profile=as_data(profile, max_characters=_PROFILE_CHARACTERS),
            target=item_line(self._catalogue, target, self._fields.target),
        )
        return _as_prompt(text, style)

    def before_history(self, profile: str, prompt: str) -> str:
        """A recommender's prompt with a profile in front of it; unchanged for an empty profile."""
        shown = as_data(profile, max_characters=_PROFILE_CHARACTERS)
        return (
            render("profile/before_history", person=self._words.person, profile=shown, prompt=prompt)
            if shown
            else prompt
        )

    def _shared(self) -> dict[str, str]:
        return {"person": self._words.person, "consumed": self._words.consumed, "noun": self._noun}

    def _lines(self, rated: Sequence[Rated], fields: Sequence[Field_]) -> list[tuple[str, str]]:
        return [(item_line(self._catalogue, one.item, fields), one.label) for one in rated]


def item_line(catalogue: Catalogue, item: int, fields: Sequence[Field_]) -> str:
    """An item on one line: ``Alien (1979), Horror, Sci-Fi``."""
    parts: list[str] = []
    for field in fields:
        if field == "title":
            parts.append(as_data(catalogue.display(item), max_characters=80))
        elif field == "flat":
            parts.append(as_data(catalogue.flat(item), max_characters=200))
        else:
            parts += topics(catalogue, item)
    return ", ".join(parts) or "unknown"


def topics(catalogue: Catalogue, item: int) -> list[str]:
    """What an item is about, rendered as data."""
    names = topic_attributes(catalogue)[:1]
    return [as_data(value, max_characters=30) for name in names for value in catalogue.values(item, name)]


def label_texts(style: Style) -> tuple[str, ...]:
    """How the labels stand behind a prompt, in the order of `LABELS`."""
    return tuple(f" {label}" if style == "raw" else label for label in LABELS)


def _as_prompt(text: str, style: Style) -> Prompt:
    return text if style == "raw" else [{"role": "user", "content": text}]
