"""Histories with the order inside ties drawn anew: what a score owes to how a file happens to be sorted.

Where timestamps are whole days, several events of a user share one, and the order of the file decides. In the Amazon
files of 2014 it follows the product code, so a model that learns "upwards" gains without predicting. Scoring shuffled
histories as well shows how much.
"""

from __future__ import annotations

import numpy as np

from llmrec.data.arrow import IntArray
from llmrec.data.interactions import Interactions
from llmrec.errors import DataError
from llmrec.seeding import rng


def shuffle_ties(interactions: Interactions, *, seed: int, keys: IntArray | None = None) -> Interactions:
    """The same events with the order inside each tie drawn with the seed.

    Args:
        interactions: events with timestamps, or of which only the order is known.
        seed: of the draw; a user's order depends on the seed and the place of the events alone.
        keys: where only the order is known, what the file sorts ties by (such as the rank of the product code), shape
            (n_items,). Ties cannot be told from accidents then, so every run of ascending keys counts as one: more
            is shuffled than was tied, and the score is a lower bound.

    Raises:
        DataError: only the order is known and no keys are given, or their number does not fit.
    """
    ties = tie_groups(interactions, keys)
    draw = rng(seed, "ties").random(len(interactions.items))
    order = np.lexsort((draw, ties))
    ratings = interactions.event_ratings
    return Interactions(
        offsets=interactions.offsets,
        items=interactions.items[order],
        timestamps=interactions.event_times,
        ratings=None if ratings is None else ratings[order],
        user_ids=interactions.user_ids,
        n_items=interactions.n_items,
        time_is_order_only=interactions.time_is_order_only,
        tie_rule=f"shuffled with seed {seed}",
        users=interactions.users_table(),
    )


def tie_groups(interactions: Interactions, keys: IntArray | None = None) -> IntArray:
    """Number of the tie that each event belongs to, ascending, shape (n_events,). Arguments as for `shuffle_ties`."""
    users = interactions.user_index()
    if len(users) == 0:
        return np.empty(0, dtype=np.int64)
    if not interactions.time_is_order_only:
        times = interactions.event_times
        tied = times[1:] == times[:-1]
    elif keys is None:
        raise DataError("this dataset knows only the order of events; name the keys that its file sorts ties by")
    elif len(keys) != interactions.n_items:
        raise DataError(f"keys must hold one number per item ({interactions.n_items}), got {len(keys)}")
    else:
        along = np.asarray(keys)[interactions.items]
        tied = along[1:] > along[:-1]
    starts = ~(tied & (users[1:] == users[:-1]))
    return np.concatenate([[0], np.cumsum(starts)]).astype(np.int64)
