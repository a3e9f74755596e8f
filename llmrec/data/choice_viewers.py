"""Planted properties of the users of the choice model. All utilities in units of 1/1024 nat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from llmrec.data.choice_films import WEIGHT, World
from llmrec.data.choice_settings import ChoiceSettings
from llmrec.data.film_tastes import AGE_GROUPS, OCCUPATIONS, VIEWER_TYPES, occupation_weights, type_weights
from llmrec.data.fixed_point import UNIT, Longs, matmul, units, variates, weighted
from llmrec.seeding import rng

_FAVOURITE_YEARS = (1925, 2018)


class Viewers:
    """Planted properties of all users, in units; longest history first, so that active users are always a prefix."""

    def __init__(self, world: World, settings: ChoiceSettings, seed: int) -> None:
        n, draw = settings.n_users, rng(seed, "films", "viewers")
        spread = settings.length_median * variates(draw, "lognormal-0.8", n).astype(np.int64) // UNIT
        longest = min(settings.max_length, len(world.years))
        lengths = np.minimum(longest, settings.min_length + spread)
        self.lengths: Longs = -np.sort(-lengths)
        self.age = weighted(draw, np.tile([group.weight for group in AGE_GROUPS], (n, 1)))
        self.job = weighted(draw, np.array([occupation_weights(group.name) for group in AGE_GROUPS])[self.age])
        first, second = self._types(draw)
        self.types = (first, second)
        years = np.array([kind.years for kind in VIEWER_TYPES])[first]
        years += np.array([group.favourite_year for group in AGE_GROUPS])[self.age]
        years += settings.year_sigma * variates(draw, "normal", n) // UNIT
        self.favourite_years: Longs = np.clip(years, *_FAVOURITE_YEARS)
        self.attraction = _around_one(draw, settings.person_spread, n)
        self.coherence = _around_one(draw, settings.person_spread, n)
        self.rating_offset: Longs = units(settings.rating_offset) * variates(draw, "normal", n).astype(np.int64) // UNIT
        likes: list[Mapping[str, float]] = [kind.genres for kind in VIEWER_TYPES]
        themes: list[Mapping[str, float]] = [dict.fromkeys(kind.keywords, 1.0) for kind in VIEWER_TYPES]
        self.genre = self._tastes(draw, world.genres, likes, settings.genre, settings.genre_noise, settings)
        self.keyword = self._tastes(draw, world.keywords, themes, settings.keyword, settings.keyword_noise, settings)
        decades = np.abs(world.years - self.favourite_years[:, None]) * units(settings.decade) // 10
        plain = [self._features(world, i) - np.minimum(decades, 6 * units(settings.decade)) for i in (0, 1)]
        self.people = self._favourite_people(draw, world, plain[0] + plain[1] >> 1)
        bonus = matmul(self.people, world.people_bonus.T)
        self.taste: tuple[Longs, Longs] = (plain[0] + bonus, plain[1] + bonus)  # each (n_users, n_items)

    def _types(self, draw: np.random.Generator) -> tuple[Longs, Longs]:
        """The type a user starts from and a different one that the user drifts to."""
        table = [[type_weights(group.name, job) for job in OCCUPATIONS] for group in AGE_GROUPS]
        weights = np.array(table)[self.age, self.job]  # (n_users, n_types)
        first = weighted(draw, weights)
        weights[np.arange(len(first)), first] = 0
        return first, weighted(draw, weights)

    def _tastes(
        self,
        draw: np.random.Generator,
        names: Sequence[str],
        likes: Sequence[Mapping[str, float]],
        scale: float,
        noise: float,
        settings: ChoiceSettings,
    ) -> tuple[Longs, Longs]:
        """Tastes at the start and at the end, in units: a mixture of two types plus a personal deviation."""
        by_type = np.array([[units(scale * like.get(name, 0.0)) for name in names] for like in likes])
        own = units(noise) * variates(draw, "normal", settings.n_users, len(names)).astype(np.int64) // UNIT
        first, second = by_type[self.types[0]], by_type[self.types[1]]
        mixes = [units(settings.start_mix), units(settings.end_mix)]
        start, end = ((mix * first + (UNIT - mix) * second) // UNIT + own for mix in mixes)
        return start, end

    def _features(self, world: World, moment: int) -> Longs:
        """Utility of genres and themes, shape (n_users, n_items)."""
        genre = matmul(self.genre[moment], world.genre.T)
        keyword = matmul(self.keyword[moment], world.keyword.T)
        utility: Longs = (genre + keyword) // WEIGHT
        return utility

    def _favourite_people(self, draw: np.random.Generator, world: World, taste: Longs) -> Longs:
        """1 for the makers of three films that a user loves, so that taste for people fits the rest of the taste."""
        noisy = taste + variates(draw, "gumbel", *taste.shape)
        loved = np.argsort(-noisy, axis=1, kind="stable")[:, :3]
        makers = np.minimum(1, world.people_bonus)
        people: Longs = np.minimum(1, makers[loved].sum(axis=1))
        return people


def _around_one(draw: np.random.Generator, spread: float, n: int) -> Longs:
    deviation = units(spread) * variates(draw, "normal", n).astype(np.int64) // UNIT
    factor: Longs = np.clip(UNIT + deviation, UNIT // 4, 2 * UNIT)
    return factor
