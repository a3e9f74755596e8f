"""Alignment data: every profile that got a held-out answer right beside every one that got it wrong.

LettinGo, section 3.3; the curriculum is that of Curri-DPO (Pattnaik et al., EMNLP Findings 2024, arXiv 2403.07230):
easy pairs, whose quality differs most, come first. Here quality is the predictor's log-probability of the right label.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from llmrec.errors import DataError
from llmrec.seeding import rng
from llmrec.training.lettingo.evaluate import Verdict
from llmrec.training.lettingo.explore import Candidate

FEWEST_PAIRS = 2.0
"""Pairs a question from ten profiles, below which the predictor ignores the profile."""


class Pair(NamedTuple):
    """A better and a worse profile of one user."""

    user: int
    chosen: str
    rejected: str
    gap: float
    """Log-probability of the right label with the chosen profile minus that with the rejected one, in nats."""


class PairFacts(NamedTuple):
    """How the pairs came about."""

    users: int
    questions: int
    """Users times targets."""
    unanimous: int
    """Questions that all profiles answered alike, which give no pair."""
    pairs: int
    pairs_per_user: float
    """The paper has 4.4 to 5.2 with ten candidates and one question a user; see `doubt`."""
    writers: dict[str, dict[str, int]]
    """For each writer "answers", questions answered with a profile of its own, and "right", those answered right. Of
    equal profiles of one user only the first writer's counts."""


def preference_pairs(candidates: Sequence[Candidate], verdicts: Sequence[Verdict]) -> list[Pair]:
    """All pairs of right and wrong profiles for one target of one user.

    Args:
        candidates: different profiles of one user.
        verdicts: of each with the same target.
    """
    judged = list(zip(candidates, verdicts, strict=True))
    return [
        Pair(better.user, better.text, worse.text, right.true_log_probability - wrong.true_log_probability)
        for better, right in judged
        if right.correct
        for worse, wrong in judged
        if not wrong.correct and worse.text != better.text
    ]


def pair_facts(
    candidates: Sequence[Sequence[Candidate]],
    questions: Sequence[Sequence[Verdict]],
    pairs: Sequence[Pair],
    n_users: int,
) -> PairFacts:
    """Counts over all questions.

    Args:
        candidates: profiles that each question was answered with.
        questions: their verdicts, in the same order.
        pairs: made of them.
        n_users: whom they are about.
    """
    unanimous = sum(len({verdict.correct for verdict in verdicts}) < 2 for verdicts in questions)
    writers: dict[str, dict[str, int]] = {}
    for own, verdicts in zip(candidates, questions, strict=True):
        for candidate, verdict in zip(own, verdicts, strict=True):
            counts = writers.setdefault(candidate.writer, {"answers": 0, "right": 0})
            counts["answers"] += 1
            counts["right"] += verdict.correct
    return PairFacts(n_users, len(questions), unanimous, len(pairs), len(pairs) / max(n_users, 1), writers)


def doubt(facts: PairFacts, *, candidates: int) -> str | None:
    """What to say where so few pairs came about that the predictor seems to ignore the profile; None where not.

    With ten profiles a question that is fewer than 2 pairs, and pairs grow with n (n - 1). [D]

    Args:
        facts: of an exploration.
        candidates: profiles of each user that were asked for.
    """
    found = facts.pairs / max(facts.questions, 1)
    least = FEWEST_PAIRS * candidates * (candidates - 1) / 90
    if found >= least:
        return None
    return (
        f"{found:.2f} pairs a question from {candidates} profiles, where {least:.2f} are the least to expect: the "
        "predictor hardly reads the profile, and what is aligned with it is noise; teach or choose another predictor, "
        "or let writers differ more (temperature, further writers)"
    )


def positives(pairs: Sequence[Pair]) -> list[Pair]:
    """One pair for each different (user, chosen): what supervised fine-tuning on right profiles learns from."""
    return list({(pair.user, pair.chosen): pair for pair in reversed(pairs)}.values())[::-1]


def graded(pairs: Sequence[Pair], *, stages: int, tie: float) -> list[list[Pair]]:
    """Pairs in stages of equal size, the widest gaps first.

    Args:
        pairs: of all users.
        stages: number of stages.
        tie: pairs whose gap is not above this (nats) are left out.

    Raises:
        DataError: too few pairs are left for so many stages.
    """
    kept = sorted((pair for pair in pairs if pair.gap > tie), key=lambda pair: (-pair.gap, pair.user))
    if len(kept) < stages:
        raise DataError(
            f"{len(kept)} of {len(pairs)} pairs have a gap above {tie} nats, too few for {stages} stages; explore more "
            "users, or lower curriculum_settings.tie or curriculum_settings.stages"
        )
    cuts = np.linspace(0, len(kept), stages + 1).round().astype(int)
    return [kept[start:end] for start, end in pairwise(cuts)]


def ordered(
    stages: Sequence[list[Pair]], order: Literal["easy_first", "shuffled", "hard_first"], *, seed: int
) -> list[list[Pair]]:
    """Stages in the order that they are learnt in.

    Args:
        stages: of `graded`, the easiest first.
        order: shuffled is any other order than the easiest first; one stage has one order alone.
        seed: of the draw.
    """
    places = list(range(len(stages)))
    if order == "hard_first":
        places.reverse()
    elif order == "shuffled" and len(stages) > 1:
        draws = rng(seed, "lettingo", "order")
        while places == sorted(places):
            places = draws.permutation(len(stages)).tolist()
    return [stages[place] for place in places]


def held_out(pairs: Sequence[Pair], *, share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs for training and for validation, from different users.

    Args:
        pairs: in any order, which is kept.
        share: of users for validation; at least one where there are two.
        seed: of the draw.

    Raises:
        DataError: there is no pair.
    """
    users = sorted({pair.user for pair in pairs})
    if not users:
        raise DataError(
            "no user has both a right and a wrong profile: the predictor ignores the profile, or the writers write "
            "one text alone; explore with more candidates or a higher temperature"
        )
    n = max(1, round(share * len(users))) if share and len(users) > 1 else 0
    watched = set(rng(seed, "lettingo", "validation").permutation(users)[:n].tolist())
    return [pair for pair in pairs if pair.user not in watched], [pair for pair in pairs if pair.user in watched]


def shuffled_preferences(pairs: Sequence[Pair], *, seed: int) -> list[Pair]:
    """The control: chosen and rejected swapped in a random half of the pairs, so that nothing can be learnt."""
    swap = rng(seed, "lettingo", "shuffled").random(len(pairs)) < 0.5
    return [
        pair._replace(chosen=pair.rejected, rejected=pair.chosen, gap=-pair.gap) if other else pair
        for pair, other in zip(pairs, swap, strict=True)
    ]
