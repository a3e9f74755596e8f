"""Recommenders by name, as the command line and the recipes use them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from llmrec.errors import CacheError, ConfigError
from llmrec.ranking.saved import SPEC, check_events, origin_of, read_kind, read_spec
from llmrec.retrieval.base import Recommender

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.lm.protocol import LanguageModel


@dataclass(frozen=True)
class _Kind:
    """Where a recommender is found (imported when it is asked for) and what it can do."""

    recommender: str
    """module:Class, under llmrec."""
    config: str | None = None
    """Class of its settings, in the same module unless it names another."""
    seed: str | None = None
    """Place of the seed in the settings, with dots."""
    asks_lm: bool = False
    saves: bool = False
    """Has `save(folder)` and `load(folder, dataset)`."""
    resumes: bool = False
    """Takes a folder `checkpoint` that a killed training goes on from."""


_KINDS: dict[str, _Kind] = {
    "popular": _Kind("retrieval.popularity:PopularityRecommender"),
    "random": _Kind("retrieval.popularity:RandomRecommender"),
    "knn": _Kind("retrieval.item_knn:ItemKnnRecommender", "ItemKnnConfig"),
    "bm25-lastitem": _Kind("retrieval.lastitem:LastItemRecommender"),
    "dense": _Kind("retrieval.dense:DenseRecommender", "DenseConfig", "seed"),
    "calrec": _Kind("retrieval.calrec:CalrecRecommender", "CalrecConfig", asks_lm=True),
    "ease": _Kind("ranking.linear:EaseRecommender", "EaseConfig", saves=True),
    "als": _Kind("ranking.als:AlsRecommender", "AlsConfig", "seed", saves=True),
    "blend": _Kind("ranking.blend:BlendRecommender", "BlendConfig", "seed", saves=True),
    "generative": _Kind(
        "ranking.generative:GenerativeRecommender",
        "ranking.generative_config:GenerativeConfig",
        "fit.seed",
        saves=True,
        resumes=True,
    ),
    "calrec-trie": _Kind("retrieval.trie_titles:TrieTitlesRecommender", "TrieTitlesConfig", asks_lm=True),
    "lm-likelihood": _Kind("ranking.lm_likelihood:LmLikelihoodRecommender", "LmLikelihoodConfig", asks_lm=True),
    "semantic-lm": _Kind("retrieval.semantic_lm:SemanticLmRecommender", "SemanticLmConfig", asks_lm=True),
    "sasrec": _Kind("ranking.sasrec:SasrecRecommender", "SasrecConfig", "fit.seed", saves=True, resumes=True),
}


def build(name: str, /, *, lm: LanguageModel | None = None, **options: Any) -> Recommender:
    """A fresh, unfitted recommender.

    Args:
        name: one of `names()`.
        lm: the backbone, for those that ask one (`needs_backbone`).
        options: passed to the recommender's constructor (such as ``config``).

    Raises:
        ConfigError: the name is unknown, an option does not exist, or the backbone is missing.
    """
    kind = _kind(name)
    if kind.asks_lm and lm is None:
        raise ConfigError(f"the recommender {name!r} needs a language model; name a backbone folder (--backbone DIR)")
    try:
        made: Recommender = _class(kind.recommender)(*([lm] if kind.asks_lm else []), **options)
    except TypeError as error:
        raise ConfigError(f"wrong option for the recommender {name!r}: {error}") from error
    return made


def settings(name: str, values: Mapping[str, Any], *, seed: int | None = None) -> BaseModel | None:
    """The settings object of a recommender, from plain values; None for one that has no settings.

    Args:
        name: one of `names()`.
        values: settings by name, nested as in the settings' class; the others keep their defaults.
        seed: put where the recommender keeps its seed, if it has one and `values` name none.

    Raises:
        ConfigError: the recommender takes no settings, or some are unknown or wrong (all faults at once).
    """
    kind = _kind(name)
    if kind.config is None:
        if values:
            raise ConfigError(f"the recommender {name!r} takes no settings, got {', '.join(sorted(values))}")
        return None
    module = kind.recommender.partition(":")[0]
    config: type[BaseModel] = _class(kind.config if ":" in kind.config else f"{module}:{kind.config}")
    try:
        return config.model_validate(_seeded(values, kind.seed, seed))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"settings of the recommender {name!r} are not valid: {faults}") from error


def fitted(
    spec: str,
    dataset: Dataset,
    split: Split,
    *,
    lm: LanguageModel | None = None,
    same_events: bool = True,
    **options: Any,
) -> Recommender:
    """A recommender that is ready to score.

    Args:
        spec: one of `names()`, which is built and fitted on the training part; or the folder of a saved recommender,
            which is loaded.
        dataset: its catalogue must be the one that a saved recommender was fitted on.
        split: what is fitted on.
        lm: see `build`.
        same_events: refuse a saved recommender that was fitted on other training events, which may hold what the split
            holds out. A service whose log has grown since has nothing to hold out and says False.
        options: see `build`; a saved recommender brings its own.

    Raises:
        ConfigError: see `build`; or options were given for a saved recommender.
        CacheError: the saved recommender is damaged, or belongs to another catalogue or other events.
    """
    if is_saved(spec):
        if options:
            raise ConfigError(f"{spec!r} is a saved recommender and brings its settings, got {', '.join(options)}")
        return load(Path(spec), dataset, split=split if same_events else None)
    recommender = build(spec, lm=lm, **options)
    recommender.fit(dataset, split)
    return recommender


def is_saved(folder: str | Path) -> bool:
    """Whether a folder holds a saved recommender."""
    return (Path(folder) / SPEC).is_file()


def load(folder: Path, dataset: Dataset, *, split: Split | None = None) -> Recommender:
    """A recommender as its `save` left it.

    Args:
        split: refuse one that was fitted on other training events than its; None does not compare.

    Raises:
        CacheError: the folder is damaged, its kind is unknown, or it belongs to another catalogue or other events.
    """
    if split is not None:
        check_events(str(folder), origin_of(read_spec(folder, dataset)), split)
    name = read_kind(folder)
    if name not in _KINDS or not _KINDS[name].saves:
        raise CacheError(f"{folder} holds a recommender {name!r}, which this version cannot load; save it again")
    recommender: Recommender = _class(_KINDS[name].recommender).load(folder, dataset)
    return recommender


def names() -> tuple[str, ...]:
    """Every registered name."""
    return tuple(_KINDS)


def needs_backbone(name: str) -> bool:
    """Whether the recommender asks a language model."""
    return _kind(name).asks_lm


def saves(name: str) -> bool:
    """Whether it can be kept in a folder."""
    return _kind(name).saves


def resumes(name: str) -> bool:
    """Whether its training takes a folder `checkpoint`, from which it goes on after a kill."""
    return _kind(name).resumes


def _kind(name: str) -> _Kind:
    if name not in _KINDS:
        raise ConfigError(f"no recommender is called {name!r}; choose from {', '.join(names())}")
    return _KINDS[name]


def _class(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(f"llmrec.{module}"), name)


def _seeded(values: Mapping[str, Any], place: str | None, seed: int | None) -> dict[str, Any]:
    """The values with the seed at its place, unless one stands there."""
    filled = dict(values)
    if place is None or seed is None:
        return filled
    *outer, last = place.split(".")
    inner = filled
    for key in outer:
        inner[key] = dict(inner.get(key) or {})
        inner = inner[key]
    inner.setdefault(last, seed)
    return filled
