"""What the choice model knows about films: features, and what each film leads to. All in units of 1/1024 nat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmrec.data.choice_settings import ChoiceSettings
from llmrec.data.fixed_point import Ints, Longs, matmul, units

WEIGHT = 64
"""Integer units of a feature of weight one."""


class Film(NamedTuple):
    """What the choice model knows about a film."""

    year: int
    genres: tuple[str, ...]
    keywords: tuple[str, ...]
    directors: tuple[str, ...]
    actors: tuple[str, ...]
    series: str | None
    series_order: int | None


class World:
    """Feature tables of the films, and what each film leads to."""

    def __init__(self, films: Sequence[Film], settings: ChoiceSettings) -> None:
        self.genres = tuple(sorted({g for film in films for g in film.genres}))
        self.keywords = tuple(sorted({k for film in films for k in film.keywords}))
        self.people = _recurring([(*film.directors, *film.actors) for film in films])
        genre = _membership([film.genres for film in films], self.genres)
        keyword = _membership([film.keywords for film in films], self.keywords)
        directors = _membership([film.directors for film in films], self.people)
        actors = _membership([film.actors for film in films], self.people) * (1 - directors)
        self.genre, self.keyword = _per_root(genre), _per_root(keyword)
        self.people_bonus = units(settings.director) * directors + units(settings.actor) * actors  # (n_items, n_people)
        self.years = np.array([film.year for film in films], dtype=np.int64)
        self.before, self.after = _series_links(films)
        self.leads_to = self._leads_to(films, keyword, directors, actors, settings)

    def _leads_to(
        self, films: Sequence[Film], keyword: Longs, directors: Longs, actors: Longs, settings: ChoiceSettings
    ) -> Ints:
        """Pull of every film on every other, in units, shape (n_items, n_items)."""
        series = _membership([(film.series,) if film.series else () for film in films])
        pull = units(settings.follow_director) * np.minimum(1, matmul(directors, directors.T))
        pull += units(settings.follow_actor) * np.minimum(2, matmul(actors, actors.T))
        pull += units(settings.follow_genre) * matmul(self.genre, self.genre.T) // WEIGHT**2
        rare = keyword * _rarity(keyword)
        pull += units(settings.follow_keyword) * matmul(rare, rare.T) // WEIGHT**2
        pull += units(settings.follow_series) * matmul(series, series.T)
        parts = np.flatnonzero(self.after >= 0)
        pull[parts, self.after[parts]] += units(settings.next_part)
        np.fill_diagonal(pull, 0)
        return pull.astype(np.int32)


def _recurring(people: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """People of two films or more: others can be neither followed nor recognised."""
    n_films = Counter(person for film in people for person in set(film))
    return tuple(sorted(person for person, n in n_films.items() if n >= 2))


def _membership(values: Sequence[Sequence[str]], names: Sequence[str] | None = None) -> Longs:
    """1 where a film has a value, shape (n_items, n_names); values without a name count nowhere."""
    names = sorted({value for row in values for value in row}) if names is None else names
    position = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(values), len(names)), dtype=np.int64)
    for row, members in enumerate(values):
        table[row, [position[value] for value in members if value in position]] = 1
    return table


def _per_root(table: Longs) -> Longs:
    """Weight 1 / sqrt(number of values of the film), in 1/64; IEEE roots and quotients are exact."""
    n = np.maximum(1, table.sum(axis=1, keepdims=True))
    weights: Longs = np.rint(table * (WEIGHT / np.sqrt(n))).astype(np.int64)
    return weights


def _rarity(table: Longs) -> Longs:
    """Weight sqrt(20 / films with the value), at most 1.5, in 1/64: rare themes bind films more than common ones."""
    n = np.maximum(1, table.sum(axis=0))
    weights: Longs = np.rint(WEIGHT * np.minimum(1.5, np.sqrt(20 / n))).astype(np.int64)
    return weights


def _series_links(films: Sequence[Film]) -> tuple[Longs, Longs]:
    """Row of the part before and of the part after each film, among these films; -1 where there is none."""
    before, after = np.full(len(films), -1, dtype=np.int64), np.full(len(films), -1, dtype=np.int64)
    parts: dict[str, list[tuple[int, int]]] = {}
    for row, film in enumerate(films):
        if film.series is not None and film.series_order is not None:
            parts.setdefault(film.series, []).append((film.series_order, row))
    for members in parts.values():
        rows = [row for _, row in sorted(members)]
        before[rows[1:]], after[rows[:-1]] = rows[:-1], rows[1:]
    return before, after
