"""Semantic ids of a dataset, from spec strings, and of items that come later, from their text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrec.data.splits import leave_one_out
from llmrec.errors import ConfigError
from llmrec.retrieval.collaborative import collaborative_vectors
from llmrec.retrieval.item_vectors import ItemVectorConfig, item_vectors, new_item_vectors
from llmrec.semid.base import IntArray, default_levels
from llmrec.semid.build import build_ids
from llmrec.semid.categories import category_attribute, category_paths
from llmrec.semid.codes import SemanticIds
from llmrec.semid.quantiser import QuantiserConfig, quantiser_config
from llmrec.semid.rqvae import RqVaeConfig

if TYPE_CHECKING:
    from llmrec.data.catalogue import Catalogue
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.lm.protocol import LanguageModel


async def semantic_ids(
    dataset: Dataset,
    *,
    vectors: str = "tfidf",
    config: QuantiserConfig | None = None,
    vector_config: ItemVectorConfig | None = None,
    split: Split | None = None,
    lm: LanguageModel | None = None,
    category: str | None = None,
    collision_size: int | None = None,
    seed: int = 0,
) -> SemanticIds:
    """Make item vectors, quantise them, and number collisions by popularity in training.

    Args:
        dataset: catalogue and interactions.
        vectors: spec of `llmrec.retrieval.item_vectors`.
        config: quantiser; default residual k-means with three levels sized for the catalogue.
        vector_config: sizes of the item vectors.
        split: whose training events give popularity and collaborative vectors; default leave-one-out.
        lm: for the vectors ``lm``.
        category: attribute behind an RQ-VAE's category weight; default one with a usual name.
        collision_size: codes of the collision level.
        seed: of every random draw.

    Raises:
        ConfigError: a spec or setting is wrong or cannot work with this catalogue.
        DataError: vectors or categories do not fit.
        ModelError: the quantiser collapsed.
        MissingDependencyError, ModelNotFoundError, CacheError: from the encoder.
    """
    split = split or leave_one_out(dataset.interactions)
    config = config or quantiser_config("kmeans", levels=default_levels(len(dataset.catalogue)))
    made = await item_vectors(vectors, dataset, split=split, lm=lm, config=vector_config, seed=seed)
    extra: dict[str, Any] = {}
    if isinstance(config, RqVaeConfig) and config.alignment:
        extra["collaborative"] = collaborative_vectors(split.train, seed=seed)
    if isinstance(config, RqVaeConfig) and config.category:
        extra["categories"] = _categories(dataset.catalogue, category, len(config.levels))
    return build_ids(
        dataset.catalogue,
        made.vectors,
        config=config,
        seed=seed,
        counts=split.train.item_counts(),
        collision_size=collision_size,
        encoder=made.state,
        note=made.note,
        **extra,
    )


def _categories(catalogue: Catalogue, wanted: str | None, depth: int) -> IntArray:
    attribute = category_attribute(catalogue, wanted)
    if attribute is None:
        raise ConfigError(
            f"the category weight needs a category attribute, got none in {catalogue.attribute_names!r}; name one"
        )
    return category_paths(catalogue, attribute, depth)


async def encode_texts(ids: SemanticIds, texts: Sequence[str], *, lm: LanguageModel | None = None) -> IntArray:
    """Codes for items that are not in the catalogue, from their text, shape (n_texts, depth).

    Args:
        ids: made from vectors that read text.
        texts: as `Catalogue.document` writes them: title, then attributes.
        lm: for the vectors ``lm``.

    Raises:
        ConfigError: the ids' vectors do not read text, or a collision level is full.
        CacheError: the saved encoder is damaged.
    """
    if ids.encoder is None:
        raise ConfigError("these ids do not say which encoder made their vectors; give vectors to encode_new instead")
    return ids.encode_new(await new_item_vectors(ids.encoder, texts, lm=lm))


async def extend(ids: SemanticIds, catalogue: Catalogue, *, lm: LanguageModel | None = None) -> SemanticIds:
    """Ids for a catalogue with new items at its end; old codes stay. See `SemanticIds.extended`."""
    if ids.encoder is None:
        raise ConfigError("these ids do not say which encoder made their vectors; give vectors to extended instead")
    texts = [catalogue.document(row) for row in range(len(ids), len(catalogue))]
    if not texts:
        return ids.extended(catalogue, np.empty((0, 0), dtype=np.float32))
    return ids.extended(catalogue, await new_item_vectors(ids.encoder, texts, lm=lm))
