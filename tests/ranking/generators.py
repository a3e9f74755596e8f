"""Small generators over made-up data."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmrec.data.dataset import Dataset
from llmrec.data.splits import leave_one_out
from llmrec.ranking.generative import GenerativeRecommender
from llmrec.ranking.generative_config import GenerativeConfig, GenerativeFit
from llmrec.semid.codes import SemanticIds

N_ITEMS = 40
FIT: dict[str, Any] = {"epochs": 4, "sequences_per_batch": 16, "warmup_steps": 2, "learning_rate": 5e-3}
TINY: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "max_length": 8, "device": "cpu", "dtype": "float32"}
SMALL = GenerativeConfig(**TINY, fit=GenerativeFit(**FIT))


def ids_of(data: Dataset) -> SemanticIds:
    """Two levels of 5 and 8 codes; items 0 and 39 share theirs, so the collision level has work to do."""
    rows = np.arange(len(data.catalogue)) % 39
    prefixes = np.stack([rows // 8, rows % 8], axis=1)
    return SemanticIds.from_prefixes(prefixes, (5, 8), catalogue_hash=data.catalogue.content_hash, collision_size=4)


def made(data: Dataset, config: GenerativeConfig = SMALL, **options: Any) -> GenerativeRecommender:
    """Fitted on the training part."""
    recommender = GenerativeRecommender(config=config, ids=ids_of(data), **options)
    recommender.fit(data, leave_one_out(data.interactions))
    return recommender
