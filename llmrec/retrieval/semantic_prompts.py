"""Prompts that a model with id tokens reads: one function per task, used for training and for inference alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmrec.prompting import as_data, render

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue


def history_prompt(ids: Sequence[str], titles: Sequence[str] = ()) -> str:
    """A history, oldest first, after which the next item's id follows. An empty one asks for a first item.

    Args:
        ids: id text of each item (`SemanticIds.text_of`).
        titles: title of each item, rendered as data; none leaves titles out.
    """
    items = list(zip(ids, titles, strict=True)) if titles else [(text, "") for text in ids]
    return render("recommender/semantic_history", items=items)


def item_prompt(catalogue: Catalogue, row: int) -> str:
    """An item's text, after which its id follows."""
    return render("recommender/semantic_item", text=as_data(catalogue.flat(row)))


def search_prompt(query: str) -> str:
    """A query, after which the id of an item that answers it follows."""
    return render("recommender/semantic_search", query=as_data(query))


def title_prompt(id_text: str) -> str:
    """An item's id, after which its title follows."""
    return render("recommender/semantic_title", id=id_text)


def shown_titles(catalogue: Catalogue, rows: Sequence[int]) -> list[str]:
    """Titles as prompts show them."""
    return [as_data(catalogue.display(int(row))) for row in rows]
