"""What the small generator says of items: legal ids alone, cold items too, the same from disk."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split, leave_one_out
from llmrec.errors import CacheError, ConfigError, DataError
from llmrec.metrics.ranking import ndcg_at, recall_at, target_ranks, top_k
from llmrec.ranking.generative import IDS_FOLDER, MODEL_FOLDER, GenerativeRecommender
from llmrec.ranking.generative_config import DecodeConfig, GenerativeConfig, GenerativeFit
from llmrec.ranking.generative_data import (
    SPECIALS,
    code_paths,
    prompts,
)
from llmrec.ranking.generative_decode import mix
from llmrec.ranking.generative_model import build_tokenizer
from llmrec.ranking.sequences import AugmentConfig
from llmrec.semid.beam import BeamSettings, Found
from llmrec.semid.codes import SemanticIds
from llmrec.semid.exact import exact_scores
from llmrec.semid.filters import ItemFilter
from llmrec.semid.prefix_table import PrefixTable
from tests.ranking.generators import FIT, N_ITEMS, SMALL, TINY, ids_of, made
from tests.ranking.synthetic import dataset_of, walks


@pytest.fixture(scope="module")
def data() -> Dataset:
    return walks(n_users=40, n_items=N_ITEMS, stray=0.2)


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> GenerativeRecommender:
    return made(data)


async def test_scores_are_the_models_log_probabilities(fitted: GenerativeRecommender) -> None:
    """Wide beams reach all items; their scores are the exact ones, history excluded."""
    history = np.array([0, 1, 4])
    wide = DecodeConfig(beams=N_ITEMS, exclude_history=False)
    (found,) = fitted.decode([history], settings=wide)
    assert fitted._fitted is not None
    paths = code_paths(fitted.ids)
    exact = exact_scores(fitted._fitted.model, prompts(paths, [history]), PrefixTable.from_paths(paths))[0]
    assert np.array_equal(found.items, np.argsort(-exact))
    assert np.allclose(found.logprobs, exact[found.items], atol=1e-5)
    scores = (await fitted.score([history]))[0]
    assert np.isneginf(scores[history]).all()
    assert np.isfinite(scores).sum() == N_ITEMS - 3


async def test_few_beams_leave_items_unscored(fitted: GenerativeRecommender) -> None:
    (found,) = fitted.decode([np.array([0, 1])], settings=DecodeConfig(beams=5))
    assert len(found.items) == 5
    assert "at most 50 items get a score" in fitted.describe()


async def test_a_batch_changes_nothing(fitted: GenerativeRecommender) -> None:
    histories = [np.array([0, 1, 4]), np.array([6]), np.array([], dtype=np.int64), np.arange(20)]
    together = await fitted.score(histories)
    alone = np.concatenate([await fitted.score([history]) for history in histories])
    assert together.shape == (4, N_ITEMS)
    assert np.array_equal(np.isneginf(together), np.isneginf(alone))
    reached = np.isfinite(alone)
    assert np.allclose(together[reached], alone[reached], atol=1e-5)
    assert (await fitted.score([])).shape == (0, N_ITEMS)


def test_every_id_is_legal_and_unconstrained_search_differs_by_the_illegal_ones_alone(
    fitted: GenerativeRecommender,
) -> None:
    """TIGER's beam search without a table: what is legal of its list is the head of ours, with the same scores."""
    assert fitted._fitted is not None
    model, paths = fitted._fitted.model, code_paths(fitted.ids)
    table = PrefixTable.from_paths(paths)
    draw = np.random.default_rng(0)
    histories = [draw.choice(N_ITEMS, size=draw.integers(1, 8), replace=False) for _ in range(200)]
    for history, found in zip(histories, fitted.decode(histories), strict=True):
        assert len(set(found.items.tolist()) | set(history.tolist())) == len(found.items) + len(history) == N_ITEMS
    (prompt,) = prompts(paths, histories[:1])
    written = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        num_beams=300,
        num_return_sequences=300,
        max_new_tokens=table.depth,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
        length_penalty=0.0,
    )
    codes = written.sequences[:, len(prompt) :].numpy()
    legal = table.walk(codes) >= 0
    assert not legal.all()  # the planted case: this model does write illegal ids when nothing keeps it from that
    items = [int(table.items_of(path)[0]) for path in codes[legal].tolist()]
    (found,) = fitted.decode(histories[:1], settings=DecodeConfig(beams=N_ITEMS, exclude_history=False))
    assert items[:10] == found.items[:10].tolist()
    assert np.allclose(written.sequences_scores[torch.from_numpy(legal)][:10], found.logprobs[:10], atol=1e-4)


async def test_empty_history_gets_the_popular_items(fitted: GenerativeRecommender, data: Dataset) -> None:
    counts = leave_one_out(data.interactions).train.item_counts()
    scores = await fitted.score([np.array([], dtype=np.int64)])
    assert np.array_equal(np.argsort(-scores[0], kind="stable"), np.argsort(-counts, kind="stable"))


async def test_bad_histories_and_filters(fitted: GenerativeRecommender) -> None:
    with pytest.raises(DataError, match="got row 40"):
        await fitted.score([np.array([3, 40])])
    with pytest.raises(DataError, match="history 1 is empty"):
        fitted.decode([np.array([1]), np.array([], dtype=np.int64)])
    with pytest.raises(ConfigError, match="not fitted"):
        await GenerativeRecommender().score([np.array([1])])
    with pytest.raises(ConfigError, match="as many filters, got 2"):
        fitted.decode([np.array([1])], filters=[ItemFilter(), ItemFilter()])
    few, none = fitted.decode(
        [np.array([1]), np.array([1])], filters=[ItemFilter(np.arange(1, 4)), ItemFilter(np.array([1]))]
    )
    assert sorted(few.items.tolist()) == [2, 3]
    assert "only 2 items are left" in few.note
    assert len(none.items) == 0
    assert none.note == "the filter leaves no item"


async def test_temperature_and_prefix_limits_reach_more_prefixes(data: Dataset) -> None:
    """Five items each for 30 users: over all of them, and within a list, more first codes than the best five have."""
    recommender = made(data, SMALL.model_copy(update={"fit": GenerativeFit(**FIT | {"epochs": 12})}))
    histories = [data.interactions.history(user)[:5] for user in range(30)]

    def first_codes(**settings: Any) -> float:
        found = recommender.decode(histories, settings=DecodeConfig(**settings), seeds=range(30))
        return float(np.mean([len(set(recommender.ids.codes[one.items[:5], 0].tolist())) for one in found]))

    best, drawn, limited = first_codes(), first_codes(temperature=2.0), first_codes(per_prefix=2)
    assert drawn > best + 0.3
    assert limited > best + 0.3
    warm = GenerativeRecommender(config=SMALL.model_copy(update={"decode": DecodeConfig(temperature=1.0)}))
    warm._fitted = recommender._fitted
    rows = [await warm.score(histories[:3], users=[0, 1, 2], seed=seed) for seed in (0, 0, 1)]
    alone = await warm.score(histories[2:3], users=[2], seed=0)
    assert np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])
    assert top_k(alone, 10).tolist() == top_k(rows[0][2:], 10).tolist()  # a draw does not depend on the batch


# ---- cold items


WORDS = ("jazz", "opera", "metal", "folk", "blues", "techno", "disco", "gospel", "polka", "samba")


def tastes() -> tuple[Dataset, Split, np.ndarray[Any, Any]]:
    """200 records of ten kinds, which their text tells; users keep to a kind; 10 items (5 %) are never trained on."""
    draw = np.random.default_rng(0)
    histories = [(20 * (user % 10) + draw.permutation(20)[:9]).tolist() for user in range(300)]
    data = dataset_of(histories, 200)
    titles = [f"{WORDS[row // 20]} record {row}" for row in range(200)]
    catalogue = Catalogue.from_columns({"item_id": [f"i{row}" for row in range(200)], "title": titles})
    data = replace(data, catalogue=catalogue)
    split = leave_one_out(data.interactions)
    cold = 20 * np.arange(10) + draw.integers(20, size=10)
    return data, replace(split, train=split.train.select(~np.isin(split.train.items, cold))), cold


async def test_cold_items_are_found_by_their_text() -> None:
    """Chance is a recall@10 of 10 / 200 = .05. One place in ten for cold items gives 1.0 here (each kind has one).

    Left alone, cold items compete by whole codes, of which the last was never seen behind the others: .29 on one
    processor, .00 on another, as the training's last digits fall.
    """
    data, split, cold = tastes()
    fit = GenerativeFit(epochs=12, sequences_per_batch=32, learning_rate=1e-2, warmup_steps=10, validate_every=12)
    config = GenerativeConfig(**TINY | {"width": 32, "dropout": 0.1}, levels=(10, 4), fit=fit)
    recommender = GenerativeRecommender(config=config)
    recommender.fit(data, split)  # inside a running event loop
    users = split.users[np.isin(split.test, cold)]
    targets = split.test[np.isin(split.test, cold)]
    histories = [split.history(int(user), "test") for user in users]
    assert len(users) > 15

    async def with_share(share: float | None) -> tuple[float, float]:
        """Recall@10 of cold targets, and the share of cold items in the lists."""
        other = GenerativeRecommender(config=config.model_copy(update={"decode": DecodeConfig(cold_share=share)}))
        other._fitted = recommender._fitted
        scores = await other.score(histories)
        listed = top_k(scores, 10, histories)
        return float(recall_at(target_ranks(scores, targets, histories), 10).mean()), float(
            np.isin(listed, cold).mean()
        )

    free, none, boosted = await with_share(None), await with_share(0.0), await with_share(0.1)
    assert none == (0.0, 0.0)
    assert boosted[1] == pytest.approx(0.1)
    assert boosted[0] > 0.8
    assert boosted[0] > free[0] + 0.3
    only_cold = recommender.decode(histories[:2], filters=[ItemFilter(cold)] * 2, settings=DecodeConfig(cold_share=1.0))
    assert all(np.isin(one.items, cold).all() and len(one.items) for one in only_cold)


async def test_ids_that_know_their_items_beat_ids_that_do_not(tmp_path: Path) -> None:
    """Ten kinds of records that vectors tell apart, equal training, two seeds of the network: clusters .18 and .26,
    hyperplanes .19 and .21, at random .01 and .02."""
    data, _, _ = tastes()
    split, draw = leave_one_out(data.interactions), np.random.default_rng(0)
    vectors = 3 * draw.normal(size=(10, 8))[np.arange(200) // 20] + draw.normal(size=(200, 8))
    np.save(tmp_path / "vectors.npy", vectors.astype(np.float32))
    fit = GenerativeFit(epochs=5, sequences_per_batch=32, learning_rate=1e-2, warmup_steps=10, validate_every=5)
    users, targets = split.users[:150], split.test[:150]
    histories = [split.history(int(user), "test") for user in users]
    found = {}
    for kind in ("random", "lsh", "kmeans"):
        changes = {"width": 32, "dropout": 0.1, "quantiser": kind, "vectors": f"file:{tmp_path / 'vectors.npy'}"}
        recommender = GenerativeRecommender(config=GenerativeConfig(**TINY | changes, levels=(16, 4), fit=fit))
        recommender.fit(data, split)
        ranks = target_ranks(await recommender.score(histories), targets, histories)
        found[kind] = float(ndcg_at(ranks, 10).mean())
    assert found["random"] < 0.06, found
    assert min(found["lsh"], found["kmeans"]) > found["random"] + 0.08, found


def found_of(items: list[int], scores: list[float]) -> Found:
    return Found(np.array(items), np.array(scores), np.array(scores))


def test_golden_share_of_cold_items() -> None:
    """Half of four places: warm 1 and 2, cold 8 and 9, by score; behind them the rest by score."""
    warm = found_of([1, 2, 3, 4], [-1.0, -2.0, -3.0, -4.0])
    cold = found_of([8, 9, 7], [-1.5, -5.0, -6.0])
    boosted = mix(warm, cold, share=0.5, list_length=4, k=6)
    assert boosted.items.tolist() == [1, 8, 2, 9, 3, 4]
    assert boosted.scores.tolist() == [-1.0, -1.5, -2.0, -3.0, -4.0, -5.0]
    assert boosted.logprobs.tolist() == [-1.0, -1.5, -2.0, -5.0, -3.0, -4.0]
    capped = mix(warm, found_of([8, 9], [-0.1, -0.2]), share=0.25, list_length=4, k=10)
    assert capped.items.tolist() == [8, 1, 2, 3, 9, 4]
    ties = mix(found_of([1, 2], [-1.0, -1.0]), found_of([8], [-1.0]), share=0.5, list_length=2, k=3)
    assert (np.diff(ties.scores) < 0).all()


# ---- on disk


async def test_saved_and_loaded_scores_are_the_same(
    fitted: GenerativeRecommender, data: Dataset, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "model")
    fitted.save(tmp_path / "model")  # over itself
    loaded = GenerativeRecommender.load(tmp_path / "model", data)
    histories = [np.array([0, 1, 2]), np.array([], dtype=np.int64)]
    assert np.array_equal(await loaded.score(histories), await fitted.score(histories))
    assert (loaded.config, loaded.describe(), loaded.fit_state) == (
        fitted.config,
        fitted.describe(),
        fitted.fit_state,
    )
    other = walks(n_items=41)
    with pytest.raises(CacheError, match="another catalogue") as error:
        GenerativeRecommender.load(tmp_path / "model", other)
    assert data.catalogue.content_hash in str(error.value)
    assert other.catalogue.content_hash in str(error.value)
    weights = tmp_path / "model" / MODEL_FOLDER / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CacheError, match="no usable generative"):
        GenerativeRecommender.load(tmp_path / "model", data)


_FRESH = """
import json, sys
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, history = sys.argv[1], json.loads(sys.argv[2])
spec = json.load(open(folder + "/semantic_ids/semantic_ids.json"))
codes = load_file(folder + "/semantic_ids/semantic_ids.safetensors")["codes"].tolist()
assert len(codes[0]) == len(spec["sizes"])
text = lambda row: "".join(f"<|{'abcdefgh'[level]}_{code}|>" for level, code in enumerate(codes[row]))
tokenizer = AutoTokenizer.from_pretrained(folder + "/model")
model = AutoModelForCausalLM.from_pretrained(folder + "/model").eval()
prompt = tokenizer("".join(text(row) for row in history))["input_ids"]
rows = [row for row in range(len(codes)) if row not in history]
ids = torch.tensor([prompt + tokenizer(text(row), add_special_tokens=False)["input_ids"] for row in rows])
with torch.inference_mode():
    logprobs = model(input_ids=ids).logits[:, len(prompt) - 1 : -1].log_softmax(-1)
scores = logprobs.gather(2, ids[:, len(prompt) :, None]).sum((1, 2))
best = scores.topk(10)
assert "llmrec" not in sys.modules
print(json.dumps([[rows[i] for i in best.indices.tolist()], best.values.tolist()]))
"""


async def test_a_fresh_process_with_transformers_alone_gives_the_same_list(
    fitted: GenerativeRecommender, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    assert {MODEL_FOLDER, IDS_FOLDER} == {"model", "semantic_ids"}
    history = [0, 39, 12, 5]
    done = subprocess.run(  # -I: no working folder, no PYTHONPATH, hence no llmrec by accident
        [sys.executable, "-I", "-W", "ignore", "-c", _FRESH, str(tmp_path), json.dumps(history)],
        capture_output=True,
        text=True,
        check=True,
    )
    items, scores = json.loads(done.stdout)
    own = (await fitted.score([np.array(history)]))[0]
    assert items == top_k(own[None], 10)[0].tolist()
    assert np.allclose(scores, own[items], atol=1e-4)


def test_the_tokenizer_knows_codes_alone(data: Dataset) -> None:
    ids = ids_of(data)
    tokenizer = build_tokenizer(ids)
    assert tokenizer(ids.text_of(0) + ids.text_of(39))["input_ids"] == prompts(code_paths(ids), [np.array([0, 39])])[0]
    assert len(tokenizer) == ids.n_tokens + len(SPECIALS)
    with pytest.raises(Exception, match="UNK"):  # the tokenizers package raises a plain Exception
        tokenizer("alien")


async def test_new_items_need_no_training(fitted: GenerativeRecommender, data: Dataset) -> None:
    """An item that is added to the catalogue is found by the model as it was; other codes are refused."""
    more = walks(n_items=41).catalogue
    old = fitted.ids
    codes = np.concatenate([old.codes, [[0, 0, 3]]])
    ids = SemanticIds(codes=codes, sizes=old.sizes, catalogue_hash=more.content_hash)
    wider = fitted.extended(ids)
    scores = await wider.score([np.array([1, 2])])
    assert scores.shape == (1, 41)
    assert np.isfinite(scores[0, 40])
    assert np.allclose(scores[0, 3:40], (await fitted.score([np.array([1, 2])]))[0, 3:], atol=1e-5)
    with pytest.raises(CacheError, match="do not begin with them"):
        fitted.extended(replace(ids, codes=codes[::-1]))


# ---- settings


def test_ids_come_from_a_folder_too(fitted: GenerativeRecommender, data: Dataset, tmp_path: Path) -> None:
    fitted.ids.save(tmp_path / "ids")
    config = SMALL.model_copy(update={"ids": str(tmp_path / "ids")})
    split = leave_one_out(data.interactions)
    assert GenerativeRecommender(config=config).make_ids(data, split).fingerprint == fitted.ids.fingerprint
    with pytest.raises(CacheError, match="build the ids anew"):
        GenerativeRecommender(config=config).make_ids(walks(n_items=41), split)
    with pytest.raises(ConfigError, match="given twice"):
        GenerativeRecommender(config=config, ids=fitted.ids)


def test_wrong_settings_are_errors(data: Dataset) -> None:
    with pytest.raises(ValidationError, match="twice the heads must divide width"):
        GenerativeConfig(width=36, heads=4)
    with pytest.raises(ValidationError, match="never sampled, got negatives=5"):
        GenerativeConfig(fit=GenerativeFit(negatives=5))
    with pytest.raises(ValidationError, match="use item_drop"):
        GenerativeConfig(augment=AugmentConfig(item_mask=0.1))
    with pytest.raises(ValidationError, match="extra"):
        GenerativeConfig.model_validate({"hidden": 3})
    with pytest.raises(ConfigError, match=r"one weight per level .* \(3\), got \(1.0, 2.0\)"):
        made(data, SMALL.model_copy(update={"level_weights": (1.0, 2.0)}))
    with pytest.raises(ConfigError, match="the limit is 20,000,000"):
        made(data, SMALL.model_copy(update={"width": 512, "layers": 12}))
    assert DecodeConfig(beams=7).settings() == BeamSettings(beams=7, k=7)
