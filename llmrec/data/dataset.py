"""A loaded dataset: catalogue, interactions, and what was rejected or changed on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from llmrec.data.catalogue import Catalogue
from llmrec.data.interactions import Interactions

Domain = Literal["films", "movies", "products", "items"]


@dataclass(frozen=True)
class Rejected:
    """One row that was not taken, and why."""

    source: str
    """File name."""
    line: int
    """Line number in that file, counted from 1 (the header is line 1)."""
    reason: str
    text: str
    """The row, shortened."""


@dataclass(frozen=True)
class Dataset:
    """Everything that commands need to know about one dataset."""

    name: str
    spec: str
    catalogue: Catalogue
    interactions: Interactions
    rejected: Sequence[Rejected] = ()
    notes: tuple[str, ...] = ()
    """What the loader decided: tie rule, repeats removed, columns left out."""
    licence: str = ""
    item_noun: str = "item"
    """What an item is called in prose: film, product, item."""
    domain: Domain = "items"
    planted: Any | None = None
    """The planted tastes of a generated dataset; None for real data."""

    @property
    def content_hash(self) -> str:
        """Hash of catalogue, its flattened form, and interactions; the key of everything derived from this dataset."""
        form = repr((self.catalogue.flat_fields, self.catalogue.flat_labels, self.catalogue.separator, self.item_noun))
        shape = hashlib.sha256(form.encode()).hexdigest()[:8]
        return f"{self.catalogue.content_hash}-{self.interactions.content_hash}-{shape}"


def compact(dataset: Dataset, interactions: Interactions) -> Dataset:
    """The dataset with only those users and items that occur in `interactions`, renumbered.

    Use after `k_core`, so that the catalogue is the item set of the protocol (3,416 films of MovieLens-1M, not 3,706).
    """
    items = np.flatnonzero(interactions.item_counts() > 0)
    users = np.flatnonzero(interactions.lengths() > 0)
    new_row = np.full(interactions.n_items, -1, dtype=np.int64)
    new_row[items] = np.arange(len(items))
    table = interactions.users_table()
    kept = Interactions(
        offsets=np.concatenate([[0], np.cumsum(interactions.lengths()[users])]).astype(np.int64),
        items=new_row[interactions.items],
        timestamps=interactions.event_times,
        ratings=interactions.event_ratings,
        user_ids=[interactions.user_ids[int(user)] for user in users],
        n_items=len(items),
        time_is_order_only=interactions.time_is_order_only,
        tie_rule=interactions.tie_rule,
        users=None if table is None else table.take(pa.array(users)),
    )
    old = dataset.catalogue
    catalogue = Catalogue(
        old.table.take(pa.array(items)),
        flat_fields=old.flat_fields,
        flat_labels=old.flat_labels,
        separator=old.separator,
        kinds={name: old.kind(name) for name in old.attribute_names},
    )
    note = f"compacted from {len(old)} items and {interactions.n_users} users to {len(items)} and {len(users)}"
    return replace(dataset, catalogue=catalogue, interactions=kept, notes=(*dataset.notes, note))
