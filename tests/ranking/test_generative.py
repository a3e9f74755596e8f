"""The small generator: blocks equal single rows, no leak, it learns, a killed training goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmrec.benchmark.protocol import evaluate
from llmrec.data.dataset import Dataset
from llmrec.data.splits import leave_one_out
from llmrec.errors import CacheError
from llmrec.ranking.fit import Progress, Report, seeded_torch
from llmrec.ranking.generative import GenerativeRecommender
from llmrec.ranking.generative_config import GenerativeConfig, GenerativeFit
from llmrec.ranking.generative_data import (
    PAD,
    SPECIALS,
    START,
    CodeBatch,
    CodeSequences,
    best_fit,
    code_paths,
    pack_rows,
    prompts,
)
from llmrec.ranking.generative_model import CodeLoss, CodeNetwork, build_model
from llmrec.ranking.sequences import AugmentConfig
from llmrec.ranking.softmax import full_softmax_loss
from tests.ranking.generators import FIT, N_ITEMS, TINY, ids_of, made
from tests.ranking.synthetic import dataset_of, walks


@pytest.fixture(scope="module")
def data() -> Dataset:
    return walks(n_users=40, n_items=N_ITEMS, stray=0.2)


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> GenerativeRecommender:
    return made(data)


def network_of(n_tokens: int, *, context: int = 64, dropout: float = 0.0) -> CodeNetwork:
    """A network whose weights are far from small, so that a wrong mask or position is seen."""
    model = build_model(
        n_tokens, width=16, layers=2, heads=2, feed_forward=32, context=context, attention_dropout=0.0, seed=0
    )
    with seeded_torch("test", seed=0):
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return CodeNetwork(model, dropout=dropout).double().eval()


def loss_of(network: CodeNetwork, batch: CodeBatch) -> tuple[float, int]:
    matrix = network.item_matrix()
    with torch.no_grad():
        return float(full_softmax_loss(network(batch, matrix), matrix, batch.targets)), len(batch.targets)


# ---- blocks


def test_every_window_goes_into_one_block_of_a_fixed_shape(data: Dataset) -> None:
    paths = code_paths(ids_of(data))
    sequences = CodeSequences(
        data.interactions, paths, max_length=4, sequences_per_batch=20, augment=AugmentConfig(window_stride=2)
    )
    seen: list[int] = []
    for chosen in sequences.batches(20, np.random.default_rng(0)):
        batch = sequences.batch(chosen, np.random.default_rng(0))
        assert batch.ids.shape == batch.rows.shape == (sequences.n_blocks, sequences.block)
        assert torch.equal(batch.ids == PAD, batch.rows < 0)
        assert int((batch.ids == START).sum()) == len(chosen)
        seen.extend(chosen[:, 0].tolist())
    assert sorted(seen) == list(range(len(sequences)))
    assert len(sequences) > data.interactions.n_users  # long histories have several windows


def test_blocks_are_filled_and_hold_what_is_put_into_them() -> None:
    """Histories as short and uneven as in product reviews: 6 % of the places are padding at most."""
    draw = np.random.default_rng(0)
    histories = [draw.integers(40, size=3 + min(int(draw.geometric(0.2)), 17)).tolist() for _ in range(3000)]
    data = dataset_of(histories, 40)
    sequences = CodeSequences(
        data.interactions, code_paths(ids_of(data)), max_length=20, sequences_per_batch=64, augment=AugmentConfig()
    )
    steps = sequences.batches(64, draw)
    places = len(steps) * sequences.n_blocks * sequences.block
    assert sequences.n_tokens / places > 0.94
    lengths = np.array([5, 9, 4, 6, 3])
    assert best_fit(lengths, n_blocks=2, block=13).tolist() == [1, 0, 0, 1, -1]  # 9 + 4 and 6 + 5; 3 finds no room


def test_packed_loss_equals_the_loss_of_single_users(data: Dataset) -> None:
    """One pass over blocks gives each row the loss that it has alone, and what follows a row changes nothing."""
    ids = ids_of(data)
    paths, network = code_paths(ids), network_of(len(SPECIALS) + ids.n_tokens)
    sequences = [data.interactions.history(user)[:7] for user in range(12)]
    users = np.arange(12)
    packed = pack_rows(sequences, users // 4, paths, users=users, n_blocks=3, block=128)
    together, n = loss_of(network, packed)
    alone = [
        loss_of(network, pack_rows([one], np.zeros(1, np.int64), paths, users=users[:1], n_blocks=1, block=128))
        for one in sequences
    ]
    assert n == sum(part for _, part in alone) == 12 * 6 * 3  # every code of every item but the first
    assert together == pytest.approx(sum(loss * part for loss, part in alone) / n, abs=1e-12)


def test_a_row_equals_the_plain_model(data: Dataset) -> None:
    """The states behind which codes are learnt are those of the model on the row alone, without mask or positions."""
    ids = ids_of(data)
    paths, network = code_paths(ids), network_of(len(SPECIALS) + ids.n_tokens)
    items = np.array([3, 4, 5, 0])
    blocks = np.array([0, 0])
    batch = pack_rows([items[::-1].copy(), items], blocks, paths, users=blocks, n_blocks=1, block=128)
    states = network(batch, network.item_matrix())[9:]  # of the second row
    (prompt,) = prompts(paths, [items])
    with torch.inference_mode():
        logits = network.model(input_ids=torch.tensor([prompt])).logits[0, 3:-1]
    assert torch.allclose(states @ network.item_matrix().T, logits, atol=1e-12)
    assert batch.targets[9:].tolist() == prompt[4:]
    assert batch.levels[9:].tolist() == [0, 1, 2] * 3


def test_no_look_ahead(data: Dataset) -> None:
    ids = ids_of(data)
    paths, network = code_paths(ids), network_of(len(SPECIALS) + ids.n_tokens)
    states = []
    for last in (5, 9):
        items = [np.array([1, 2, 3, last]), np.array([7, 8])]
        zero = np.zeros(2, dtype=np.int64)
        batch = pack_rows(items, zero, paths, users=zero, n_blocks=1, block=128)
        states.append(network(batch, network.item_matrix()))
    before, after = states
    assert torch.equal(before[:7], after[:7])  # up to the place where the changed item's first code is written
    assert torch.equal(before[9:], after[9:])  # the other row
    assert (before[7:9] - after[7:9]).abs().max() > 1e-3


def test_dropout_works_in_training_only(data: Dataset) -> None:
    ids = ids_of(data)
    network, zero = network_of(len(SPECIALS) + ids.n_tokens, dropout=0.5), np.zeros(1, dtype=np.int64)
    batch = pack_rows([np.array([1, 2, 3])], zero, code_paths(ids), users=zero, n_blocks=1, block=128)
    matrix = network.item_matrix()
    assert torch.equal(network(batch, matrix), network(batch, matrix))
    network.train()
    assert (network(batch, matrix) - network(batch, matrix)).abs().max() > 1e-2


def test_golden_code_loss() -> None:
    """Levels of 2 and 1 codes behind 2 special tokens; logits 0, 0, 0, log 3, 0 at both places.

    Shares are 1, 1, 1, 3, 1 of 7. Level 0 is tokens 2 and 3, level 1 token 4. Targets 3 and 4: plain losses log 7/3 and
    log 7. Smoothing .2 makes the first .8 log 7/3 + .2 (log 7 + log 7/3) / 2 and leaves the second (one code alone);
    weights 3 and 1 then average them.
    """
    states = torch.tensor([[1.0], [1.0]])
    matrix = torch.tensor([[0.0], [0.0], [0.0], [np.log(3)], [0.0]], dtype=torch.float32)
    zero = torch.zeros(1, dtype=torch.int64)
    batch = CodeBatch(zero, zero, zero, zero, torch.tensor([3, 4]), torch.tensor([0, 1]), np.zeros(1, dtype=np.int64))
    first, second = np.log(7 / 3), np.log(7)
    smooth = 0.8 * first + 0.2 * (first + second) / 2
    added = CodeLoss((2, 1), smoothing=0.2, weights=(3.0, 1.0))(states, matrix, batch)
    assert float(added) == pytest.approx((3 * smooth + second) / 4 - (first + second) / 2, abs=1e-6)


# ---- training


async def test_overfits_64_users() -> None:
    """Trained on the very events that it is asked for, it ranks every user's next item first."""
    data = walks(n_users=64, length=6)
    fit = GenerativeFit(
        epochs=40, sequences_per_batch=11, learning_rate=6e-3, warmup_steps=20, validate_every=40, weight_decay=0.0
    )
    config = GenerativeConfig(**TINY | {"width": 48, "dropout": 0.0}, fit=fit)
    recommender = GenerativeRecommender(config=config, ids=ids_of(data))
    recommender.fit(data, replace(leave_one_out(data.interactions), train=data.interactions))  # with held-out events
    result = await evaluate(data, [recommender], ks=(1,), fit=False, floor="")
    assert result.models["generative"].metrics["recall@1"].value == 1.0
    assert "validation NDCG@10" in result.models["generative"].note


async def test_held_out_items_change_nothing() -> None:
    """Another test item for everybody: the same weights and scores, for the training never saw it."""
    data = walks(n_users=20)
    histories = [data.interactions.history(user).tolist() for user in range(20)]
    other = dataset_of([[*history[:-1], (history[-1] + 7) % N_ITEMS] for history in histories], N_ITEMS)
    first, second = [await made(one).score([np.array([1, 2, 3])]) for one in (data, other)]
    assert np.array_equal(first, second)


def run(
    data: Dataset, *, folder: Path | None = None, report: Report | None = None, **fit: Any
) -> GenerativeRecommender:
    augment = AugmentConfig(window_stride=4, item_drop=0.1)
    settings = GenerativeFit(**FIT | {"checkpoint_seconds": 0} | fit)
    loss = {"label_smoothing": 0.05, "level_weights": (2.0, 1.0, 0.5)}
    config = GenerativeConfig(**TINY | loss, dropout=0.1, attention_dropout=0.1, augment=augment, fit=settings)
    return made(data, config, checkpoint=folder, report=report)


def curve(recommender: GenerativeRecommender) -> list[tuple[int, int, float, float]]:
    return [(point.epoch, point.step, point.loss, point.ndcg) for point in recommender.fit_state.curve]


class Killed(Exception):
    """Stands for a kill in the middle of a step."""


async def test_a_killed_run_ends_where_it_would_have_ended(data: Dataset, tmp_path: Path) -> None:
    whole = run(data)

    def kill(progress: Progress) -> None:
        if progress.epoch == 2 and progress.step > 2 * progress.steps_per_epoch:
            raise Killed

    with pytest.raises(Killed):
        run(data, folder=tmp_path, report=kill)
    again = run(data, folder=tmp_path)
    assert curve(again) == curve(whole) != curve(run(data, seed=1))
    history = [np.array([1, 2, 3])]
    assert np.array_equal(await again.score(history), await whole.score(history))
    with pytest.raises(CacheError, match="other data or settings"):
        run(data, folder=tmp_path, learning_rate=1e-4)


# ---- decoding
