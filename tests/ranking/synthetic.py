"""Small datasets with something to learn, built with the real classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.interactions import Interactions


def dataset_of(histories: Sequence[Sequence[int]], n_items: int) -> Dataset:
    """These histories over numbered items."""
    columns = {"item_id": [f"i{row}" for row in range(n_items)], "title": [f"Item {row}" for row in range(n_items)]}
    interactions = Interactions.from_arrays(
        np.repeat(np.arange(len(histories)), [len(history) for history in histories]),
        np.concatenate([np.asarray(history, dtype=np.int64) for history in histories]),
        None,
        user_ids=[f"u{user}" for user in range(len(histories))],
        n_items=n_items,
    )
    return Dataset(name="made", spec="made", catalogue=Catalogue.from_columns(columns), interactions=interactions)


def walks(*, n_users: int = 64, n_items: int = 40, length: int = 8, stray: float = 0.0, seed: int = 0) -> Dataset:
    """Each user goes round the items in steps of an own size (1 or 3), which the last two items tell; no item twice.

    Args:
        stray: share of events replaced by a random item.
    """
    draw = np.random.default_rng(seed)
    histories = []
    for user in range(n_users):
        start, step = int(draw.integers(n_items)), (1, 3)[user % 2]
        history = (start + step * np.arange(length + user % 3)) % n_items
        strays = draw.random(len(history)) < stray
        histories.append(np.where(strays, draw.integers(n_items, size=len(history)), history).tolist())
    return dataset_of(histories, n_items)
