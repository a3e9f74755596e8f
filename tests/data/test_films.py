"""The embedded films: the catalogue's facts and vocabularies, and what the choice model plants."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from llmrec.data.choice import PlantedTastes
from llmrec.data.choice_settings import ChoiceSettings
from llmrec.data.dataset import Dataset
from llmrec.data.film_tastes import AGE_GROUPS, OCCUPATIONS, VIEWER_TYPES, occupation_weights, type_weights
from llmrec.data.film_vocabulary import GENRES, MOODS, THEMES
from llmrec.data.films import ATTRIBUTES, CATALOGUE_FILE, film_catalogue, load_films, records
from llmrec.data.fixed_point import QUANTILES, exact_quantiles, matmul, table, weighted
from llmrec.data.splits import leave_one_out
from llmrec.retrieval.item_knn import ItemKnnRecommender
from llmrec.seeding import rng

Array = npt.NDArray[Any]
ROOT = Path(__file__).resolve().parents[2]
LISTS = ("directors", "actors", "genres", "keywords", "countries")
FIELDS = ("year", *LISTS, "runtime_min", "series", "series_order", "logline")
GOLDEN = "f41e6f27126329bd088bdb01cead8303ba5528f1f2ef7f7f6b01f5e1d27055eb"


@pytest.fixture(scope="module")
def films() -> Dataset:
    return load_films(seed=0)


@pytest.fixture(scope="module")
def planted(films: Dataset) -> PlantedTastes:
    assert isinstance(films.planted, PlantedTastes)
    return films.planted


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of every generated value."""
    x = dataset.interactions
    assert x.event_ratings is not None
    digest = hashlib.sha256()
    for column in (x.offsets, x.items, x.event_times, x.event_ratings.astype(np.int64)):
        digest.update(column.astype("<i8").tobytes())
    for user in range(x.n_users):
        digest.update("|".join(x.user_attributes(user).values()).encode() + b"\n")
    return digest.hexdigest()


def membership(field: str, names: Sequence[str]) -> Array:
    """1 where a film has a value, shape (n_items, n_names)."""
    return np.array([[name in film[field] for name in names] for film in records()], dtype=np.float64)


# --- the catalogue ----------------------------------------------------------------------------------------------------


def test_at_least_600_films_with_unique_ids_and_titles() -> None:
    assert len(records()) >= 600
    assert len({film["item_id"] for film in records()}) == len(records())
    assert len({(film["title"], film["year"]) for film in records()}) == len(records())
    assert all(film["item_id"].isascii() and film["item_id"].endswith(f"-{film['year']}") for film in records())


def test_every_film_has_all_facts_in_the_vocabularies() -> None:
    wrong = {film["item_id"]: faults for film in records() if (faults := faults_of(film))}
    assert not wrong


def test_faults_are_found_in_a_planted_case() -> None:
    bad = dict(records()[0]) | {"genres": ["Gothic"], "keywords": ["eerie", "sad"], "runtime_min": 7, "series": "Odd"}
    assert set(faults_of(bad)) == {"genres", "keywords", "themes", "runtime_min", "series"}


def faults_of(film: dict[str, Any]) -> list[str]:
    """Fields of a film that break the rules of the catalogue."""
    keywords = set(film["keywords"])
    rules = {
        "keys": list(film) == ["item_id", "title", *FIELDS],
        "year": 1895 <= film["year"] <= 2025,
        "directors": 1 <= len(film["directors"]) <= 2,
        "actors": 2 <= len(film["actors"]) <= 4,
        "genres": 1 <= len(film["genres"]) <= 3 and set(film["genres"]) <= GENRES,
        "keywords": 4 <= len(keywords) <= 8 and keywords <= MOODS | THEMES,
        "moods": len(keywords & MOODS) >= 1,
        "themes": len(keywords & THEMES) >= 2,
        "countries": 1 <= len(film["countries"]) <= 3,
        "runtime_min": 40 <= film["runtime_min"] <= 250,
        "series": (film["series"] is None) == (film["series_order"] is None),
    }
    rules |= {name: rules[name] and len(set(film[name])) == len(film[name]) for name in LISTS}
    return [name for name, holds in rules.items() if not holds]


def test_loglines_are_one_sentence_without_the_title() -> None:
    for film in records():
        logline = film["logline"]
        assert 8 <= len(logline.split()) <= 30, film["item_id"]
        assert logline.endswith("."), film["item_id"]
        assert f" {film['title'].lower()} " not in f" {logline.lower().rstrip('.')} ", film["item_id"]


def test_series_parts_are_unique_and_in_order_of_release() -> None:
    series: dict[str, list[tuple[int, int]]] = {}
    for film in records():
        if film["series"]:
            series.setdefault(film["series"], []).append((film["series_order"], film["year"]))
    for name, parts in series.items():
        parts.sort()
        assert len({order for order, _ in parts}) == len(parts), name
        assert [year for _, year in parts] == sorted(year for _, year in parts), name
    assert sum(len(parts) >= 3 for parts in series.values()) >= 30


def test_films_are_spread_over_decades_countries_and_genres() -> None:
    n = len(records())
    decades = Counter(film["year"] // 10 * 10 for film in records())
    genres = Counter(genre for film in records() for genre in film["genres"])
    countries = Counter(country for film in records() for country in film["countries"])
    assert all(decades[decade] >= 8 for decade in range(1920, 2030, 10))
    assert set(genres) == GENRES
    assert min(genres.values()) >= 15
    assert len(countries) >= 40
    assert sum("USA" not in film["countries"] for film in records()) >= 0.4 * n
    directors = Counter(director for film in records() for director in film["directors"])
    assert sum(count >= 3 for count in directors.values()) >= 40


def test_catalogue_attributes_and_flat_text() -> None:
    catalogue = film_catalogue()
    assert catalogue.attribute_names == ATTRIBUTES
    assert [catalogue.kind(name) for name in ATTRIBUTES] == [
        "number", "categories", "categories", "categories", "categories", "categories", "number", "category", "text",
    ]  # fmt: skip
    row = catalogue.row("alien-1979")
    assert catalogue.flat(row) == "Title: Alien (1979). Category: Horror, Sci-Fi"
    assert catalogue.values(row, "series") == ("Alien",)
    assert catalogue.values(catalogue.row("casablanca-1942"), "series") == ()


def test_catalogue_file_is_one_sorted_json_object_a_line() -> None:
    lines = CATALOGUE_FILE.read_text(encoding="utf-8").splitlines()
    assert lines == [json.dumps(film, ensure_ascii=False) for film in records()]
    order = [(film["year"], film["item_id"]) for film in records()]
    assert order == sorted(order)


# --- generated histories ----------------------------------------------------------------------------------------------


def test_size_and_shape_of_the_data(films: Dataset) -> None:
    x = films.interactions
    assert x.n_users == 2000
    assert 55_000 <= len(x) <= 65_000
    assert x.lengths().min() >= 8
    assert np.median(x.lengths()) < x.lengths().mean()  # skewed
    assert x.item_counts().min() >= 1  # every film was seen
    assert x.event_ratings is not None
    shares = np.bincount(x.event_ratings.astype(int), minlength=6)[1:] / len(x)
    assert shares.argmax() in (2, 3)
    assert all(share > 0.005 for share in shares)


def test_no_user_takes_a_film_twice_and_time_increases(films: Dataset) -> None:
    for user in range(films.interactions.n_users):
        history, times = films.interactions.history(user), films.interactions.timestamps(user)
        assert len(np.unique(history)) == len(history)
        assert times is not None
        assert np.all(np.diff(times) > 0)
    years = films.interactions.event_times / (365.25 * 86_400) + 1970
    assert years.max() - years.min() > 5
    assert years.max() < 2026


def test_users_show_age_and_occupation_and_nothing_planted(films: Dataset) -> None:
    attributes = [films.interactions.user_attributes(user) for user in range(films.interactions.n_users)]
    assert all(set(values) == {"age_group", "occupation"} for values in attributes)
    assert {values["age_group"] for values in attributes} == {group.name for group in AGE_GROUPS}
    assert {values["occupation"] for values in attributes} == set(OCCUPATIONS)
    assert not any(v["occupation"] == "retired" and v["age_group"] != "55+" for v in attributes)


def test_generation_takes_less_than_five_seconds() -> None:
    start = time.process_time()
    load_films(seed=1)
    assert time.process_time() - start < 5.0


def test_golden_data_of_seed_0(films: Dataset) -> None:
    assert fingerprint(films) == GOLDEN


def test_golden_data_do_not_depend_on_processor_features() -> None:
    """Another BLAS kernel, no wide vector units, one thread: the same bytes."""
    script = (
        "import numpy as np; from llmrec.data.films import load_films; x = load_films(seed=0).interactions;"
        "import hashlib; d = hashlib.sha256();"
        "[d.update(c.astype('<i8').tobytes()) for c in (x.offsets, x.items, x.event_times, x.event_ratings)];"
        "[d.update('|'.join(x.user_attributes(u).values()).encode() + b'\\n') for u in range(x.n_users)];"
        "print(d.hexdigest())"
    )
    plain = {
        "OPENBLAS_CORETYPE": "Prescott",
        "OPENBLAS_NUM_THREADS": "1",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
    }
    environment = os.environ | plain | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == GOLDEN


def test_other_seeds_give_other_users_but_the_same_films(films: Dataset) -> None:
    other = load_films(seed=1)
    assert fingerprint(other) != fingerprint(films)
    assert other.catalogue.content_hash == films.catalogue.content_hash


def test_settings_change_the_size_and_reject_unknown_names() -> None:
    small = load_films(settings=ChoiceSettings(n_users=20, max_length=12))
    assert small.interactions.n_users == 20
    assert small.interactions.lengths().max() == 12
    with pytest.raises(ValidationError, match="no_such_constant"):
        ChoiceSettings.model_validate({"no_such_constant": 1})


# --- arithmetic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(QUANTILES))
def test_no_quantile_is_near_a_rounding_boundary(name: str) -> None:
    """Mathematical libraries differ by about 1e-12 at these magnitudes; the margin is a million times that."""
    exact = exact_quantiles(name)
    assert np.abs(exact % 1 - 0.5).min() > 1e-6


def test_golden_quantiles_of_gumbel_and_normal() -> None:
    """Median of a standard Gumbel variable: -ln(ln 2) = 0.36651; 97.5 % point of a normal variable: 1.95996."""
    assert table("gumbel")[32_768] == pytest.approx(1024 * 0.36651, abs=1)
    assert table("normal")[round(0.975 * 65_536)] == pytest.approx(1024 * 1.95996, abs=1)


def test_weighted_draws_follow_the_weights() -> None:
    drawn = weighted(rng(0, "test"), np.tile([0, 1, 3], (20_000, 1)))
    assert np.bincount(drawn, minlength=3) / 20_000 == pytest.approx([0, 0.25, 0.75], abs=0.015)


def test_matmul_is_exact_for_large_integers() -> None:
    left = rng(0, "left").integers(-(2**20), 2**20, (30, 400))
    right = rng(0, "right").integers(-(2**20), 2**20, (400, 30))
    assert np.array_equal(matmul(left, right), (left.astype(object) @ right.astype(object)).astype(np.int64))


# --- what was planted can be recovered --------------------------------------------------------------------------------


def test_viewer_types_use_the_vocabularies() -> None:
    for kind in VIEWER_TYPES:
        assert set(kind.genres) <= GENRES
        assert set(kind.keywords) <= MOODS | THEMES
        assert set(kind.ages) <= {group.name for group in AGE_GROUPS}
        assert set(kind.occupations) <= set(OCCUPATIONS)
    assert type_weights("18-24", "student")[0] == 4
    assert sum(occupation_weights("under 18")) > 0


def test_genre_shares_of_histories_follow_planted_tastes(films: Dataset, planted: PlantedTastes) -> None:
    genre = membership("genres", planted.genres)
    taste = (planted.genre_tastes[0] + planted.genre_tastes[1]) / 2
    assert correlation(excess(films, genre), taste) > 0.55


def test_keyword_shares_of_histories_follow_planted_tastes(films: Dataset, planted: PlantedTastes) -> None:
    keyword = membership("keywords", planted.keywords)
    taste = (planted.keyword_tastes[0] + planted.keyword_tastes[1]) / 2
    assert correlation(excess(films, keyword), taste) > 0.3


def test_years_watched_follow_the_favourite_year(films: Dataset, planted: PlantedTastes) -> None:
    years = np.array([film["year"] for film in records()])
    x = films.interactions
    means = np.array([years[x.history(user)].mean() for user in range(x.n_users)])
    assert correlation(means, planted.favourite_years) > 0.8


def test_favourite_people_are_watched_more(films: Dataset, planted: PlantedTastes) -> None:
    x, seen, expected = films.interactions, 0.0, 0.0
    people = [set(film["directors"]) | set(film["actors"]) for film in records()]
    share = x.item_counts() / len(x)
    for user in range(0, x.n_users, 10):
        liked = np.array([bool(people[row] & set(planted.favourite_people[user])) for row in range(x.n_items)])
        seen += liked[x.history(user)].mean()
        expected += float(share @ liked)
    assert seen > 2.5 * expected


def test_tastes_drift_from_the_first_type_to_the_second(films: Dataset, planted: PlantedTastes) -> None:
    genre = membership("genres", planted.genres)
    users = np.flatnonzero(films.interactions.lengths() >= 20)
    change = []
    for user in users:
        history = films.interactions.history(int(user))
        third = len(history) // 3
        change.append(genre[history[-third:]].mean(axis=0) - genre[history[:third]].mean(axis=0))
    assert correlation(np.array(change), (planted.genre_tastes[1] - planted.genre_tastes[0])[users]) > 0.45


def test_next_part_of_a_series_follows_far_more_often_than_in_shuffled_histories(films: Dataset) -> None:
    following = next_parts()

    def rate(first: int, second: int) -> float:
        return float(following.get(first) == second)

    real, shuffled = adjacent(films, rate)
    assert real > 8 * shuffled


def test_adjacent_films_share_makers_and_themes(films: Dataset) -> None:
    def director(first: int, second: int) -> float:
        return float(bool(set(records()[first]["directors"]) & set(records()[second]["directors"])))

    def keywords(first: int, second: int) -> float:
        return float(len(set(records()[first]["keywords"]) & set(records()[second]["keywords"])))

    real, shuffled = adjacent(films, director)
    assert real > 3 * shuffled
    real, shuffled = adjacent(films, keywords)
    assert real > 1.3 * shuffled


def test_ratings_follow_taste(films: Dataset, planted: PlantedTastes) -> None:
    x = films.interactions
    found = [
        correlation(planted.taste_scores(user)[x.history(user)], ratings)
        for user in np.flatnonzero(x.lengths() >= 20)[:300].tolist()
        if (ratings := x.ratings(user)) is not None and ratings.std() > 0
    ]
    assert np.mean(found) > 0.4


def test_ages_watch_different_decades_but_weakly(films: Dataset) -> None:
    x, years = films.interactions, np.array([film["year"] for film in records()])
    centre = {group.name: group.favourite_year for group in AGE_GROUPS}
    means = np.array([years[x.history(user)].mean() for user in range(x.n_users)])
    ages = np.array([centre[x.user_attributes(user)["age_group"]] for user in range(x.n_users)])
    assert 0.2 < correlation(means, ages) < 0.7


def test_floors_popularity_below_knn_below_oracle(films: Dataset, planted: PlantedTastes) -> None:
    """NDCG@10, leave-one-out, full catalogue, history excluded: what docs/films.md states."""
    split = leave_one_out(films.interactions)
    users = split.users.tolist()
    histories = [split.history(user, "test") for user in users]
    knn = ItemKnnRecommender()
    knn.fit(films, split)
    popularity = np.tile(split.train.item_counts().astype(np.float64), (len(users), 1))
    neighbours = np.array(asyncio.run(knn.score(histories)))
    oracle = np.array([planted.oracle_scores(user) for user in users], dtype=np.float64)
    assert all(np.isneginf(oracle[i, history]).all() for i, history in enumerate(histories))
    assert 0.02 < ndcg_at_10(popularity, histories, split.test) < 0.04
    assert 0.08 < ndcg_at_10(neighbours, histories, split.test) < 0.16
    assert 0.20 < ndcg_at_10(oracle, histories, split.test) < 0.30


# --- helpers ----------------------------------------------------------------------------------------------------------


def correlation(first: Array, second: Array) -> float:
    return float(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1])


def excess(films: Dataset, features: Array) -> Array:
    """Share of each feature in each user's history above its share in the catalogue."""
    x = films.interactions
    shares: Array = np.stack([features[x.history(user)].mean(axis=0) for user in range(x.n_users)])
    return np.asarray(shares - features.mean(axis=0))


def next_parts() -> dict[int, int]:
    """Row of the next part among our films, by row."""
    series: dict[str, list[tuple[int, int]]] = {}
    for row, film in enumerate(records()):
        if film["series"]:
            series.setdefault(film["series"], []).append((film["series_order"], row))
    rows = [[row for _, row in sorted(parts)] for parts in series.values()]
    return {first: second for parts in rows for first, second in pairwise(parts)}


def adjacent(films: Dataset, measure: Callable[[int, int], float]) -> tuple[float, float]:
    """Mean of a measure over adjacent films of 400 users, in real order and in a random order of the same histories."""
    generator, x = rng(0, "shuffle"), films.interactions
    real, shuffled = [], []
    for user in range(400):
        history = x.history(user).tolist()
        mixed = generator.permutation(history).tolist()
        real += [measure(a, b) for a, b in pairwise(history)]
        shuffled += [measure(a, b) for a, b in pairwise(mixed)]
    return float(np.mean(real)), float(np.mean(shuffled))


def ndcg_at_10(scores: Array, histories: Sequence[Array], targets: Array) -> float:
    """Mean of 1 / log2(rank + 2) for targets on the first ten ranks, 0-based."""
    masked = scores.copy()
    for row, history in enumerate(histories):
        masked[row, history] = -np.inf
    own = masked[np.arange(len(targets)), targets]
    ranks = (masked > own[:, None]).sum(axis=1)
    return float(np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0).mean())
