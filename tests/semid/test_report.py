"""What the report of semantic ids says, against values worked out by hand and planted structure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmrec.data.catalogue import Catalogue
from llmrec.data.films import load_films
from llmrec.errors import CacheError, DataError
from llmrec.retrieval.encoders import TfidfSvdEncoder
from llmrec.seeding import rng
from llmrec.semid.build import build_ids
from llmrec.semid.categories import category_attribute, category_paths
from llmrec.semid.codes import SemanticIds
from llmrec.semid.kmeans import KmeansConfig
from llmrec.semid.report import code_entropy, purity, report, variance_left
from llmrec.semid.residual import ResidualCodebooks


def shop() -> Catalogue:
    paths = [["Beauty", "Skin", "Face"], ["Beauty", "Skin"], ["Beauty", "Hair"], ["Beauty"], ["Beauty", "Skin", "Body"]]
    return Catalogue.from_columns(
        {"item_id": list("abcde"), "title": list("abcde"), "price": [1, 2, 3, 4, 5], "categories": paths}
    )


def test_report_golden() -> None:
    """Five items, codes 0 0 0 1 1 of 4, then 0 0 1 0 0 of 2; categories Skin Skin Hair none Skin.

    Level 0: half of the codes, entropy -(.6 ln .6 + .4 ln .4) = .6730 of ln 4; purity: group 0 has two Skin of three,
    group 1 one Skin of one: 3 of 4. Level 1: prefixes (0,0) with two Skin, (0,1) Hair, (1,0) Skin: 4 of 4. Two groups
    of two items share their prefix, so 2 of 5 have a nonzero last code.
    """
    prefixes = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 0]])
    ids = SemanticIds.from_prefixes(prefixes, (4, 2), catalogue_hash=shop().content_hash)
    facts = report(ids, shop())
    first, second = facts.levels
    assert (first.codes, first.usage, first.prefixes) == (4, 0.5, 2)
    assert first.entropy == pytest.approx(0.6730, abs=1e-4)
    assert first.entropy_share == pytest.approx(0.6730 / math.log(4), abs=1e-4)
    assert (first.purity, second.purity) == (0.75, 1.0)
    assert (second.usage, second.prefixes) == (1.0, 3)
    assert (facts.collision_groups, facts.largest_group, facts.share_nonzero, facts.collision_codes) == (2, 2, 0.4, 4)
    assert (facts.category, facts.vectors, facts.quantiser) == ("categories", "given", "given")
    assert first.variance_left is None
    assert "40.00% of the items have a nonzero last code" in facts.lines()[1]
    assert report(ids).levels[0].purity is None


def test_category_paths_golden() -> None:
    """The root that every item has is left out; depth 2 tells Face from Body and knows nothing of plain Skin."""
    labels = category_paths(shop(), "categories", 2)
    assert labels[:, 0].tolist() == [0, 0, 2, -1, 0]
    assert labels[:, 1].tolist() == [1, -1, -1, -1, 3]
    assert category_attribute(shop()) == "categories"
    with pytest.raises(DataError, match="it has no vocabulary"):
        category_attribute(shop(), "price")
    with pytest.raises(DataError, match="no attribute 'colour'"):
        category_attribute(shop(), "colour")
    same = Catalogue.from_columns({"item_id": ["a", "b"], "title": ["a", "b"], "genres": [["X"], ["X"]]})
    with pytest.raises(DataError, match="tells no items apart"):
        category_paths(same, "genres", 1)


def test_entropy_and_purity_golden() -> None:
    assert code_entropy(np.array([0, 1, 2, 3])) == pytest.approx(math.log(4))
    assert code_entropy(np.array([2, 2])) == 0
    assert purity(np.array([0, 0, 0, 1]), np.array([5, 5, 6, 6])) == 0.75
    assert purity(np.array([0, 0, 0, 1]), np.array([5, -1, 6, 6])) == pytest.approx(2 / 3)
    assert math.isnan(purity(np.array([0]), np.array([-1])))


def test_variance_left_golden() -> None:
    """Points 0, 2, 4, 6 around 3: variance 20. Centres 1 and 5 leave 4 of it, a fifth; centres -1 and 1 nothing."""
    books = (np.array([[1.0], [5.0]], dtype=np.float32), np.array([[-1.0], [1.0]], dtype=np.float32))
    vectors = np.array([[0.0], [2.0], [4.0], [6.0]], dtype=np.float32)
    quantiser = ResidualCodebooks(KmeansConfig(levels=(2, 2)), books)
    codes = quantiser.encode(vectors)
    assert codes.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert variance_left(quantiser, vectors, codes) == pytest.approx([0.2, 0.0])


def test_planted_categories_are_pure_and_shuffled_ids_are_not() -> None:
    draws = rng(0, "report")
    labels = draws.integers(0, 5, size=300)
    vectors = 3 * draws.normal(size=(5, 8))[labels] + draws.normal(size=(300, 8))
    catalogue = Catalogue.from_columns(
        {
            "item_id": [str(row) for row in range(300)],
            "title": ["t"] * 300,
            "genres": [[f"genre {label}"] for label in labels],
        }
    )
    ids = build_ids(catalogue, vectors, config=KmeansConfig(levels=(8, 8)), seed=0, note="planted")
    facts = report(ids, catalogue, seed=1)
    first = facts.levels[0]
    assert first.purity is not None
    assert first.purity_floor is not None
    assert first.purity > 0.9
    assert first.purity_floor < 0.4
    assert facts == report(ids, catalogue, seed=1)
    left = [level.variance_left or 0.0 for level in facts.levels]
    assert 1 > left[0] > left[1] > 0
    assert ids.facts["vectors"] == "planted"
    with pytest.raises(CacheError):
        report(ids, shop())
    with pytest.raises(DataError, match="300 items, got vectors of 299"):
        build_ids(catalogue, vectors[:299])


def test_ids_of_real_texts_tell_genres_and_shuffled_ones_do_not() -> None:
    """The verify line of TIGER: the first code against categories, beside a random order of the same codes."""
    films = load_films()
    texts = [films.catalogue.document(row) for row in range(len(films.catalogue))]
    vectors = TfidfSvdEncoder(texts, dimensions=64, seed=0).encode(texts)
    ids = build_ids(films.catalogue, vectors, config=KmeansConfig(levels=(16, 16)), seed=0)
    first = report(ids, films.catalogue).levels[0]
    assert first.purity is not None
    assert first.purity_floor is not None
    assert first.purity > first.purity_floor + 0.1
    assert first.usage >= 0.8
