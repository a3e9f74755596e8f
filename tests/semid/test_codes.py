"""The artifact of semantic ids: lookups, tokens, collisions, new items, and its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmrec.data.catalogue import Catalogue
from llmrec.errors import CacheError, ConfigError, DataError
from llmrec.seeding import rng
from llmrec.semid.base import EncoderState
from llmrec.semid.codes import SemanticIds, number_collisions
from llmrec.semid.kmeans import KmeansConfig, fit_kmeans
from llmrec.semid.storage import ARRAYS_FILE, SPEC_FILE

PREFIXES = np.array([[0, 1], [2, 0], [0, 1], [1, 1], [0, 1]])


def catalogue_of(n: int) -> Catalogue:
    return Catalogue.from_columns({"item_id": [f"i{k}" for k in range(n)], "title": [f"Title {k}" for k in range(n)]})


def small(**settings: object) -> SemanticIds:
    return SemanticIds.from_prefixes(PREFIXES, (3, 2), catalogue_hash="h", **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Forty clusters of five items, so that prefixes collide."""
    draws = rng(0, "codes-test")
    centres = draws.normal(size=(40, 8))
    return (np.repeat(centres, 5, axis=0) + 0.01 * draws.normal(size=(200, 8))).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(vectors: np.ndarray) -> SemanticIds:
    config = KmeansConfig(levels=(8, 8))
    result = fit_kmeans(vectors, config, seed=1)
    return SemanticIds.from_prefixes(
        result.codes,
        config.levels,
        catalogue_hash=catalogue_of(200).content_hash,
        collision_size=200,
        quantiser=result.quantiser,
        encoder=EncoderState("file:x.npy", {"parts": [["file", "x.npy", 1.0]]}, {"mean": np.ones(3, np.float32)}),
        facts={"seed": 1, "variance_left": [0.5, 0.2]},
    )


def test_collisions_golden_by_row_and_by_popularity() -> None:
    """Rows 0, 2 and 4 share the prefix (0, 1): by row 0, 1, 2; with counts 1, 9, 1 row 2 comes first, ties by row."""
    assert number_collisions(PREFIXES, None).tolist() == [0, 0, 1, 0, 2]
    assert number_collisions(PREFIXES, np.array([1, 5, 9, 5, 1])).tolist() == [1, 0, 0, 0, 2]


def test_popular_items_come_first_in_every_group() -> None:
    draws = rng(3)
    prefixes, counts = draws.integers(0, 4, size=(300, 2)), draws.integers(0, 50, size=300)
    numbers = number_collisions(prefixes, counts)
    for prefix in np.unique(prefixes, axis=0):
        group = np.flatnonzero((prefixes == prefix).all(axis=1))
        ordered = group[np.argsort(numbers[group])]
        assert numbers[ordered].tolist() == list(range(len(group)))
        assert (np.diff(counts[ordered]) <= 0).all()


def test_tokens_golden() -> None:
    ids = small()
    assert ids.sizes == (3, 2, 3)
    assert ids.n_tokens == 8
    assert ids.offsets.tolist() == [0, 3, 5]
    assert ids.tokens()[4].tolist() == [0, 4, 7]
    texts = ids.token_texts()
    assert texts == ["<|a_0|>", "<|a_1|>", "<|a_2|>", "<|b_0|>", "<|b_1|>", "<|c_0|>", "<|c_1|>", "<|c_2|>"]
    assert ids.text_of(4) == "<|a_0|><|b_1|><|c_2|>" == "".join(texts[token] for token in ids.tokens()[4])


def test_items_and_codes_both_ways() -> None:
    ids = small()
    assert [ids.item_of(ids.code_of(row)) for row in range(len(ids))] == list(range(5))
    assert ids.item_of((0, 1, 2)) == 4
    assert ids.item_of((2, 1, 0)) is None  # no such prefix
    assert ids.item_of((0, 1, -1)) is None
    assert ids.item_of((0, 3, 0)) is None  # would be another level's key, were it not checked
    assert ids.items_of(np.array([[1, 1, 0], [9, 9, 9], [2, 0, 0]])).tolist() == [3, -1, 1]
    assert ids.n_prefixes() == (3, 3, 5)
    with pytest.raises(DataError, match="rows 0 to 4"):
        ids.code_of(5)
    with pytest.raises(DataError, match=r"\(m, 3\)"):
        ids.items_of(np.array([[1, 1]]))


def test_lookups_agree_with_a_dictionary() -> None:
    draws = rng(5)
    prefixes = draws.integers(0, 6, size=(500, 3))
    ids = SemanticIds.from_prefixes(prefixes, (6, 6, 6), catalogue_hash="h", collision_size=50)
    table = {tuple(code): row for row, code in enumerate(ids.codes.tolist())}
    asked = draws.integers(-1, 7, size=(2000, 4))
    assert ids.items_of(asked).tolist() == [table.get(tuple(code), -1) for code in asked.tolist()]


def test_nearest_by_prefix() -> None:
    ids = small()
    assert ids.nearest_by_prefix((0, 1)) == [(0, 2), (2, 2), (4, 2)]
    assert ids.nearest_by_prefix((0, 0), n=2) == [(0, 1), (2, 1)]
    assert ids.nearest_by_prefix((0, 1, 2), n=2) == [(4, 3), (0, 2)]


def test_what_cannot_be_ids_is_refused() -> None:
    with pytest.raises(DataError, match=r"code 7 of item row 1 lies outside level 0"):
        SemanticIds(np.array([[0, 0], [7, 0]]), (3, 1), "h")
    with pytest.raises(DataError, match="rows 0 and 2 have the same code"):
        SemanticIds(np.array([[0, 0], [1, 0], [0, 0]]), (3, 1), "h")
    with pytest.raises(ConfigError, match="2 to 26 levels"):
        SemanticIds(np.array([[0], [1]]), (3,), "h")
    with pytest.raises(ConfigError, match="3 items share one code prefix, but the collision level has 2"):
        small(collision_size=2)
    with pytest.raises(DataError, match="one value per item"):
        small(counts=np.array([1, 2]))


def test_codes_cannot_be_changed() -> None:
    ids = small()
    with pytest.raises(ValueError, match="read-only"):
        ids.codes[0, 0] = 1
    assert ids.fingerprint != small(counts=np.array([1, 5, 9, 5, 1])).fingerprint


def test_new_items_get_their_prefix_and_the_next_free_number(fitted: SemanticIds, vectors: np.ndarray) -> None:
    codes = fitted.encode_new(vectors[[0, 0, 7]])
    assert codes[:, :-1].tolist() == fitted.codes[[0, 0, 7], :-1].tolist()
    group = (fitted.codes[:, :-1] == fitted.codes[0, :-1]).all(axis=1)
    assert codes[:2, -1].tolist() == [group.sum(), group.sum() + 1]
    assert (fitted.items_of(codes) == -1).all()
    with pytest.raises(DataError, match="vectors of width 8, got width 3"):
        fitted.encode_new(np.zeros((1, 3)))
    with pytest.raises(ConfigError, match="without a quantiser"):
        small().encode_new(np.zeros((1, 3)))


def test_a_full_collision_level_names_the_remedy(fitted: SemanticIds, vectors: np.ndarray) -> None:
    tight = SemanticIds.from_prefixes(
        fitted.codes[:, :-1], (8, 8), catalogue_hash="h", quantiser=fitted.quantiser,
        collision_size=int(fitted.codes[:, -1].max()) + 1,
    )  # fmt: skip
    crowded = int(np.argmax(fitted.codes[:, -1]))
    with pytest.raises(ConfigError, match="larger collision_size"):
        tight.encode_new(vectors[[crowded]])


def test_extended_keeps_old_codes(fitted: SemanticIds, vectors: np.ndarray) -> None:
    larger = catalogue_of(203)
    more = fitted.extended(larger, vectors[[0, 0, 50]])
    assert len(more) == 203
    assert (more.codes[:200] == fitted.codes).all()
    assert more.codes[200:].tolist() == fitted.encode_new(vectors[[0, 0, 50]]).tolist()
    assert (more.sizes, more.catalogue_hash) == (fitted.sizes, larger.content_hash)
    assert more.facts["extended_by"] == 3
    assert (more.items_of(more.codes) == np.arange(203)).all()
    with pytest.raises(CacheError, match="are not those of the semantic ids"):
        fitted.extended(Catalogue.from_columns({"item_id": ["x"] * 201, "title": ["y"] * 201}), vectors[:1])
    with pytest.raises(DataError, match="3 new items, got 1 vectors"):
        fitted.extended(larger, vectors[:1])


def test_reconstruction_is_near_the_vectors(fitted: SemanticIds, vectors: np.ndarray) -> None:
    rest = ((vectors - fitted.reconstruct()) ** 2).sum() / ((vectors - vectors.mean(axis=0)) ** 2).sum()
    assert rest < 0.5
    assert fitted.reconstruct(np.array([3])).tolist() == fitted.reconstruct()[3:4].tolist()


def test_files_hold_everything(fitted: SemanticIds, vectors: np.ndarray, tmp_path: Path) -> None:
    fitted.save(tmp_path / "ids")
    fitted.save(tmp_path / "ids")  # replaces
    again = SemanticIds.load(tmp_path / "ids", catalogue_of(200))
    assert (again.codes == fitted.codes).all()
    assert (again.sizes, again.fingerprint, dict(again.facts)) == (fitted.sizes, fitted.fingerprint, dict(fitted.facts))
    assert (again.encode_new(vectors[:9]) == fitted.encode_new(vectors[:9])).all()
    assert (again.reconstruct() == fitted.reconstruct()).all()
    assert again.encoder is not None
    assert again.encoder.spec == "file:x.npy"
    assert again.encoder.arrays["mean"].tolist() == [1, 1, 1]
    assert json.loads((tmp_path / "ids" / SPEC_FILE).read_text())["fingerprint"] == fitted.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["ids"]


def test_a_changed_catalogue_is_refused_with_both_hashes(fitted: SemanticIds, tmp_path: Path) -> None:
    fitted.save(tmp_path / "ids")
    other = catalogue_of(201)
    with pytest.raises(CacheError) as refusal:
        SemanticIds.load(tmp_path / "ids", other)
    assert other.content_hash in str(refusal.value)
    assert fitted.catalogue_hash in str(refusal.value)


def test_damaged_files_are_refused(fitted: SemanticIds, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="build them first"):
        SemanticIds.load(tmp_path)
    folder = tmp_path / "ids"
    fitted.save(folder)
    content = (folder / ARRAYS_FILE).read_bytes()
    (folder / ARRAYS_FILE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CacheError, match="another checksum"):
        SemanticIds.load(folder)
    (folder / ARRAYS_FILE).write_bytes(content)
    spec = (folder / SPEC_FILE).read_text()
    (folder / SPEC_FILE).write_text(spec.replace('"format": 1', '"format": 99'))
    with pytest.raises(CacheError, match="format 99"):
        SemanticIds.load(folder)
    (folder / SPEC_FILE).write_text(spec.replace('"kind": "kmeans"', '"kind": "magic"'))
    with pytest.raises(CacheError, match=r"damaged.*magic"):
        SemanticIds.load(folder)
    (folder / SPEC_FILE).write_text(spec[:100])
    with pytest.raises(CacheError, match="damaged"):
        SemanticIds.load(folder)


def test_a_folder_with_other_things_is_left_alone(fitted: SemanticIds, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(CacheError, match="holds other files"):
        fitted.save(tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "mine"
