"""Items as the simulated user's prompts show them: foreign text as data, on one line, without marks of our forms."""

from __future__ import annotations

from functools import lru_cache

from llmrec.data.catalogue import Catalogue
from llmrec.prompting import as_data

_ITEM_CHARACTERS, _PAST_CHARACTERS = 160, 60
_REMEMBERED = 1 << 16  # texts of items that are shown again and again


@lru_cache(maxsize=_REMEMBERED)
def item_text(catalogue: Catalogue, item: int) -> str:
    """A shown item: its flattened text."""
    return as_data(catalogue.flat(item), max_characters=_ITEM_CHARACTERS).replace("->", "-")


@lru_cache(maxsize=_REMEMBERED)
def past_text(catalogue: Catalogue, item: int, stars: int | None = None) -> str:
    """An item of the past: ``Alien (1979) 5``."""
    title = as_data(catalogue.display(item), max_characters=_PAST_CHARACTERS).replace(";", ",").replace("->", "-")
    return title if stars is None else f"{title} {stars}"
