"""Recommenders by name, as the command line and the recipes use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmrec.errors import ConfigError
from llmrec.retrieval.base import Recommender

if TYPE_CHECKING:
    from llmrec.lm.protocol import LanguageModel


def build(name: str, *, lm: LanguageModel | None = None, **options: Any) -> Recommender:
    """A fresh, unfitted recommender.

    Args:
        name: one of `names()`.
        lm: the backbone; needed by "calrec" only.
        options: passed to the recommender's constructor (such as ``config``).

    Raises:
        ConfigError: the name is unknown, an option does not exist, or the backbone is missing.
    """
    if name not in _BUILDERS:
        raise ConfigError(f"no recommender is called {name!r}; choose from {', '.join(names())}")
    try:
        return _BUILDERS[name](lm, options)
    except TypeError as error:
        raise ConfigError(f"wrong option for the recommender {name!r}: {error}") from error


def names() -> tuple[str, ...]:
    """Every registered name."""
    return tuple(_BUILDERS)


def needs_backbone(name: str) -> bool:
    """Whether the recommender asks a language model."""
    return name == "calrec"


def _popular(lm: LanguageModel | None, options: dict[str, Any]) -> Recommender:
    from llmrec.retrieval.popularity import PopularityRecommender

    return PopularityRecommender(**options)


def _random(lm: LanguageModel | None, options: dict[str, Any]) -> Recommender:
    from llmrec.retrieval.popularity import RandomRecommender

    return RandomRecommender(**options)


def _knn(lm: LanguageModel | None, options: dict[str, Any]) -> Recommender:
    from llmrec.retrieval.item_knn import ItemKnnRecommender

    return ItemKnnRecommender(**options)


def _lastitem(lm: LanguageModel | None, options: dict[str, Any]) -> Recommender:
    from llmrec.retrieval.lastitem import LastItemRecommender

    return LastItemRecommender(**options)


def _dense(lm: LanguageModel | None, options: dict[str, Any]) -> Recommender:
    from llmrec.retrieval.dense import DenseRecommender

    return DenseRecommender(**options)


def _calrec(lm: LanguageModel | None, options: dict[str, Any]) -> Recommender:
    if lm is None:
        raise ConfigError("the recommender 'calrec' needs a language model; name a backbone folder (--backbone DIR)")
    from llmrec.retrieval.calrec import CalrecRecommender

    return CalrecRecommender(lm, **options)


_BUILDERS: dict[str, Callable[[LanguageModel | None, dict[str, Any]], Recommender]] = {
    "popular": _popular,
    "random": _random,
    "knn": _knn,
    "bm25-lastitem": _lastitem,
    "dense": _dense,
    "calrec": _calrec,
}
