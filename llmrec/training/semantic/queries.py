"""Search queries as people type them, drawn from the catalogue: attribute phrases and fragments of titles."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmrec.data.catalogue import UNKNOWN
from llmrec.prompting import as_data
from llmrec.retrieval.titles import split_year

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue

TITLE_SHARE = 0.4
"""Share of queries that are a piece of a title; the others name attributes."""
_MOST_ATTRIBUTES = 3
_LONGEST_FRAGMENT = 4  # words


class SearchQuery(NamedTuple):
    """What a person may type to find an item."""

    text: str
    phrases: tuple[str, ...] = ()
    """Attribute phrases that it names; none in a piece of a title."""


def search_query(catalogue: Catalogue, row: int, rng: np.random.Generator) -> SearchQuery | None:
    """A query that this item answers; None for an item of which nothing is known.

    Others may answer it as well: the items that share what the query names.
    """
    phrases = attribute_phrases(catalogue, row)
    words = title_words(catalogue, row)
    chosen: tuple[str, ...] = ()
    if words and (not phrases or rng.random() < TITLE_SHARE):
        query = _fragment(words, rng)
    elif phrases:
        n = int(rng.integers(1, min(_MOST_ATTRIBUTES, len(phrases)) + 1))
        chosen = tuple(phrases[int(index)] for index in rng.choice(len(phrases), size=n, replace=False))
        query = " ".join(chosen)
    else:
        return None
    return SearchQuery(as_data(query.lower() if rng.random() < 0.5 else query), chosen)


def attribute_phrases(catalogue: Catalogue, row: int) -> list[str]:
    """What a query may name of an item: every category value, and the decade of a year ("1970s")."""
    phrases: list[str] = []
    for name in catalogue.attribute_names:
        kind = catalogue.kind(name)
        values = catalogue.values(row, name)
        if kind in ("category", "categories"):
            phrases.extend(str(value) for value in values)
        elif name == "year" and values:
            phrases.append(f"{int(values[0]) // 10 * 10}s")
    return phrases


def title_words(catalogue: Catalogue, row: int) -> list[str]:
    """Words of a title, without the year at its end; none where the source has no title."""
    title = catalogue.title(row)
    return [] if title == UNKNOWN else split_year(title)[0].split()


def _fragment(words: list[str], rng: np.random.Generator) -> str:
    length = int(rng.integers(1, min(_LONGEST_FRAGMENT, len(words)) + 1))
    start = int(rng.integers(0, len(words) - length + 1))
    return " ".join(words[start : start + length])
