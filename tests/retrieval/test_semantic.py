"""Semantic ids of the embedded films, end to end: order of methods, popularity inside groups, films that come later."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.interactions import Interactions
from llmrec.data.spec import load
from llmrec.data.splits import leave_one_out
from llmrec.errors import CacheError, ConfigError
from llmrec.retrieval.item_vectors import ItemVectorConfig, item_vectors
from llmrec.retrieval.semantic import encode_texts, extend, semantic_ids
from llmrec.seeding import rng
from llmrec.semid.base import IntArray
from llmrec.semid.codes import SemanticIds
from llmrec.semid.quantiser import quantiser_config
from llmrec.semid.report import report

N_OLD = 670  # of 705 films: the last 5 % come later
CONFIG = quantiser_config("kmeans", levels=(32, 32, 32))
SMALL = ItemVectorConfig(dimensions=32)


@pytest.fixture(scope="module")
def films() -> Dataset:
    return load("films")


@pytest.fixture(scope="module")
def built(films: Dataset) -> SemanticIds:
    return asyncio.run(semantic_ids(films, config=CONFIG, vector_config=SMALL))


@pytest.fixture(scope="module")
def older(films: Dataset) -> Dataset:
    """The films without the last ones."""
    events, kept = films.interactions, films.interactions.items < N_OLD
    interactions = Interactions.from_arrays(
        events.user_index()[kept], events.items[kept], None, user_ids=list(events.user_ids), n_items=N_OLD
    )
    old = films.catalogue
    catalogue = Catalogue(old.table.slice(0, N_OLD), kinds={name: old.kind(name) for name in old.attribute_names})
    return replace(films, catalogue=catalogue, interactions=interactions)


async def test_ids_of_films(films: Dataset, built: SemanticIds) -> None:
    facts = report(built, films.catalogue)
    assert min(level.usage for level in facts.levels) >= 0.8
    assert facts.largest_group <= 32
    first = facts.levels[0]
    assert first.purity is not None
    assert first.purity_floor is not None
    assert first.purity > first.purity_floor + 0.1
    counts = leave_one_out(films.interactions).train.item_counts()
    groups: dict[tuple[int, ...], list[int]] = {}
    for row in np.argsort(built.codes[:, -1], kind="stable"):
        groups.setdefault(built.code_of(int(row))[:-1], []).append(int(counts[row]))
    assert max(len(group) for group in groups.values()) > 1
    assert all(group == sorted(group, reverse=True) for group in groups.values())
    assert (await semantic_ids(films, config=CONFIG, vector_config=SMALL)).fingerprint == built.fingerprint


async def test_random_ids_are_worse_than_lsh_and_lsh_than_kmeans(films: Dataset, built: SemanticIds) -> None:
    """How alike films with the same first code are; the order in which TIGER's ablation finds the ids useful."""
    vectors = (await item_vectors("tfidf", films, config=SMALL)).vectors
    draws = rng(0, "lsh")
    planes = draws.normal(size=(vectors.shape[1], 5))
    lsh = (((vectors - vectors.mean(axis=0)) @ planes) > 0) @ (1 << np.arange(5))
    kmeans = built.codes[:, 0]
    chance, hashed, clustered = (_likeness(vectors, c) for c in (draws.permutation(kmeans), lsh, kmeans))
    assert chance + 0.01 < hashed
    assert hashed + 0.01 < clustered


def _likeness(vectors: np.ndarray, codes: IntArray) -> float:
    """Mean cosine of pairs with the same code."""
    same = (codes[:, None] == codes[None, :]) & ~np.eye(len(codes), dtype=np.bool_)
    return float((vectors @ vectors.T)[same].mean())


async def test_films_that_come_later_join_their_like(films: Dataset, older: Dataset, tmp_path: Path) -> None:
    """Ids made without the last films: old codes stay, new films land among films of their genres, without training."""
    (await semantic_ids(older, config=CONFIG, vector_config=SMALL)).save(tmp_path / "ids")
    ids = SemanticIds.load(tmp_path / "ids", older.catalogue)
    more = await extend(ids, films.catalogue)
    assert (more.codes[:N_OLD] == ids.codes).all()
    assert len(more) == len(films.catalogue)
    more.check(films.catalogue)
    texts = [films.catalogue.document(row) for row in range(N_OLD, len(films.catalogue))]
    assert (await encode_texts(ids, texts) == more.codes[N_OLD:]).all()

    genres = [set(films.catalogue.values(row, "genres")) for row in range(len(films.catalogue))]
    by_code, by_chance = [], []
    draws = rng(0, "cold")
    for row in range(N_OLD, len(films.catalogue)):
        near = [other for other, _ in ids.nearest_by_prefix(more.code_of(row)[:-1], 5)]
        far = draws.choice(N_OLD, 5, replace=False)
        by_code += [len(genres[row] & genres[other]) / len(genres[row]) for other in near]
        by_chance += [len(genres[row] & genres[int(other)]) / len(genres[row]) for other in far]
    assert np.mean(by_code) > np.mean(by_chance) + 0.15
    assert (await extend(more, films.catalogue)).fingerprint == more.fingerprint  # nothing new, nothing changes


async def test_what_cannot_be_extended_is_refused(films: Dataset, older: Dataset, built: SemanticIds) -> None:
    with pytest.raises(CacheError, match="are not those of the semantic ids"):
        await extend(built, older.catalogue)
    users = await semantic_ids(films, vectors="cf", config=CONFIG, vector_config=SMALL)
    with pytest.raises(ConfigError, match="cannot be encoded from text"):
        await encode_texts(users, ["Alien"])
    with pytest.raises(ConfigError, match="do not say which encoder"):
        await encode_texts(replace(built, encoder=None), ["Alien"])


async def test_alignment_and_categories_come_from_the_dataset(films: Dataset) -> None:
    settings = {"levels": (8, 8), "steps": 5, "hidden": (16,), "latent": 4, "min_usage": 0}
    config = quantiser_config("rqvae", **settings, alignment=0.1, category=0.1, uniform=0.1, dispersion=0.1)
    ids = await semantic_ids(films, config=config, vector_config=ItemVectorConfig(dimensions=16))
    plain = quantiser_config("rqvae", **settings)
    other = await semantic_ids(films, config=plain, vector_config=ItemVectorConfig(dimensions=16))
    assert ids.fingerprint != other.fingerprint
    bare = Catalogue.from_columns({"item_id": films.catalogue.item_ids[:], "title": films.catalogue.titles()})
    with pytest.raises(ConfigError, match="needs a category attribute"):
        await semantic_ids(replace(films, catalogue=bare), config=config)
