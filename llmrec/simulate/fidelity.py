"""Does the simulated user decide as real users did? Held-out real items, one taken to one not taken."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split, Stage
from llmrec.errors import ConfigError, LlmrecError, ModelError, UserError
from llmrec.lm.protocol import LanguageModel
from llmrec.metrics.bootstrap import Interval, paired_difference
from llmrec.metrics.classification import ClickMetrics, click_metrics
from llmrec.roles.chat_user import Style, chat_opinion, decision_messages, style_of
from llmrec.roles.click_calibration import UNCORRECTED, Calibration, fit_calibration
from llmrec.roles.opinion import opinion
from llmrec.roles.persona import Persona, taste_index
from llmrec.roles.user import HISTORY_LENGTH, Seen, decision_prompt, draw_unseen
from llmrec.seeding import rng


class Case(NamedTuple):
    """One decision that is known from the data."""

    user: int
    item: int
    taken: bool
    n_past: int | None = None
    """Events of the user that are known before it; None: all before the item of the stage."""


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
    style: Literal["text", "chat"] = "text"
    """How the model was asked."""
    calibration: Calibration = UNCORRECTED
    """What the model's log-odds were corrected by, as by `UserConfig.calibration` in simulation."""
    n_calibration: int = 0
    """Decisions that the calibration was fitted on, of other users."""
    seconds: tuple[float, ...] = ()
    """Of each decision, waiting for the engine included; style text asks all at once, so there it is the mean."""
    uncorrected: tuple[float, ...] = ()
    """The model's probabilities before the calibration."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, without the cases."""
        return {
            "style": self.style,
            "calibration": self.calibration._asdict() | {"n": self.n_calibration},
            "seconds_per_decision": float(np.median(self.seconds)) if self.seconds else None,
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
    style: Style = "auto",
    per_user: int = 1,
    n_calibration: int = 0,
    calibration: Calibration = UNCORRECTED,
    concurrency: int = 4,
) -> Fidelity:
    """Ask the model about each user's held-out test item and about one item that the user never had.

    Personas come from training events; the past in the prompt is everything before the test item. No prior is added,
    because the cases are balanced as the training documents are.

    Args:
        n_users: users drawn without replacement; all evaluated users when there are fewer.
        seed: draws users, negatives and bootstrap samples.
        adapter: LoRA adapter that plays the user; None is the bare backbone.
        style: how the model is asked, see `llmrec.roles.chat_user.Style`.
        per_user: the newest so many events of each user and as many items that the user never had. Beyond the held-out
            events these are training events, so with more than 1 measure only models that were not trained on them;
            personas and past end before the first of them.
        n_calibration: so many further users are asked first, and the model's log-odds are corrected by a line fitted on
            their decisions (`fit_calibration`), in place of `calibration`. 0 asks nobody else.
        calibration: what the model's log-odds are corrected by, such as what the simulation corrects them by.
        concurrency: style chat only: users asked at once. One user's decisions follow each other, because they share
            the beginning of the prompt; a server with s slots is best asked about s users at once.

    Raises:
        UserError: the data or the settings cannot be used. A model that fails on a decision counts as wrong.
    """
    if per_user < 1 or concurrency < 1 or n_calibration < 0:
        raise ConfigError(
            "per_user and concurrency must be at least 1 and n_calibration at least 0, "
            f"got {per_user!r}, {concurrency!r}, {n_calibration!r}"
        )
    meant = style_of(lm, style)
    cases = draw_cases(dataset, split, n_users=n_users, seed=seed, stage="test", per_user=per_user)
    inquiry = _Inquiry(lm, dataset, split, adapter, meant, concurrency)
    others: list[Case] = []
    if n_calibration:
        busy = {case.user for case in cases}
        others = _calibration_cases(dataset, split, busy, n_users=n_calibration, seed=seed, per_user=per_user)
        calibration = await _calibrated(inquiry, others)
    views = await inquiry.ask(cases)
    answers = [calibration(view) for view in views]
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
        style=meant,
        calibration=calibration,
        n_calibration=len(others),
        seconds=tuple(inquiry.seconds),
        uncorrected=tuple(views),
    )


def draw_cases(
    dataset: Dataset, split: Split, *, n_users: int, seed: int, stage: Stage, per_user: int = 1
) -> list[Case]:
    """For each drawn user the target of the stage, and one item drawn evenly from those that the user never had.

    Args:
        per_user: the target and the events just before it, with as many items drawn; fewer where a user has fewer.
    """
    users, _ = split.targets(stage)
    draws = rng(seed, "fidelity", "users")
    chosen = np.sort(draws.choice(len(users), size=min(n_users, len(users)), replace=False))
    return _cases(dataset, split, [int(place) for place in chosen], seed=seed, stage=stage, per_user=per_user)


def _cases(
    dataset: Dataset, split: Split, places: Sequence[int], *, seed: int, stage: Stage, per_user: int
) -> list[Case]:
    users, targets = split.targets(stage)
    cases: list[Case] = []
    for place in places:
        user = int(users[place])
        before = split.history(user, stage) if per_user > 1 else np.empty(0, dtype=np.int64)
        n_more = min(per_user - 1, max(len(before) - 1, 0))
        n_past = len(before) - n_more if per_user > 1 else None
        more = dict.fromkeys(int(item) for item in before[len(before) - n_more :])
        taken = list(more | {int(targets[place]): None})
        ever = dataset.interactions.history(user)
        unseen = draw_unseen(ever, len(dataset.catalogue), len(taken), rng(seed, "fidelity", stage, user))
        cases += [Case(user, item, True, n_past) for item in taken]
        cases += [Case(user, item, False, n_past) for item in unseen]
    return cases


def _calibration_cases(
    dataset: Dataset, split: Split, busy: set[int], *, n_users: int, seed: int, per_user: int
) -> list[Case]:
    users, _ = split.targets("test")
    free = [place for place, user in enumerate(users) if int(user) not in busy]
    if len(free) < n_users:
        raise ConfigError(
            f"calibration needs {n_users!r} users beside the measured ones, got {len(free)}; ask for fewer users"
        )
    drawn = np.sort(rng(seed, "fidelity", "calibration").choice(free, size=n_users, replace=False))
    return _cases(dataset, split, [int(p) for p in drawn], seed=seed, stage="test", per_user=per_user)


async def _calibrated(inquiry: _Inquiry, cases: Sequence[Case]) -> Calibration:
    views = await inquiry.ask(cases)
    inquiry.seconds.clear()
    known = [(view, case.taken) for view, case in zip(views, cases, strict=True) if not math.isnan(view)]
    if not known:
        raise ModelError(f"the model failed on all {len(cases)} decisions of the calibration; look at the engine first")
    return fit_calibration([view for view, _ in known], [taken for _, taken in known])


@dataclass
class _Inquiry:
    """Asks one model about cases."""

    lm: LanguageModel
    dataset: Dataset
    split: Split
    adapter: str | None
    style: Literal["text", "chat"]
    concurrency: int
    seconds: list[float] = field(default_factory=list)

    async def ask(self, cases: Sequence[Case]) -> list[float]:
        """The model's click probabilities, in order; nan where it failed."""
        if self.style == "text":
            started = time.perf_counter()
            at_once = await asyncio.gather(*(self._ask(case) for case in cases))
            self.seconds[:] = [(time.perf_counter() - started) / len(cases)] * len(cases)
            return at_once
        gate = asyncio.Semaphore(self.concurrency)

        async def one_user(own: list[Case]) -> list[float]:
            async with gate:
                return [await self._ask(case) for case in own]

        by_user = [list(own) for _, own in itertools.groupby(cases, key=lambda case: case.user)]
        answers = await asyncio.gather(*(one_user(own) for own in by_user))
        return [answer for own in answers for answer in own]

    async def _ask(self, case: Case) -> float:
        persona, past = self._past(case)
        catalogue = self.dataset.catalogue
        started = time.perf_counter()
        try:
            if self.style == "chat":
                messages = decision_messages(catalogue, persona, past, (), case.item)
                view = await chat_opinion(self.lm, messages, adapter=self.adapter)
            else:
                prompt = decision_prompt(catalogue, persona, past, (), case.item)
                view = await opinion(self.lm, prompt, has_ratings=persona.has_ratings, adapter=self.adapter)
            return view.click
        except UserError:
            raise
        except LlmrecError:
            return float("nan")
        finally:
            self.seconds.append(time.perf_counter() - started)

    def _past(self, case: Case) -> tuple[Persona, list[Seen]]:
        """The persona from training events, and the past, both ending before the case's first event."""
        index = taste_index(self.dataset, self.split)
        items = self.split.history(case.user, "test")[: case.n_past]
        ratings = self.split.source.ratings(case.user)
        newest = range(max(len(items) - HISTORY_LENGTH, 0), len(items))
        past = [Seen(int(items[p]), None if ratings is None else index.stars(float(ratings[p]))) for p in newest]
        return index.persona(case.user, until=case.n_past), past


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
