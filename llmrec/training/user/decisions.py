"""Asks a tuned user about real decisions of users that it was not trained on, and writes what came out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmrec.errors import DataError
from llmrec.roles.opinion import opinion
from llmrec.roles.persona import taste_index
from llmrec.roles.user import HISTORY_LENGTH, Seen, decision_prompt, draw_unseen
from llmrec.seeding import rng
from llmrec.training.sft import user_parts
from llmrec.training.user.calibration import (
    PLOT,
    Decisions,
    draw_reliability,
    fit,
    floors,
    reliability,
    table,
    write_calibration,
)

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.lm.protocol import LanguageModel
    from llmrec.training.user.recipe import UserRecipe

_PER_USER = 2
"""Newest known events of each user that are asked about, each with an item that the user never had."""
_FEWEST = 5  # users in each half


class Asked(NamedTuple):
    """One decision that is known from the data."""

    user: int
    cut: int
    """Events before it."""
    item: int
    taken: bool


def validation_halves(dataset: Dataset, split: Split, recipe: UserRecipe) -> tuple[list[Asked], list[Asked]]:
    """Decisions of validation users, whom no training example is from: those to fit on, and those to measure on.

    Test items are never asked about.

    Raises:
        DataError: there are too few such users.
    """
    order = _calibration_users(split, recipe)
    middle = len(order) // 2
    if middle < _FEWEST:
        raise DataError(
            f"calibration needs {2 * _FEWEST} validation users with two events, got {len(order)}; set "
            "calibration_users=0 to leave it out"
        )
    first, second = (_decisions(dataset, split, recipe, half) for half in (order[:middle], order[middle:]))
    return first, second


def can_calibrate(split: Split, recipe: UserRecipe) -> bool:
    """Whether `validation_halves` has the users that it needs."""
    return len(_calibration_users(split, recipe)) // 2 >= _FEWEST


def _calibration_users(split: Split, recipe: UserRecipe) -> np.ndarray[Any, Any]:
    watched, _ = user_parts(split, recipe)
    users = np.flatnonzero(watched.train.lengths() >= 2)
    return rng(recipe.seed, "calibration", "users").permutation(users)[: 2 * recipe.calibration_users]


def _decisions(dataset: Dataset, split: Split, recipe: UserRecipe, users: np.ndarray[Any, Any]) -> list[Asked]:
    asked = []
    for user in sorted(int(one) for one in users):
        known = split.history(user, "test")
        cuts = range(max(1, len(known) - _PER_USER), len(known))
        ever = dataset.interactions.history(user)
        draws = rng(recipe.seed, "calibration", user)
        for cut, other in zip(cuts, draw_unseen(ever, len(dataset.catalogue), len(cuts), draws), strict=False):
            asked += [Asked(user, cut, int(known[cut]), True), Asked(user, cut, other, False)]
    return asked


async def ask(lm: LanguageModel, dataset: Dataset, split: Split, asked: list[Asked], *, adapter: str) -> Decisions:
    """The model's probability of taking each item, by the prompts that a simulation asks with."""
    index = taste_index(dataset, split)
    counts = split.train.item_counts()
    ratings = {one.user: split.source.ratings(one.user) for one in asked}

    async def one_click(one: Asked) -> float:
        items, stars = split.history(one.user, "test"), ratings[one.user]
        newest = range(max(one.cut - HISTORY_LENGTH, 0), one.cut)
        past = [Seen(int(items[p]), None if stars is None else index.stars(float(stars[p]))) for p in newest]
        persona = index.persona(one.user, until=one.cut)
        prompt = decision_prompt(dataset.catalogue, persona, past, (), one.item)
        return (await opinion(lm, prompt, has_ratings=persona.has_ratings, adapter=adapter)).click

    said = await asyncio.gather(*(one_click(one) for one in asked))
    return Decisions([one.taken for one in asked], list(said), [int(counts[one.item]) for one in asked])


def calibrate(lm: LanguageModel, dataset: Dataset, split: Split, recipe: UserRecipe) -> dict[str, Any]:
    """Fit the correction, measure it beside the floors, and write `calibration.json` and `reliability.png`.

    Args:
        lm: the backbone with the trained adapter under the recipe's role.

    Returns:
        For `training.json` and the card: the correction, the table, and the bins before and after.
    """
    first, second = validation_halves(dataset, split, recipe)
    fitted = asyncio.run(ask(lm, dataset, split, first, adapter=recipe.role))
    measured = asyncio.run(ask(lm, dataset, split, second, adapter=recipe.role))
    calibration = fit(recipe.calibration, fitted.said, fitted.taken)
    columns = {"model": measured.said, "calibrated": [calibration(one) for one in measured.said]}
    if recipe.calibration == "none":
        del columns["calibrated"]
    curves = {
        name: reliability(measured.taken, probabilities, bins=recipe.bins) for name, probabilities in columns.items()
    }
    facts = {"kind": recipe.calibration, "n_fit": len(first), "n_measured": len(second), "adapter": recipe.role}
    output = Path(recipe.output)
    write_calibration(output, calibration, facts)
    draw_reliability(output / PLOT, curves)
    rows = table(measured, {**columns, **floors(fitted, measured)}, bins=recipe.bins, seed=recipe.seed)
    bins = {name: [_plain(one._asdict()) for one in curve] for name, curve in curves.items()}
    return {**facts, **calibration._asdict(), "table": rows, "bins": bins}


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    """Without nan, which JSON has not."""
    return {name: None if value != value else value for name, value in values.items()}
