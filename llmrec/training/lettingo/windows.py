"""What a profile is made from and judged on: older items, recent items and targets of a user, each with a label.

LettinGo (Wang et al., KDD 2025, arXiv 2506.18309), section 3: the last event is the target, the K events before it stay
raw, and the profile is written from the events before those, so that it sees neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from llmrec.errors import DataError
from llmrec.roles.persona import MAX_STARS, rating_top
from llmrec.seeding import rng

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset

Label = Literal["dislike", "neutral", "like"]
LABELS: tuple[Label, ...] = ("dislike", "neutral", "like")


class LabelSettings(BaseModel):
    """From stars to labels. The paper does not publish its mapping. [D]"""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dislike_up_to: float = 2
    """On a scale that ends at 5; other scales are stretched to it."""
    like_from: float = 4
    """What lies between is neutral, so of half stars 2.5 to 3.5."""

    @model_validator(mode="after")
    def _ordered(self) -> LabelSettings:
        if not self.dislike_up_to < self.like_from:
            raise ValueError(f"dislike_up_to must be below like_from, got {self.dislike_up_to} and {self.like_from}")
        return self

    def label(self, rating: float, top: float = MAX_STARS) -> Label:
        """The label of a rating on a scale that ends at `top`."""
        stars = rating * MAX_STARS / top
        return "dislike" if stars <= self.dislike_up_to else "like" if stars >= self.like_from else "neutral"


class WindowSettings(BaseModel):
    """How a history is cut."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recent: PositiveInt = 10
    """Items that stay raw (K of the paper)."""
    older: tuple[PositiveInt, ...] = Field(default=(30, 50, 70), min_length=1)
    """Items that the profile is written from. Several values make as many groups of users of one size."""
    at_least: PositiveInt | None = None
    """Older items that a user must have; None asks for the whole window, as the paper does."""
    targets: PositiveInt = 1
    """Newest events that are predicted, all from one profile; the paper has one."""


class Rated(NamedTuple):
    """An item of the past and what the user thought of it."""

    item: int
    label: Label


class Window(NamedTuple):
    """A history cut at one place; the parts are disjoint and follow each other in time, oldest first."""

    user: int
    older: tuple[Rated, ...]
    recent: tuple[Rated, ...]
    targets: tuple[Rated, ...]


class Histories:
    """Labelled histories of a dataset.

    Args:
        dataset: with ratings.
        labels: from stars to labels.

    Raises:
        DataError: the dataset has no ratings.
    """

    def __init__(self, dataset: Dataset, labels: LabelSettings) -> None:
        if not dataset.interactions.has_ratings:
            raise DataError(
                f"profiles are judged on ratings, and the dataset {dataset.spec!r} has none; use one that has stars, "
                "such as films or movielens:PATH"
            )
        self._interactions, self._labels = dataset.interactions, labels
        self._top = rating_top(dataset.interactions)
        self._known: dict[int, list[Rated]] = {}

    def rated(self, user: int) -> list[Rated]:
        """Events of a user that carry a rating, oldest first; of an item taken repeatedly, the last one."""
        if user not in self._known:
            ratings = self._interactions.ratings(user)
            assert ratings is not None
            pairs = zip(self._interactions.history(user).tolist(), ratings.tolist(), strict=True)
            rated = [Rated(item, self._labels.label(rating, self._top)) for item, rating in pairs if isfinite(rating)]
            last = {event.item: place for place, event in enumerate(rated)}
            self._known[user] = [event for place, event in enumerate(rated) if last[event.item] == place]
        return self._known[user]

    def window(self, user: int, n_older: int, settings: WindowSettings, *, end: int | None = None) -> Window | None:
        """The window whose targets end at an event; None where the history is too short.

        Args:
            user: user index.
            n_older: longest older part, one of `WindowSettings.older`.
            settings: the other sizes.
            end: number of rated events that count; None takes all, so that the last one is a target.
        """
        events = self.rated(user)[:end]
        first_target = len(events) - settings.targets
        first_recent = first_target - settings.recent
        if first_recent < (n_older if settings.at_least is None else settings.at_least):
            return None
        return Window(
            user,
            tuple(events[max(0, first_recent - n_older) : first_recent]),
            tuple(events[first_recent:first_target]),
            tuple(events[first_target:]),
        )

    def drawn(self, users: list[int], settings: WindowSettings, draws: np.random.Generator) -> Iterator[Window]:
        """Windows with one target each, at random places of random users, without end.

        Raises:
            DataError: no user has a window.
        """
        single = settings.model_copy(update={"targets": 1})
        shortest = single.recent + 1 + (min(single.older) if single.at_least is None else single.at_least)
        lengths = {user: len(self.rated(user)) for user in users}
        usable = [user for user, length in lengths.items() if length >= shortest]
        if not usable:
            raise DataError(_none_long_enough(len(users), shortest))
        while True:
            user = usable[int(draws.integers(len(usable)))]
            end = int(draws.integers(shortest, lengths[user] + 1))
            n_older = single.older[int(draws.integers(len(single.older)))]
            if (window := self.window(user, n_older, single, end=end)) is not None:
                yield window


class Groups(NamedTuple):
    """Disjoint users, in drawn order."""

    start: list[int]
    """For the adapters that a small model starts from."""
    align: list[Window]
    """For exploration and alignment."""
    test: list[Window]


class GroupSettings(BaseModel):
    """Numbers of users; fewer are taken, in these proportions, where there are not so many, and a warning says so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: NonNegativeInt = 0
    """0 for a chat model, which needs no start."""
    align: PositiveInt = 3000
    test: PositiveInt = 2000

    def wanted(self) -> dict[str, int]:
        """The groups that are asked for and their sizes, in the order in which they are drawn."""
        return {name: n for name, n in (("start", self.start), ("align", self.align), ("test", self.test)) if n}


def user_groups(histories: Histories, n_users: int, windows: WindowSettings, sizes: GroupSettings, seed: int) -> Groups:
    """Draw the users of each group; inside align and test the window sizes take turns.

    Raises:
        DataError: a group would be empty: histories are too short, or the sizes too far apart for so few users.
    """
    order = rng(seed, "lettingo", "users").permutation(n_users)
    fitting = [int(u) for u in order if histories.window(int(u), max(windows.older), windows) is not None]
    wanted = sizes.wanted()
    needed = windows.recent + windows.targets + (windows.at_least or max(windows.older))
    if len(fitting) < len(wanted):
        raise DataError(_none_long_enough(n_users, needed))
    share = min(1.0, len(fitting) / sum(wanted.values()))
    taken = {name: int(n * share) for name, n in wanted.items()}
    if empty := [f"users.{name}" for name, n in taken.items() if not n]:
        raise DataError(
            f"{_listed(wanted)} ask for {sum(wanted.values())} users, and {len(fitting)} of {n_users} have the "
            f"{needed} rated events that windows asks for; made smaller in proportion, {' and '.join(empty)} would be "
            f"left without users: set users.{max(wanted, key=lambda name: wanted[name])} to less"
        )
    start, align, test = taken.get("start", 0), taken["align"], taken["test"]

    def cut(users: list[int]) -> list[Window]:
        found = [
            histories.window(user, windows.older[place % len(windows.older)], windows)
            for place, user in enumerate(users)
        ]
        return [window for window in found if window is not None]

    middle = start + align
    return Groups(fitting[:start], cut(fitting[start:middle]), cut(fitting[middle : middle + test]))


def shortfall(groups: Groups, sizes: GroupSettings) -> str | None:
    """A warning for groups that are smaller than was asked for; None where none is."""
    wanted = sizes.wanted()
    taken = {name: len(getattr(groups, name)) for name in wanted}
    if taken == wanted:
        return None
    return (
        f"too few users have histories as long as windows asks for: {_listed(taken)}, where {_listed(wanted)} were "
        "asked for; set users.* to less, or windows.at_least or windows.older, for more users"
    )


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"users.{name}={n}" for name, n in sizes.items())


def _none_long_enough(n_users: int, needed: int) -> str:
    return (
        f"too few of {n_users} users have {needed} rated events; set windows.at_least or windows.older to less, or "
        "take a dataset with longer histories"
    )
