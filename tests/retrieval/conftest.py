"""A small catalogue and histories, built with the real classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.interactions import Interactions
from llmrec.data.splits import Split, leave_one_out

FILMS: list[tuple[str, int | None, list[str]]] = [
    ("Alien", 1979, ["Horror", "Sci-Fi"]),
    ("Aliens", 1986, ["Action", "Sci-Fi"]),
    ("Princess Bride, The", 1987, ["Comedy", "Romance"]),
    ("Amélie", 2001, ["Comedy", "Romance"]),
    ("Thing, The", 1982, ["Horror", "Sci-Fi"]),
    ("Heat", 1995, ["Crime", "Drama"]),
    ("Toy Story", 1995, ["Animation", "Comedy"]),
    ("Toy Story 2", 1999, ["Animation", "Comedy"]),
    ("City of Lost Children, The (Cité des enfants perdus, La)", 1995, ["Fantasy"]),
    ("Solaris", 1972, ["Drama", "Sci-Fi"]),
    ("Solaris", 2002, ["Drama", "Sci-Fi"]),
    ("Dr. Strangelove", 1964, ["Comedy", "War"]),
    ("Star Wars: Episode IV - A New Hope", 1977, ["Action", "Sci-Fi"]),
    ("Taxi Driver", 1976, ["Crime", "Drama"]),
    ("Hello, Dolly!", 1969, ["Musical"]),
    ("Godfather, The", 1972, ["Crime", "Drama"]),
    ("Crouching Tiger, Hidden Dragon", 2000, ["Action"]),
    (None, None, ["Drama"]),  # type: ignore[list-item]  # a title that the source lacks
]


def catalogue_of(films: list[tuple[str, int | None, list[str]]]) -> Catalogue:
    columns: dict[str, list[Any]] = {
        "item_id": [f"f{i}" for i in range(len(films))],
        "title": [title for title, _, _ in films],
        "year": [year for _, year, _ in films],
        "genres": [genres for _, _, genres in films],
    }
    return Catalogue.from_columns(columns, flat_fields=("genres",))


def dataset_of(histories: list[list[int]], catalogue: Catalogue) -> Dataset:
    interactions = Interactions.from_arrays(
        np.repeat(np.arange(len(histories)), [len(h) for h in histories]),
        np.concatenate([np.array(h, dtype=np.int64) for h in histories]),
        None,
        user_ids=[f"u{i}" for i in range(len(histories))],
        n_items=len(catalogue),
    )
    return Dataset(name="tiny", spec="tiny", catalogue=catalogue, interactions=interactions)


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return catalogue_of(FILMS)


@pytest.fixture(scope="session")
def dataset(catalogue: Catalogue) -> Dataset:
    histories = [[0, 1, 4, 9, 10], [0, 1, 12, 4], [2, 3, 6, 7], [6, 7, 2, 11], [5, 13, 15, 0, 1], [0, 4, 9]]
    return dataset_of(histories, catalogue)


@pytest.fixture(scope="session")
def split(dataset: Dataset) -> Split:
    return leave_one_out(dataset.interactions)
