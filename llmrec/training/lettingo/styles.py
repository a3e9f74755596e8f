"""Profiles that rules write, in several styles: what a small model learns to write before it explores. [D]

A chat model writes profiles without having seen one; a model of a million parameters must be shown what a profile is.
The styles differ in how much they help to predict (shares and tastes a lot, what was merely seen a little), and no
writer is told which does: that is left to exploration and alignment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrec.errors import ConfigError
from llmrec.prompting import as_data
from llmrec.roles.persona import topic_attributes
from llmrec.training.lettingo.prompts import topics
from llmrec.training.lettingo.windows import Rated

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue

_VALUE = {"dislike": -1.0, "neutral": 0.0, "like": 1.0}
_SMOOTHING = 3.0  # pseudo-events of average sentiment
_SUPPORT = 2  # events that must carry a topic before it counts as a taste
_LIKED, _DISLIKED, _SEEN = 2, 1, 3  # topics that a profile names


def shares(older: Sequence[Rated], catalogue: Catalogue) -> str:
    """How often the user liked and disliked, to the nearest tenth: ``Liked 6 of 10, disliked 1 of 10.``

    In words that nano reads in its pre-training: LoRA cannot teach it to write a token whose row was never trained.
    """
    counts = Counter(one.label for one in older)
    n = max(len(older), 1)
    like, dislike = (round(10 * counts[label] / n) for label in ("like", "dislike"))
    return f"Liked {like} of 10, disliked {dislike} of 10."


def tastes(older: Sequence[Rated], catalogue: Catalogue) -> str:
    """Topics met with more or less liking than the user's average: ``Prefers Horror. Avoids Romance.``"""
    scores = topic_scores(older, catalogue)
    best = [topic for topic, score in sorted(scores.items(), key=lambda pair: (-pair[1], pair[0])) if score > 0]
    worst = [topic for topic, score in sorted(scores.items(), key=lambda pair: (pair[1], pair[0])) if score < 0]
    return tastes_text(best[:_LIKED], worst[:_DISLIKED])


def tastes_text(best: Sequence[str], worst: Sequence[str]) -> str:
    """The wording of `tastes`."""
    return f"Prefers {', '.join(best) or 'anything'}. Avoids {', '.join(worst) or 'nothing'}."


def full(older: Sequence[Rated], catalogue: Catalogue) -> str:
    """Shares and tastes."""
    return f"{shares(older, catalogue)} {tastes(older, catalogue)}"


def seen(older: Sequence[Rated], catalogue: Catalogue) -> str:
    """The commonest topics, liked or not: ``Mostly Drama, Comedy, War.``"""
    counts = Counter(topic for one in older for topic in topics(catalogue, one.item))
    common = sorted(counts, key=lambda topic: (-counts[topic], topic))[:_SEEN]
    return f"Mostly {', '.join(common) or 'anything'}."


STYLES: Mapping[str, Callable[[Sequence[Rated], Catalogue], str]] = {
    "shares": shares,
    "tastes": tastes,
    "full": full,
    "seen": seen,
}


def rule_profile(style: str, older: Sequence[Rated], catalogue: Catalogue) -> str:
    """A profile in one style.

    Raises:
        ConfigError: no such style.
    """
    if style not in STYLES:
        raise ConfigError(f"no style of profile {style!r}; styles: {', '.join(STYLES)}")
    return STYLES[style](older, catalogue)


def topic_scores(older: Sequence[Rated], catalogue: Catalogue) -> dict[str, float]:
    """Smoothed sentiment of each topic (-1 to 1) minus the user's average, for topics of at least two items."""
    average = sum(_VALUE[one.label] for one in older) / max(len(older), 1)
    sums: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for one in older:
        for topic in topics(catalogue, one.item):
            counts[topic] += 1
            sums[topic] += _VALUE[one.label] - average  # type: ignore[assignment]  # Counter adds floats as well
    return {topic: sums[topic] / (n + _SMOOTHING) for topic, n in counts.items() if n >= _SUPPORT}


def planted_profile(user: int, older: Sequence[Rated], catalogue: Catalogue, planted: Any) -> str:
    """What the writer could say at best: shares of the older items, and the *planted* tastes for topics.

    Args:
        user: user index.
        older: items that a writer would see.
        catalogue: of a generated dataset whose topics are the planted genres.
        planted: `Dataset.planted`.

    Raises:
        ConfigError: nothing was planted, or the topics are not the planted ones.
    """
    if planted is None or topic_attributes(catalogue)[:1] != ("genres",):
        raise ConfigError("a profile of planted tastes needs the dataset films; leave the arm 'planted' out")
    tastes_now = planted.genre_tastes[1][user]
    order = np.argsort(-tastes_now, kind="stable")
    best = [as_data(planted.genres[int(place)]) for place in order[:_LIKED]]
    worst = [as_data(planted.genres[int(place)]) for place in order[::-1][:_DISLIKED]]
    return f"{shares(older, catalogue)} {tastes_text(best, worst)}"
