"""Does the simulated user decide as real users did? Held-out real items, one taken to one not taken."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split, Stage
from llmrec.errors import LlmrecError, UserError
from llmrec.lm.protocol import LanguageModel
from llmrec.metrics.bootstrap import Interval, paired_difference
from llmrec.metrics.classification import ClickMetrics, click_metrics
from llmrec.roles.opinion import opinion
from llmrec.roles.persona import taste_index
from llmrec.roles.user import HISTORY_LENGTH, Seen, decision_prompt, draw_unseen
from llmrec.seeding import rng


class Case(NamedTuple):
    """One decision that is known from the data."""

    user: int
    item: int
    taken: bool


@dataclass(frozen=True)
class Fidelity:
    """Click decisions of the simulated user against real ones."""

    model: ClickMetrics
    popularity: ClickMetrics
    """Floor: taken when the item has at least as many training events as a threshold fitted on validation items."""
    over_popularity: Interval
    """Accuracy of the model minus that of the floor, paired by decision."""
    cases: tuple[Case, ...]
    probabilities: tuple[float, ...]
    """The model's; nan where it failed."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, without the cases."""
        return {
            "model": self.model.to_json(),
            "popularity": self.popularity.to_json(),
            "over_popularity": self.over_popularity._asdict(),
        }


async def click_fidelity(
    lm: LanguageModel,
    dataset: Dataset,
    split: Split,
    *,
    n_users: int,
    seed: int,
    adapter: str | None = "user",
) -> Fidelity:
    """Ask the model about each user's held-out test item and about one item that the user never had.

    Personas come from training events; the past in the prompt is everything before the test item. No prior is added,
    because the cases are balanced as the training documents are.

    Args:
        n_users: users drawn without replacement; all evaluated users when there are fewer.
        seed: draws users, negatives and bootstrap samples.

    Raises:
        UserError: the data or the settings cannot be used. A model that fails on a decision counts as wrong.
    """
    cases = draw_cases(dataset, split, n_users=n_users, seed=seed, stage="test")
    answers = await asyncio.gather(*(_ask(lm, dataset, split, case, adapter) for case in cases))
    truth = np.array([case.taken for case in cases])
    probabilities = np.array(answers, dtype=np.float64)
    floor = _popularity_floor(dataset, split, cases, n_users=n_users, seed=seed)
    correct = np.where(np.isnan(probabilities), False, (probabilities >= 0.5) == truth)
    return Fidelity(
        model=click_metrics(truth, probabilities, seed=seed),
        popularity=click_metrics(truth, floor, seed=seed),
        over_popularity=paired_difference(correct.astype(float), ((floor >= 0.5) == truth).astype(float), seed=seed),
        cases=tuple(cases),
        probabilities=tuple(float(p) for p in probabilities),
    )


def draw_cases(dataset: Dataset, split: Split, *, n_users: int, seed: int, stage: Stage) -> list[Case]:
    """For each drawn user the target of the stage, and one item drawn evenly from those that the user never had."""
    users, targets = split.targets(stage)
    draws = rng(seed, "fidelity", "users")
    chosen = np.sort(draws.choice(len(users), size=min(n_users, len(users)), replace=False))
    cases: list[Case] = []
    for place in chosen:
        user = int(users[place])
        cases.append(Case(user, int(targets[place]), taken=True))
        ever = dataset.interactions.history(user)
        unseen = draw_unseen(ever, len(dataset.catalogue), 1, rng(seed, "fidelity", stage, user))
        cases += [Case(user, item, taken=False) for item in unseen]
    return cases


async def _ask(lm: LanguageModel, dataset: Dataset, split: Split, case: Case, adapter: str | None) -> float:
    index = taste_index(dataset, split)
    persona = index.persona(case.user)
    items = split.history(case.user, "test")
    ratings = split.source.ratings(case.user)
    newest = range(max(len(items) - HISTORY_LENGTH, 0), len(items))
    past = [Seen(int(items[p]), None if ratings is None else index.stars(float(ratings[p]))) for p in newest]
    prompt = decision_prompt(dataset.catalogue, persona, past, (), case.item)
    try:
        return (await opinion(lm, prompt, has_ratings=persona.has_ratings, adapter=adapter)).click
    except UserError:
        raise
    except LlmrecError:
        return float("nan")


def _popularity_floor(
    dataset: Dataset, split: Split, cases: list[Case], *, n_users: int, seed: int
) -> npt.NDArray[np.float64]:
    """0 or 1 for each case: whether its item has at least as many training events as the best validation threshold."""
    counts = split.train.item_counts()
    known = draw_cases(dataset, split, n_users=n_users, seed=seed, stage="validation")
    popularity = np.array([counts[case.item] for case in known])
    taken = np.array([case.taken for case in known])
    thresholds = np.unique(popularity)
    right = [int(((popularity >= threshold) == taken).sum()) for threshold in thresholds]
    threshold = thresholds[int(np.argmax(right))]
    return np.array([float(counts[case.item] >= threshold) for case in cases])
