"""Recommenders by name, their settings from plain values, and saved ones by folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmrec.data.splits import leave_one_out
from llmrec.errors import CacheError, ConfigError
from llmrec.ranking import registry
from llmrec.ranking.sasrec import SasrecConfig
from llmrec.retrieval.item_knn import ItemKnnConfig
from tests.ranking.synthetic import walks

TINY = {"width": 8, "layers": 1, "heads": 1, "dropout": 0.0, "fit": {"epochs": 2, "warmup_steps": 1}}


def test_settings_come_from_plain_values_and_the_seed_goes_where_it_is_kept() -> None:
    made = registry.settings("sasrec", TINY, seed=7)
    assert isinstance(made, SasrecConfig)
    assert (made.width, made.fit.epochs, made.fit.seed) == (8, 2, 7)
    assert TINY["fit"] == {"epochs": 2, "warmup_steps": 1}  # the caller's values are left alone
    named = registry.settings("sasrec", {"fit": {"seed": 3}}, seed=7)
    assert isinstance(named, SasrecConfig)
    assert named.fit.seed == 3
    assert registry.settings("knn", {"window": 4}, seed=7) == ItemKnnConfig(window=4)
    assert registry.settings("popular", {}) is None


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("knn", {"windw": 4, "backward": -1}, "backward.*windw"),
        ("popular", {"k": 1}, "'popular' takes no settings, got k"),
        ("nothing", {}, "no recommender is called 'nothing'; choose from popular"),
    ],
)
def test_wrong_settings_are_refused_all_at_once(name: str, values: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.settings(name, values)


def test_every_name_leads_to_a_recommender_and_its_settings() -> None:
    for name in registry.names():
        registry.settings(name, {}, seed=0)
        if not registry.needs_backbone(name) and name != "blend":  # a blend needs parts
            assert registry.build(name).name == name


async def test_a_saved_recommender_is_a_recommender_by_its_folder(tmp_path: Path) -> None:
    dataset = walks()
    split = leave_one_out(dataset.interactions)
    model = registry.fitted("sasrec", dataset, split, config=registry.settings("sasrec", TINY, seed=1))
    model.save(tmp_path / "model")  # type: ignore[attr-defined]
    assert registry.is_saved(tmp_path / "model")
    assert not registry.is_saved(tmp_path)
    again = registry.fitted(str(tmp_path / "model"), dataset, split)
    histories = [np.array([0, 1, 2]), np.array([5, 8])]
    np.testing.assert_array_equal(await model.score(histories), await again.score(histories))
    with pytest.raises(ConfigError, match="brings its settings, got config"):
        registry.fitted(str(tmp_path / "model"), dataset, split, config=SasrecConfig())


def test_a_saved_recommender_of_another_catalogue_or_kind_is_refused(tmp_path: Path) -> None:
    dataset, other = walks(), walks(n_items=41)
    registry.fitted(
        "sasrec", dataset, leave_one_out(dataset.interactions), config=registry.settings("sasrec", TINY)
    ).save(tmp_path)  # type: ignore[attr-defined]
    with pytest.raises(CacheError, match=f"{dataset.catalogue.content_hash}.*{other.catalogue.content_hash}"):
        registry.load(tmp_path, other)
    spec = json.loads((tmp_path / "recommender.json").read_text())
    (tmp_path / "recommender.json").write_text(json.dumps(spec | {"kind": "oracle"}))
    with pytest.raises(CacheError, match="holds a recommender 'oracle', which this version cannot load"):
        registry.load(tmp_path, dataset)
    (tmp_path / "recommender.json").write_text("{")
    with pytest.raises(CacheError, match="cannot be read"):
        registry.load(tmp_path, dataset)
