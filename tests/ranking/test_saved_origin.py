"""A saved recommender stands for the events it was fitted on: others may hold what an evaluation asks for."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split, leave_one_out
from llmrec.errors import CacheError
from llmrec.ranking import registry
from llmrec.ranking.blend import BlendConfig, BlendRecommender
from llmrec.ranking.linear import EaseRecommender
from llmrec.ranking.sasrec import SasrecConfig, SasrecRecommender
from llmrec.retrieval.item_knn import ItemKnnRecommender
from llmrec.retrieval.item_vectors import VECTORS_FILE, item_vectors
from tests.ranking.synthetic import dataset_of, walks

SMALL = SasrecConfig.model_validate(
    {"width": 8, "layers": 1, "heads": 1, "max_length": 10, "fit": {"epochs": 1, "validation_users": 20}}
)


def _shorter(data: Dataset) -> tuple[Dataset, Split]:
    """The same catalogue with the two newest events of every user taken away."""
    events = data.interactions
    rows = [events.history(user)[:-2].tolist() for user in range(events.n_users)]
    short = replace(dataset_of(rows, n_items=len(data.catalogue)), catalogue=data.catalogue)
    return short, leave_one_out(short.interactions)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return walks(n_items=30)


def test_one_fitted_on_a_longer_log_is_refused(data: Dataset, tmp_path: Path) -> None:
    whole = leave_one_out(data.interactions)
    ease = EaseRecommender()
    ease.fit(data, whole)
    ease.save(tmp_path)
    short, split = _shorter(data)
    with pytest.raises(CacheError, match="other training events"):
        registry.fitted(str(tmp_path), short, split)
    assert registry.fitted(str(tmp_path), data, whole).name == "ease"
    assert registry.fitted(str(tmp_path), short, split, same_events=False).name == "ease"  # a service holds nothing out


def test_a_blend_refuses_a_part_that_has_seen_more(data: Dataset, tmp_path: Path) -> None:
    ease = EaseRecommender()
    ease.fit(data, leave_one_out(data.interactions))
    short, split = _shorter(data)
    blend = BlendRecommender([ItemKnnRecommender(), ease], config=BlendConfig(validation_users=20))
    with pytest.raises(CacheError, match="the part 'ease' was fitted on other training events"):
        blend.fit(short, split)


def test_a_saved_blend_is_refused_for_other_events(data: Dataset, tmp_path: Path) -> None:
    split = leave_one_out(data.interactions)
    blend = BlendRecommender([ItemKnnRecommender(), EaseRecommender()], config=BlendConfig(validation_users=20))
    blend.fit(data, split)
    blend.save(tmp_path)
    short, shorter = _shorter(data)
    with pytest.raises(CacheError, match="other training events"):
        registry.load(tmp_path, short, split=shorter)
    assert registry.load(tmp_path, data, split=split).name == "blend"


def test_item_vectors_of_a_ranker_are_refused_elsewhere(data: Dataset, tmp_path: Path) -> None:
    split = leave_one_out(data.interactions)
    ranker = SasrecRecommender(config=SMALL)
    ranker.fit(data, split)
    ranker.save(tmp_path)
    made = asyncio.run(item_vectors(f"file:{tmp_path}", data, split=split))
    assert np.array_equal(made.vectors, ranker.item_embeddings().astype(np.float32))
    columns = {"item_id": [f"x{row}" for row in range(30)], "title": [f"Other {row}" for row in range(30)]}
    renamed = replace(data, catalogue=Catalogue.from_columns(columns))
    with pytest.raises(CacheError, match="another catalogue"):
        asyncio.run(item_vectors(f"file:{tmp_path}", renamed))
    short, shorter = _shorter(data)
    with pytest.raises(CacheError, match="other training events"):
        asyncio.run(item_vectors(f"file:{tmp_path / VECTORS_FILE}", short, split=shorter))


@pytest.mark.parametrize("damage", ["config", "name", "train"])
def test_a_damaged_folder_is_told(data: Dataset, tmp_path: Path, damage: str) -> None:
    ease = EaseRecommender()
    ease.fit(data, leave_one_out(data.interactions))
    ease.save(tmp_path)
    spec = json.loads((tmp_path / "recommender.json").read_text(encoding="utf-8"))
    del spec[damage]
    (tmp_path / "recommender.json").write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(CacheError, match="save"):
        registry.load(tmp_path, data)
