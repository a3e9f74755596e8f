"""A summary of a dataset for people and programs: what `llmrec data describe` prints."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow.compute as pc

from llmrec.data.catalogue import UNKNOWN
from llmrec.data.dataset import Dataset
from llmrec.data.interactions import Interactions

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


def describe(dataset: Dataset, *, rows: int = 3) -> dict[str, Any]:
    """Counts, sparsity, time span, history lengths, gaps in the text, duplicate titles, sample rows, rejected rows.

    Args:
        dataset: what to describe.
        rows: number of sample items and histories.
    """
    interactions = dataset.interactions
    cells = interactions.n_users * interactions.n_items
    return {
        "dataset": dataset.spec,
        "name": dataset.name,
        "licence": dataset.licence,
        "n_users": interactions.n_users,
        "n_items": len(dataset.catalogue),
        "n_interactions": len(interactions),
        "n_items_without_interactions": int((interactions.item_counts() == 0).sum()),
        "sparsity": 1.0 - len(interactions) / cells if cells else None,
        "has_ratings": interactions.has_ratings,
        "rating_counts": _rating_counts(interactions),
        "time": _time(interactions),
        "history_lengths": _lengths(interactions),
        "attributes": _attributes(dataset),
        "missing_titles": sum(title == UNKNOWN for title in dataset.catalogue.titles()),
        "duplicate_titles": _duplicates(dataset),
        "flat_fields": list(dataset.catalogue.flat_fields),
        "sample_items": [dataset.catalogue.describe(row) for row in range(min(rows, len(dataset.catalogue)))],
        "sample_flat": [dataset.catalogue.flat(row) for row in range(min(rows, len(dataset.catalogue)))],
        "sample_histories": [_history(dataset, user) for user in range(min(rows, interactions.n_users))],
        "notes": list(dataset.notes),
        "n_rejected": len(dataset.rejected),
        "rejected": [vars(row) for row in dataset.rejected],
        "content_hash": dataset.content_hash,
    }


def _rating_counts(interactions: Interactions) -> dict[str, int] | None:
    if interactions.event_ratings is None:
        return None
    values, counts = np.unique(interactions.event_ratings, return_counts=True)
    if len(values) > 20:
        return None
    return {f"{value:g}": int(count) for value, count in zip(values, counts, strict=True)}


def _time(interactions: Interactions) -> dict[str, Any]:
    known = {"order_only": interactions.time_is_order_only, "tie_rule": interactions.tie_rule}
    if interactions.time_is_order_only or len(interactions) == 0:
        return known
    first, last = int(interactions.event_times.min()), int(interactions.event_times.max())
    return {**known, "first": _date(first), "last": _date(last), "days": round((last - first) / 86_400, 1)}


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat()


def _lengths(interactions: Interactions) -> dict[str, float]:
    lengths = interactions.lengths()
    quantiles = np.quantile(lengths, QUANTILES)
    named = {f"q{round(q * 100)}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)}
    return {"mean": float(lengths.mean()), **named}


def _attributes(dataset: Dataset) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in dataset.catalogue.attribute_names:
        kind = dataset.catalogue.kind(name)
        column = dataset.catalogue.table.column(name)
        absent = sum(value in (None, "", []) for value in column.to_pylist())
        found[name] = {"kind": kind, "missing": absent}
        if kind in ("category", "categories"):
            vocabulary = dataset.catalogue.vocabulary(name)
            found[name] |= {"distinct": len(vocabulary), "most_frequent": list(vocabulary)[:5]}
        elif kind == "number" and absent < len(column):
            found[name] |= pc.min_max(column).as_py()
    return found


def _duplicates(dataset: Dataset) -> dict[str, Any]:
    """Items that share what is displayed: title and year."""
    catalogue = dataset.catalogue
    counts = Counter(catalogue.titles())
    suspects = [row for row, title in enumerate(catalogue.titles()) if counts[title] > 1 and title != UNKNOWN]
    shown = Counter(catalogue.display(row) for row in suspects)
    several = {title: count for title, count in shown.most_common() if count > 1}
    return {"n_titles": len(several), "n_items": sum(several.values()), "examples": dict(list(several.items())[:5])}


def _history(dataset: Dataset, user: int) -> dict[str, Any]:
    interactions = dataset.interactions
    items = [dataset.catalogue.display(int(row)) for row in interactions.history(user)[:5]]
    stars = interactions.ratings(user)
    return {
        "user_id": interactions.user_ids[user],
        "attributes": interactions.user_attributes(user),
        "n": len(interactions.history(user)),
        "first_items": items,
        "first_ratings": None if stars is None else [float(value) for value in stars[:5]],
    }
