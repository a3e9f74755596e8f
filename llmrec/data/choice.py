"""The choice model behind the embedded films: who watches what, when, and how much they like it.

docs/films.md states the equations. In short: at step t user u takes the film i with the largest

    taste_u(t, i) + attraction_u * appeal_i + coherence_u * context_u(t, i) - unseen_part_u(t, i) + Gumbel noise,

where the context is what the films just watched lead to. One step is one choice of every user who still has one to
make. All of it is integer arithmetic in units of 1/1024 nat (`fixed_point`), so a seed gives the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llmrec.data.choice_films import Film, World
from llmrec.data.choice_settings import ChoiceSettings
from llmrec.data.choice_viewers import Viewers
from llmrec.data.film_tastes import AGE_GROUPS, OCCUPATIONS, VIEWER_TYPES
from llmrec.data.fixed_point import TABLE_BITS, UNIT, Ints, Longs, bits, units, variates
from llmrec.seeding import rng

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.intp]

_TAKEN = -(2**29)  # utility of a film that was watched already
_HOUR, _DAY = 3_600, 86_400
_START = 1_325_376_000  # 2012-01-01
_START_SPAN = 2_192 * _DAY  # six years


class Chosen(NamedTuple):
    """Events of all users, sorted by user and time, and the public attributes of users."""

    users: Longs
    items: Longs
    timestamps: Longs
    ratings: Floats
    age_groups: tuple[str, ...]
    occupations: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class PlantedTastes:
    """What was planted, for tests that ask whether a method recovers it. None of it may ever reach a prompt.

    Pairs of arrays hold the values at the first and at the last film of a history; utilities are in nats.
    """

    genres: tuple[str, ...]
    keywords: tuple[str, ...]
    genre_tastes: tuple[Floats, Floats]
    """Each (n_users, n_genres)."""
    keyword_tastes: tuple[Floats, Floats]
    """Each (n_users, n_keywords)."""
    favourite_people: tuple[tuple[str, ...], ...]
    types: tuple[tuple[str, str], ...]
    """The viewer type that a user starts from and the one that the user drifts to."""
    favourite_years: Longs
    appeal: Floats
    """Log base appeal of films, shape (n_items,)."""
    attraction: Floats
    """How strongly base appeal pulls each user, shape (n_users,)."""
    coherence: Floats
    """How strongly the films just watched pull each user, shape (n_users,)."""
    taste_units: Ints
    """Taste at the end of the history in 1/1024 nat, shape (n_users, n_items)."""
    last_units: Ints
    """Utility at the last choice in 1/1024 nat, shape (n_users, n_items)."""

    def oracle_scores(self, user: int) -> Floats:
        """True utilities at the user's last choice, shape (n_items,); -inf for films watched before it."""
        last = self.last_units[user]
        scores: Floats = np.asarray(last / UNIT, dtype=np.float32)
        scores[last <= _TAKEN // 2] = -np.inf
        return scores

    def taste_scores(self, user: int) -> Floats:
        """How much the user likes each film in the end, without appeal and context, shape (n_items,)."""
        scores: Floats = np.asarray(self.taste_units[user] / UNIT, dtype=np.float32)
        return scores


def choose(films: Sequence[Film], settings: ChoiceSettings, *, seed: int) -> tuple[Chosen, PlantedTastes]:
    """Draw users and their histories.

    Args:
        films: the catalogue, by row.
        settings: constants of the model.
        seed: equal seeds give equal bytes on every machine.

    Returns:
        Events and public attributes, and what was planted.
    """
    world = World(films, settings)
    viewers = Viewers(world, settings, seed)
    spread = variates(rng(seed, "films", "appeal"), "normal", len(films)).astype(np.int64)
    appeal = units(settings.appeal) * spread // UNIT
    items, last = _histories(world, viewers, appeal, settings, seed)
    order = rng(seed, "films", "order").bit_generator.random_raw(settings.n_users).argsort(kind="stable")
    return _events(viewers, appeal, items, order, settings, seed), _planted(world, viewers, appeal, last, order)


def _histories(world: World, viewers: Viewers, appeal: Longs, settings: ChoiceSettings, seed: int) -> tuple[Ints, Ints]:
    """Chosen rows, shape (n_users, longest), -1 after the end; and utilities at each user's last choice."""
    draw = rng(seed, "films", "choices")
    lengths, longest = viewers.lengths, int(viewers.lengths[0])
    start, end = viewers.taste
    base = (start + viewers.attraction[:, None] * appeal // UNIT).astype(np.int32)
    unseen = units(settings.unseen_part)
    base[:, world.before >= 0] -= unseen
    drift = ((end - start) // np.maximum(1, lengths - 1)[:, None]).astype(np.int32)
    context, last = np.zeros_like(base), np.zeros_like(base)
    items = np.full((len(lengths), longest), -1, dtype=np.int32)
    for step in range(longest):
        active = int(np.searchsorted(-lengths, -step, side="left"))  # users with more than `step` films
        utility = base[:active] + context[:active]
        ending = np.flatnonzero(lengths[:active] == step + 1)
        last[ending] = utility[ending]
        utility += variates(draw, "gumbel", active, len(appeal))
        chosen = utility.argmax(axis=1)
        items[:active, step] = chosen
        _update(world, viewers, unseen, base[:active], context[:active], drift[:active], chosen)
    return items, last


def _update(
    world: World, viewers: Viewers, unseen: int, base: Ints, context: Ints, drift: Ints, chosen: Positions
) -> None:
    """What a choice changes, in place: taste drifts, the film is taken, its next part opens, the context moves on."""
    rows = np.arange(len(chosen))
    base += drift
    base[rows, chosen] = _TAKEN
    following = world.after[chosen]
    base[rows[following >= 0], following[following >= 0]] += unseen
    context >>= 1
    context += viewers.coherence[: len(chosen), None].astype(np.int32) * world.leads_to[chosen] // UNIT


def _events(
    viewers: Viewers, appeal: Longs, items: Ints, order: Positions, settings: ChoiceSettings, seed: int
) -> Chosen:
    """Flat columns of all users in the given order, with ratings and timestamps."""
    seen = (items >= 0)[order]
    ratings = _ratings(viewers, appeal, items, settings, seed)
    times = _times(len(items), items.shape[1], seed)
    return Chosen(
        users=np.repeat(np.arange(len(order), dtype=np.int64), viewers.lengths[order]),
        items=items[order][seen].astype(np.int64),
        timestamps=times[order][seen],
        ratings=ratings[order][seen].astype(np.float32),
        age_groups=tuple(AGE_GROUPS[i].name for i in viewers.age[order]),
        occupations=tuple(OCCUPATIONS[i] for i in viewers.job[order]),
    )


def _ratings(viewers: Viewers, appeal: Longs, items: Ints, settings: ChoiceSettings, seed: int) -> Longs:
    """Stars 1 to 5: linear in taste at that time and in the film's appeal, plus the user's offset and noise."""
    noise = variates(rng(seed, "films", "ratings"), "normal", *items.shape).astype(np.int64)
    rows = np.maximum(0, items).astype(np.int64)  # padding after the end is cut off by the caller
    start, end = (_above_average(taste, rows) for taste in viewers.taste)
    step, steps = np.arange(items.shape[1]), np.maximum(1, viewers.lengths - 1)[:, None]
    liking = start + (end - start) * step // steps + appeal[rows]
    varying = (units(settings.rating_gain) * liking + units(settings.rating_noise) * noise) // UNIT
    stars = units(settings.rating_base) + varying + viewers.rating_offset[:, None]
    rounded: Longs = np.clip((stars + UNIT // 2) // UNIT, 1, 5)
    return rounded


def _above_average(taste: Longs, rows: Longs) -> Longs:
    """Taste for the films in `rows` above the user's average over the catalogue, same shape as `rows`."""
    average: Longs = taste.sum(axis=1) // taste.shape[1]
    return np.take_along_axis(taste, rows, axis=1) - average[:, None]


def _times(n_users: int, longest: int, seed: int) -> Longs:
    """Seconds since 1970: a start within six years, then exponential gaps at a user's own pace."""
    draw = rng(seed, "films", "times")
    start = _START + (bits(draw, n_users).astype(np.int64) * _START_SPAN >> TABLE_BITS)
    pace = np.minimum(15 * _DAY, 5 * _DAY * variates(draw, "lognormal-0.8", n_users).astype(np.int64) // UNIT)
    gaps = pace[:, None] * variates(draw, "exponential", n_users, longest).astype(np.int64) // UNIT
    times: Longs = start[:, None] + np.cumsum(2 * _HOUR + gaps, axis=1)
    return times


def _planted(world: World, viewers: Viewers, appeal: Longs, last: Ints, order: Positions) -> PlantedTastes:
    def nats(values: Longs) -> Floats:
        return (values / UNIT).astype(np.float32)

    first, second = viewers.types
    return PlantedTastes(
        genres=world.genres,
        keywords=world.keywords,
        genre_tastes=(nats(viewers.genre[0][order]), nats(viewers.genre[1][order])),
        keyword_tastes=(nats(viewers.keyword[0][order]), nats(viewers.keyword[1][order])),
        favourite_people=tuple(tuple(world.people[p] for p in np.flatnonzero(viewers.people[u])) for u in order),
        types=tuple((VIEWER_TYPES[first[u]].name, VIEWER_TYPES[second[u]].name) for u in order),
        favourite_years=viewers.favourite_years[order],
        appeal=nats(appeal),
        attraction=nats(viewers.attraction[order]),
        coherence=nats(viewers.coherence[order]),
        taste_units=viewers.taste[1][order].astype(np.int32),
        last_units=last[order],
    )
