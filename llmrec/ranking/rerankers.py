"""Re-rankers by name, built over a catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from llmrec.errors import ConfigError
from llmrec.ranking.calibrated import CalibratedConfig, CalibratedReranker
from llmrec.ranking.categories import ItemCategories
from llmrec.ranking.intent import IntentConfig, IntentReranker
from llmrec.ranking.mmr import MmrConfig, MmrReranker
from llmrec.ranking.rerank import Reranker
from llmrec.ranking.similarity import CosineSimilarity, JaccardSimilarity

if TYPE_CHECKING:
    import numpy.typing as npt

    from llmrec.data.catalogue import Catalogue

_CONFIGS: dict[str, type[BaseModel]] = {"intent": IntentConfig, "mmr": MmrConfig, "calibrated": CalibratedConfig}


def build_reranker(
    name: str,
    catalogue: Catalogue,
    *,
    attribute: str | None = None,
    vectors: npt.NDArray[Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Reranker:
    """A re-ranker over a catalogue.

    Args:
        name: one of `names()`.
        catalogue: the items.
        attribute: category attribute for intents, for the mix that is calibrated, and for "mmr" without vectors; None
            takes that of `default_attribute`.
        vectors: of items, shape (n_items, d): "mmr" then compares by cosines.
        settings: of the re-ranker, by name.

    Raises:
        ConfigError: the name or a setting is unknown or wrong, or the catalogue has no category attribute.
        DataError: no such attribute, or it is no category.
    """
    if name not in _CONFIGS:
        raise ConfigError(f"no re-ranker is called {name!r}; choose from {', '.join(names())}")
    try:
        config = _CONFIGS[name].model_validate(dict(settings or {}))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"settings of the re-ranker {name!r} are not valid: {faults}") from error
    if vectors is not None and name != "mmr":
        raise ConfigError(f"the re-ranker {name!r} takes no vectors, but a category attribute; leave them out")
    if vectors is not None and len(vectors) != len(catalogue):
        raise ConfigError(f"vectors must have one row per item ({len(catalogue)}), got {len(vectors)}")
    if isinstance(config, MmrConfig) and vectors is not None:
        return MmrReranker(CosineSimilarity(vectors), config=config)
    categories = ItemCategories.from_catalogue(catalogue, attribute or default_attribute(catalogue))
    if isinstance(config, MmrConfig):
        return MmrReranker(JaccardSimilarity(categories), config=config)
    if isinstance(config, IntentConfig):
        return IntentReranker(categories, config=config)
    assert isinstance(config, CalibratedConfig)
    return CalibratedReranker(categories, config=config)


def names() -> tuple[str, ...]:
    """Every re-ranker."""
    return tuple(_CONFIGS)


def default_attribute(catalogue: Catalogue) -> str:
    """The first category attribute of the flattened item text, else of the catalogue.

    Raises:
        ConfigError: there is none.
    """
    for name in (*catalogue.flat_fields, *catalogue.attribute_names):
        if catalogue.kind(name) in ("category", "categories"):
            return name
    raise ConfigError(
        f"re-ranking needs a category attribute, and the catalogue has only {catalogue.attribute_names!r}; use item "
        "vectors with 'mmr', or a catalogue with categories"
    )
