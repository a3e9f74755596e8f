"""The trained ranker: no look ahead, nothing depends on padding or batch, it learns, and it comes back from disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from llmrec.benchmark.protocol import evaluate
from llmrec.data.dataset import Dataset
from llmrec.data.splits import leave_one_out
from llmrec.errors import CacheError, ConfigError, DataError
from llmrec.ranking.fit import FitConfig, seeded_torch
from llmrec.ranking.hstu import HstuBlock
from llmrec.ranking.sasrec import SasrecConfig, SasrecRecommender
from llmrec.ranking.sequences import pack
from llmrec.ranking.transformer import Block, SequenceNetwork
from tests.ranking.synthetic import dataset_of, walks

BLOCKS: list[Block] = ["sasrec", "hstu"]
QUICK = FitConfig(epochs=3, sequences_per_batch=16, warmup_steps=2)
SMALL = SasrecConfig(width=16, max_length=12, dtype="float32", device="cpu", fit=QUICK)


def network_of(block: Block, **options: Any) -> SequenceNetwork:
    with seeded_torch("test", seed=0):
        shape: dict[str, Any] = {"n_items": 30, "width": 16, "layers": 2, "heads": 2, "max_length": 12, "dropout": 0.2}
        network = SequenceNetwork(block=block, **shape | options)
        for parameter in network.parameters():  # as if trained: biases and relative positions are not 0 any more
            parameter.data += 0.1 * torch.randn_like(parameter)
    return network.double().eval()


@pytest.mark.parametrize("block", BLOCKS)
def test_no_future_leak(block: Block) -> None:
    """Changing item t + 1 leaves all states up to t as they were, and changes later ones."""
    network = network_of(block)
    before, after = np.array([1, 2, 3, 4, 5, 6]), np.array([1, 2, 3, 9, 5, 6])
    matrix = network.item_matrix()
    states, changed = network(pack([before]), matrix), network(pack([after]), matrix)
    assert torch.equal(states[:3], changed[:3])
    assert (states[3:] - changed[3:]).abs().amax(dim=1).min() > 1e-3


@pytest.mark.parametrize("block", BLOCKS)
def test_padding_and_company_change_nothing(block: Block) -> None:
    network = network_of(block)
    draw = np.random.default_rng(0)
    histories = [draw.integers(30, size=n) for n in (1, 2, 3, 5, 7, 12, 12, 4)]
    matrix = network.item_matrix()
    together = network.last_states(pack(histories), matrix)
    alone = torch.cat([network.last_states(pack([history]), matrix) for history in histories])
    assert torch.allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("block", BLOCKS)
def test_order_matters(block: Block) -> None:
    network = network_of(block)
    states = network.last_states(pack([np.array([1, 2, 3]), np.array([2, 1, 3])]), network.item_matrix())
    assert (states[0] - states[1]).abs().max() > 1e-3


def test_hstu_divides_by_the_longest_length_not_by_the_present_one() -> None:
    """With twice the longest length the attended part is half as large, whatever the length at hand."""
    short, long = network_of("hstu", layers=1), network_of("hstu", layers=1, max_length=24)
    batch = pack([np.array([1, 2, 3])])
    parts = []
    for network in (short, long):
        block = network.blocks[0]
        assert isinstance(block, HstuBlock)
        block.load_state_dict(short.blocks[0].state_dict() | {"position_bias": torch.zeros(block.max_length)})
        vqk = torch.arange(3 * 48, dtype=torch.float64).reshape(3, 48) / 100
        parts.append(block._attend(vqk, batch.groups[0]))
    assert torch.allclose(parts[0], 2 * parts[1])


def test_golden_hstu_attention() -> None:
    """Width 1, one head, N = 4, v = (1, 2), q = (1, 1), k = (0, 2), bias .5 at distance 0 and -.5 at 1.

    Row 0: silu(0 + .5) / 4 * 1. Row 1: (silu(0 - .5) * 1 + silu(2 + .5) * 2) / 4.
    """
    block = HstuBlock(width=1, heads=1, max_length=4, dropout=0.0).double()
    block.position_bias.data = torch.tensor([0.5, -0.5, 0.0, 0.0], dtype=torch.float64)
    vqk = torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 2.0]], dtype=torch.float64)

    def silu(x: float) -> float:
        return float(x / (1 + np.exp(-x)))

    expected = [silu(0.5) / 4, (silu(-0.5) + 2 * silu(2.5)) / 4]
    found = block._attend(vqk, pack([np.array([0, 1])]).groups[0])
    assert found[:, 0].tolist() == pytest.approx(expected)


def test_golden_cosines_over_a_temperature() -> None:
    network = network_of("sasrec", temperature=0.05)
    matrix = network.item_matrix()
    states = network(pack([np.array([1, 2])]), matrix)
    assert torch.allclose(states.norm(dim=1), torch.full((2,), 20.0, dtype=torch.float64))
    assert torch.allclose(network.scoring_matrix(matrix).norm(dim=1), torch.ones(30, dtype=torch.float64))


@pytest.mark.parametrize("settings", [{}, {"block": "hstu"}, {"temperature": 0.1}, {"fit": {"negatives": 25}}])
async def test_overfits_64_users(settings: dict[str, Any]) -> None:
    """Trained on the very events that it is asked for, it ranks every user's next item first."""
    data = walks(n_users=64, length=8)
    fit = {"epochs": 60, "sequences_per_batch": 16, "learning_rate": 1e-2, "warmup_steps": 10, "validate_every": 60}
    plain = {"width": 32, "dropout": 0.0, "max_length": 12, "dtype": "float32", "device": "cpu"}
    config = SasrecConfig.model_validate(plain | settings | {"fit": fit | settings.get("fit", {})})
    ranker = SasrecRecommender(config=config)
    split = leave_one_out(data.interactions)
    ranker.fit(data, replace(split, train=data.interactions))  # the held-out events are trained on
    result = await evaluate(data, [ranker], ks=(1,), fit=False, floor="")
    assert result.models["sasrec"].metrics["recall@1"].value == 1.0


async def test_learns_the_rule_and_not_the_users() -> None:
    """Users go in steps of 1 or 3; held-out items follow the rule, which popularity knows nothing of."""
    data = walks(n_users=300, n_items=40, length=7, seed=1)
    fit = FitConfig(epochs=30, sequences_per_batch=32, learning_rate=1e-2, warmup_steps=10, validate_every=5)
    ranker = SasrecRecommender(config=SMALL.model_copy(update={"width": 32, "dropout": 0.1, "fit": fit}))
    result = await evaluate(data, [ranker], ks=(1, 10), floor="")
    assert result.models["sasrec"].metrics["recall@1"].value > 0.9
    assert "full softmax" in result.models["sasrec"].note
    assert "validation NDCG@10" in result.models["sasrec"].note


@pytest.fixture(scope="module")
def data() -> Dataset:
    return walks(n_users=40, stray=0.2)


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> SasrecRecommender:
    ranker = SasrecRecommender(config=SMALL)
    ranker.fit(data, leave_one_out(data.interactions))
    return ranker


async def test_scores_do_not_depend_on_the_batch(fitted: SasrecRecommender) -> None:
    histories = [np.array([0, 1, 4]), np.array([6]), np.array([], dtype=np.int64), np.arange(20)]
    together = await fitted.score(histories)
    assert together.shape == (4, 40)
    alone = np.concatenate([await fitted.score([history]) for history in histories])
    assert np.allclose(together, alone, atol=1e-12)
    assert (await fitted.score([])).shape == (0, 40)


async def test_empty_history_gets_the_popular_items(fitted: SasrecRecommender, data: Dataset) -> None:
    counts = leave_one_out(data.interactions).train.item_counts()
    scores = await fitted.score([np.array([], dtype=np.int64)])
    assert np.array_equal(np.argsort(-scores[0], kind="stable"), np.argsort(-counts, kind="stable"))


async def test_unknown_items_and_unfitted_models_are_errors(fitted: SasrecRecommender) -> None:
    with pytest.raises(DataError, match="got row 40"):
        await fitted.score([np.array([3, 40])])
    with pytest.raises(DataError, match="an empty history has no state, got one at place 1"):
        fitted.states([np.array([3]), np.array([], dtype=np.int64)])
    with pytest.raises(ConfigError, match="not fitted"):
        await SasrecRecommender().score([np.array([1])])


async def test_scores_are_products_of_states_and_item_embeddings(fitted: SasrecRecommender) -> None:
    histories = [np.array([0, 1, 2]), np.array([5])]
    product = fitted.states(histories) @ fitted.item_embeddings().T
    assert np.allclose(await fitted.score(histories), product, atol=1e-6)


async def test_test_items_change_nothing() -> None:
    """Another test item for everybody: the same weights and scores, for the training never saw it."""
    data = walks(n_users=20)
    histories = [data.interactions.history(user).tolist() for user in range(20)]
    other = dataset_of([[*history[:-1], (history[-1] + 7) % 40] for history in histories], 40)
    scores = []
    for one in (data, other):
        ranker = SasrecRecommender(config=SMALL)
        ranker.fit(one, leave_one_out(one.interactions))
        scores.append(await ranker.score([np.array([1, 2, 3])]))
    assert np.array_equal(scores[0], scores[1])


@pytest.mark.parametrize("settings", [{}, {"block": "hstu"}, {"temperature": 0.1}])
async def test_saved_and_loaded_scores_are_the_same(data: Dataset, tmp_path: Path, settings: dict[str, Any]) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 6))
    ranker = SasrecRecommender(config=SMALL.model_copy(update=settings), item_vectors=vectors, name="mine")
    ranker.fit(data, leave_one_out(data.interactions))
    ranker.save(tmp_path / "model")
    loaded = SasrecRecommender.load(tmp_path / "model", data)
    histories = [np.array([0, 1, 2]), np.array([], dtype=np.int64)]
    assert np.array_equal(await loaded.score(histories), await ranker.score(histories))
    assert (loaded.name, loaded.config, loaded.describe()) == ("mine", ranker.config, ranker.describe())
    assert loaded.fit_state == ranker.fit_state


def test_a_changed_catalogue_or_damaged_folder_is_an_error(
    fitted: SasrecRecommender, data: Dataset, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    with pytest.raises(CacheError, match="another catalogue"):
        SasrecRecommender.load(tmp_path, walks(n_items=41))
    weights = tmp_path / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(CacheError, match="cannot be read"):
        SasrecRecommender.load(tmp_path, data)
    weights.write_bytes(whole)
    spec = json.loads((tmp_path / "recommender.json").read_text())
    spec["config"]["width"] = 18
    (tmp_path / "recommender.json").write_text(json.dumps(spec))
    with pytest.raises(CacheError, match="no usable sasrec"):
        SasrecRecommender.load(tmp_path, data)
    with pytest.raises(CacheError, match="no saved recommender"):
        SasrecRecommender.load(tmp_path / "nowhere", data)


async def test_item_vectors_carry_to_items_without_events() -> None:
    """Twins share a vector; only the first of each pair is ever seen. The unseen twin of the next item ranks high."""
    data = walks(n_users=200, n_items=20, length=7)
    histories = [data.interactions.history(user).tolist() for user in range(200)]
    wide = dataset_of(histories, 40)
    vectors = np.tile(np.random.default_rng(0).normal(size=(20, 16)), (2, 1))
    fit = FitConfig(epochs=15, sequences_per_batch=32, learning_rate=5e-3, warmup_steps=10, weight_decay=0.1)
    ranker = SasrecRecommender(config=SMALL.model_copy(update={"fit": fit}), item_vectors=vectors)
    ranker.fit(wide, leave_one_out(wide.interactions))
    scores = await ranker.score([np.array([i, i + 1, i + 2]) for i in range(10)])
    unseen = scores[:, 20:]
    ranks = [(unseen[i] > unseen[i, i + 3]).sum() for i in range(10)]
    assert np.mean(ranks) < 3  # chance is 9.5


def test_wrong_settings_are_errors(data: Dataset) -> None:
    with pytest.raises(ValidationError, match="heads must divide width"):
        SasrecConfig(width=10, heads=4)
    with pytest.raises(ValidationError, match="extra"):
        SasrecConfig.model_validate({"hidden": 3})
    with pytest.raises(ConfigError, match=r"one row per item \(40\), got shape \(3, 4\)"):
        SasrecRecommender(config=SMALL, item_vectors=np.zeros((3, 4))).fit(data, leave_one_out(data.interactions))
