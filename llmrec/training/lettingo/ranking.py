"""The ranking use of a profile: does it help the recommender when it stands in front of its prompt?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llmrec.metrics.bootstrap import Interval, bootstrap_mean, paired_difference
from llmrec.prompting import as_data
from llmrec.retrieval.calrec import flat_items, history_prompt
from llmrec.roles.user import draw_unseen
from llmrec.seeding import rng
from llmrec.training.lettingo.call_log import CallLog, answer_all, call_key
from llmrec.training.lettingo.engines import Player, open_engines
from llmrec.training.lettingo.prompts import ProfilePrompts

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.training.lettingo.recipe import LettingoRecipe
    from llmrec.training.lettingo.windows import Window

CANDIDATES = 50
"""The target and items that the user does not have, drawn uniformly: for comparing arms, not other systems."""
CUTOFF = 10


async def ranking_gain(
    recipe: LettingoRecipe,
    dataset: Dataset,
    windows: Sequence[Window],
    profiles: Mapping[str, Sequence[str]],
    log: CallLog,
    *,
    n_users: int,
    adapter: str | None = "recommender",
) -> str:
    """NDCG@10 of the last event among drawn candidates by the recommender's likelihood, as Markdown.

    Args:
        recipe: backbone and length of histories.
        dataset: of the windows.
        windows: users; the newest item before the first target ends the history.
        profiles: by arm, aligned with the windows; "none" is what the others are compared with.
        log: likelihoods that were asked before.
        n_users: first windows that are taken.
        adapter: of the recommender, one of the backbone's own.
    """
    scores = {
        arm: await _ndcg(recipe, dataset, windows[:n_users], texts[:n_users], log, adapter)
        for arm, texts in profiles.items()
    }
    lines = ["| profile | NDCG@10 | over none |", "| --- | --- | --- |"]
    for arm, values in scores.items():
        gain = "" if arm == "none" else _text(paired_difference(values, scores["none"], seed=recipe.seed), "+.4f")
        lines.append(f"| {arm} | {_text(bootstrap_mean(values, seed=recipe.seed), '.4f')} | {gain} |")
    note = (
        f"{len(windows[:n_users])} users, {CANDIDATES} drawn candidates; the recommender was not trained with profiles."
    )
    return "\n".join([note, "", *lines])


async def _ndcg(
    recipe: LettingoRecipe,
    dataset: Dataset,
    windows: Sequence[Window],
    texts: Sequence[str],
    log: CallLog,
    adapter: str | None,
) -> npt.NDArray[np.float64]:
    """One value per user, shape (n_users,)."""
    engine = open_engines({"recommender": Player(recipe.backbone, adapter)})["recommender"]
    prompts = ProfilePrompts(dataset, recipe.item_fields)
    asked, shown = [], []
    for window, text in zip(windows, texts, strict=True):
        past = [rated.item for rated in (*window.older, *window.recent)][-recipe.history_items :]
        asked.append(prompts.before_history(text, history_prompt(flat_items(dataset.catalogue, past))))
        target = window.targets[0].item
        seen = dataset.interactions.history(window.user)
        draws = rng(recipe.seed, "lettingo", "ranking", window.user)
        others = draw_unseen(seen, len(dataset.catalogue), CANDIDATES - 1, draws)
        shown.append([as_data(dataset.catalogue.flat(item)) for item in (target, *others)])
    keys = [call_key("rank", engine.identity, *pair) for pair in zip(asked, shown, strict=True)]

    async def ask(places: Sequence[int]) -> list[list[float]]:
        calls = (engine.lm.score(asked[place], shown[place], adapter=engine.adapter) for place in places)
        return list(await asyncio.gather(*calls))

    answers = await answer_all(log, keys, ask, at_once=16)
    ranks = np.array([sum(score >= own[0] for score in own) for own in answers])  # ties count against the target
    gains: npt.NDArray[np.float64] = np.where(ranks <= CUTOFF, 1 / np.log2(ranks + 1), 0.0)
    return gains


def _text(interval: Interval, form: str) -> str:
    value, low, high = (format(number, form) for number in interval)
    return f"{value} [{low}, {high}]"
