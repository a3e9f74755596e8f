"""Distillation: the published weights, the right negative term, which positions are taught, and what teaching does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split, leave_one_out
from llmrec.errors import CacheError, ConfigError, DataError
from llmrec.metrics.ranking import ndcg_at, target_ranks
from llmrec.ranking.distil import (
    DistilConfig,
    RankingDistillation,
    draw_others,
    importance_weights,
    ranking_distillation_loss,
    teacher_item_vectors,
)
from llmrec.ranking.fit import FitConfig
from llmrec.ranking.sasrec import SasrecConfig, SasrecRecommender
from llmrec.ranking.sequences import pack_for_training
from llmrec.ranking.teacher import TeacherConfig, TeacherLists, build_teacher_lists
from llmrec.retrieval.base import FloatArray, IntArray
from llmrec.retrieval.popularity import RandomRecommender
from tests.ranking.synthetic import dataset_of

N_ITEMS = 50


def lists_of(rows: Sequence[tuple[int, int, int, Sequence[int]]]) -> TeacherLists:
    """Rows of user, item read, item to predict, teacher's items."""
    users, inputs, targets = (np.array([row[place] for row in rows], dtype=np.int64) for place in range(3))
    items = np.array([row[3] for row in rows], dtype=np.int64)
    distances = np.tile(np.linspace(0, 1, items.shape[1]), (len(rows), 1))
    return TeacherLists(users, inputs, targets, items, distances)


def test_golden_weights() -> None:
    """Places .6652, .2447, .0900; confidences softmax(-.1, -.2, -.4); consistent (1, 0, 1), not normalised."""
    weights = importance_weights(
        torch.tensor([[0.1, 0.2, 0.4]]),
        torch.tensor([[True, False, True]]),
        torch.tensor([[True, True, True]]),
        position=0.3,
        confidence=0.5,
        consistency=0.1,
    )
    np.testing.assert_allclose(weights.numpy(), [[0.4886, 0.2444, 0.2670]], atol=5e-5)


def test_short_lists_have_the_weights_of_their_own_length() -> None:
    shares = {"position": 0.3, "confidence": 0.5, "consistency": 0.1}
    distances, agreed = torch.tensor([[0.0, 0.3, 9.0, 9.0]]), torch.tensor([[True, False, True, True]])
    padded = importance_weights(distances, agreed, torch.tensor([[True, True, False, False]]), **shares)
    short = importance_weights(distances[:, :2], agreed[:, :2], torch.ones(1, 2, dtype=torch.bool), **shares)
    np.testing.assert_allclose(padded.numpy(), np.pad(short.numpy(), ((0, 0), (0, 2))), atol=1e-6)


def test_golden_negative_term() -> None:
    """-log(1 - sigmoid(2)) = log(1 + e^2) = 2.1269; the shifted form -log(sigmoid(1 - 2)) would be 1.3133."""
    far = torch.tensor([[60.0]])  # its own term is 0
    loss = ranking_distillation_loss(far, torch.tensor([[2.0]]), torch.ones(1, 1))
    assert float(loss) == pytest.approx(2.1269, abs=5e-5)
    both = ranking_distillation_loss(
        torch.tensor([[2.0, 0.0]]), torch.tensor([[-60.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    )
    assert float(both) == pytest.approx(0.5 * 0.12693 + 0.5 * 2 * 0.69315, abs=1e-4)


def test_drawn_items_are_all_others_evenly() -> None:
    items = torch.tensor([[3, 0, 7], [5, -1, -1], [2, 4, 9]])
    targets = torch.tensor([7, 1, 0])  # the first is listed too
    torch.manual_seed(0)
    drawn = torch.stack([draw_others(items, targets, n_items=10) for _ in range(800)], dim=1)  # (lists, draws, k)
    for row, (own, target) in enumerate(zip(items.tolist(), targets.tolist(), strict=True)):
        allowed = sorted(set(range(10)) - {*own, target})
        shares = np.bincount(drawn[row].flatten().numpy(), minlength=10) / drawn[row].numel()
        assert np.flatnonzero(shares).tolist() == allowed
        np.testing.assert_allclose(shares[allowed], 1 / len(allowed), atol=0.03)


def test_only_positions_with_a_list_are_taught() -> None:
    """User 4 has the list for the step from 2 to 3; it is found in a window, not for others, reversed, or masked."""
    lists = lists_of([(4, 2, 3, [8, 9]), (5, 1, 2, [7, -1]), (6, 1, 2, [-1, -1])])
    distillation = RankingDistillation(lists, n_items=20)
    sequences = [np.array(rows) for rows in ([1, 2, 3, 4], [1, 2, 3], [3, 2, 1], [2, 3])]
    users = [4, 5, 4, 6]
    batch = pack_for_training(sequences, np.array(users), n_items=20, item_mask=0.0, rng=np.random.default_rng(0))
    places, rows = distillation._find(batch)
    assert batch.targets is not None
    found = [(int(batch.items[p]), int(batch.targets[p])) for p in places]
    assert sorted(found) == [(1, 2), (2, 3)]
    assert sorted(distillation._items[rows].tolist()) == [[7, -1], [8, 9]]
    states, vectors = torch.randn(len(batch.items), 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    loss = distillation(states, vectors, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert states.grad is not None
    assert np.flatnonzero(states.grad.abs().sum(dim=1).numpy()).tolist() == places.tolist()
    assert distillation.matched == 2
    masked = pack_for_training(sequences, np.array(users), n_items=20, item_mask=0.999, rng=np.random.default_rng(0))
    assert float(distillation(states.detach(), vectors, masked)) == 0.0


def test_golden_loss_of_a_position() -> None:
    """One list of one item: strength times (log(1 + e^-s) + log(1 + e^-d)) with the only item left to draw."""
    distillation = RankingDistillation(lists_of([(0, 0, 1, [2])]), n_items=4, config=DistilConfig(strength=0.5))
    batch = pack_for_training([np.array([0, 1])], np.array([0]), n_items=4, item_mask=0.0, rng=np.random.default_rng(0))
    vectors = torch.tensor([[1.5], [0.0], [2.0], [1.5]])  # 0 and 3 may be drawn and score alike
    loss = distillation(torch.tensor([[1.0]]), vectors, batch)
    assert float(loss) == pytest.approx(0.5 * (0.126928 + 1.701413), abs=1e-5)


@pytest.mark.parametrize(
    ("lists", "n_items", "error", "match"),
    [
        (lists_of([(0, 0, 1, [-1, -1])]), 9, DataError, "no list"),
        (lists_of([(0, 0, 1, [9, 2])]), 9, DataError, "item 9 of a catalogue of 9"),
        (lists_of([(0, 0, 1, [0, 1])]), 3, ConfigError, "none of 3"),
        (lists_of([(1 << 40, 0, 1, [0, 1])]), 100_000, ConfigError, "too many"),
    ],
)
def test_lists_that_do_not_fit(lists: TeacherLists, n_items: int, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        RankingDistillation(lists, n_items=n_items)


def test_weights_must_have_a_part() -> None:
    with pytest.raises(ValueError, match="position or confidence"):
        DistilConfig(position=0, confidence=0)


# ---- lists of a teacher


class Chain:
    """A teacher that knows which items follow which."""

    name = "chain"

    def __init__(self, follow: FloatArray) -> None:
        self.follow = follow
        self.asked: list[list[int]] = []

    def fit(self, dataset: Dataset, split: Split) -> None:
        """It knows already."""

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        self.asked += [history.tolist() for history in histories]
        return self.follow[[int(history[-1]) for history in histories]]


async def test_golden_lists(tmp_path: Path) -> None:
    """Users with 3, 1 and 2 training events: two prefixes, none, one; distances fall from the best to the last."""
    train = dataset_of([[0, 1, 2], [3], [1, 0]], 5).interactions
    follow = np.full((5, 5), -np.inf)
    follow[0], follow[1] = [9, 4, 8, 6, 5], [9, 8, 1, np.nan, -np.inf]
    teacher = Chain(follow)
    lists = await build_teacher_lists(teacher, train, config=TeacherConfig(k=3, prefixes_per_user=2, batch_size=2))
    assert teacher.asked == [[0, 1], [0], [1]]
    assert lists.users.tolist() == [0, 0, 2]
    assert lists.inputs.tolist() == [1, 0, 1]
    assert lists.targets.tolist() == [2, 1, 0]
    assert lists.items.tolist() == [[2, -1, -1], [2, 3, 4], [0, 2, -1]]
    assert lists.distances == pytest.approx(np.array([[0, 0, 0], [0, 2 / 3, 1], [0, 1, 0]]))
    warm = await build_teacher_lists(teacher, train, config=TeacherConfig(k=3, temperature=2.0))
    assert warm.distances.tolist() == [[0, 0, 0], [0, 4, 0]]
    lists.save(tmp_path / "teacher" / "lists.npz")
    again = TeacherLists.load(tmp_path / "teacher" / "lists.npz", train)
    assert np.array_equal(again.items, lists.items)
    assert np.array_equal(again.distances, lists.distances)
    with pytest.raises(CacheError, match="other training events"):
        TeacherLists.load(tmp_path / "teacher" / "lists.npz", dataset_of([[0, 1, 3], [3], [1, 0]], 5).interactions)
    (tmp_path / "broken.npz").write_bytes((tmp_path / "teacher" / "lists.npz").read_bytes()[:200])
    for name in ("broken.npz", "absent.npz"):
        with pytest.raises(CacheError, match="build them again"):
            TeacherLists.load(tmp_path / name, train)


async def test_lists_that_cannot_be_built() -> None:
    train = dataset_of([[0, 1, 2], [3]], 5).interactions
    with pytest.raises(DataError, match="two training events"):
        await build_teacher_lists(Chain(np.eye(5)), dataset_of([[0], [3]], 5).interactions)
    silent = await build_teacher_lists(Chain(np.full((5, 5), np.nan)), train)
    assert silent.n_empty == len(silent) == 1


async def test_a_killed_collection_goes_on_behind_its_last_batch(tmp_path: Path) -> None:
    """Answers of another teacher of the same name, or to other questions, are never taken."""
    train = dataset_of([[0, 1, 2], [3, 4], [1, 0]], 5).interactions
    config = TeacherConfig(k=2, batch_size=1)

    class Killed(Chain):
        async def score(
            self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
        ) -> FloatArray:
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return await super().score(histories, users=users, seed=seed)

    killed, second, other = Killed(np.eye(5)), Chain(np.eye(5)), Chain(1 - np.eye(5))
    with pytest.raises(KeyboardInterrupt):
        await build_teacher_lists(killed, train, config=config, kept=tmp_path)
    told: list[int] = []
    lists = await build_teacher_lists(second, train, config=config, kept=tmp_path, report=told.append)
    assert (killed.asked, second.asked) == ([[0, 1], [3]], [[1]])
    assert told == [1, 1, 1]
    whole = await build_teacher_lists(Chain(np.eye(5)), train, config=config)
    assert np.array_equal(lists.items, whole.items)
    assert np.array_equal(lists.distances, whole.distances)
    await build_teacher_lists(other, train, config=config, kept=tmp_path, identity="other weights")
    assert len(other.asked) == 3
    await build_teacher_lists(second, train, config=TeacherConfig(k=3), kept=tmp_path)
    assert len(second.asked) == 4


# ---- a student with a teacher


@pytest.fixture(scope="module")
def follow() -> FloatArray:
    """Ten groups of five items, scattered; an item is followed by any of the next group."""
    groups = groups_of_items()
    return np.where(groups[None, :] == (groups[:, None] + 1) % 10, 0.2, 0.0)


def groups_of_items() -> IntArray:
    return np.random.default_rng(5).permutation(N_ITEMS) % 10


def walks(follow: FloatArray, n: int, seed: int) -> list[list[int]]:
    """Walks of five items along the chain, no item twice."""
    draw = np.random.default_rng(seed)
    histories = []
    for _ in range(n):
        history = [int(draw.integers(N_ITEMS))]
        for _ in range(4):
            left = follow[history[-1]] + 1e-9
            left[history] = 0
            history.append(int(draw.choice(N_ITEMS, p=left / left.sum())))
        histories.append(history)
    return histories


@pytest.fixture(scope="module")
def data(follow: FloatArray) -> Dataset:
    """80 training steps over 250 arcs of the chain: alone, the student can know few of them."""
    return dataset_of(walks(follow, 40, seed=6), N_ITEMS)


@pytest.fixture(scope="module")
def split(data: Dataset) -> Split:
    return leave_one_out(data.interactions)


def train(data: Dataset, split: Split, *, epochs: int = 40, **options: Any) -> SasrecRecommender:
    fit = FitConfig(epochs=epochs, sequences_per_batch=20, warmup_steps=4, learning_rate=5e-3, validate_every=10)
    config = SasrecConfig(width=16, layers=1, max_length=5, dropout=0.1, device="cpu", dtype="float32", fit=fit)
    student = SasrecRecommender(config=config, **options)
    student.fit(data, split)
    return student


async def quality(student: SasrecRecommender, follow: FloatArray) -> float:
    """NDCG@10 of what comes next in walks that nobody was trained on."""
    fresh = np.array(walks(follow, 500, seed=7))
    histories, targets = list(fresh[:, :-1]), fresh[:, -1]
    return float(ndcg_at(target_ranks(await student.score(histories), targets, histories), 10).mean())


def test_strength_zero_is_the_student(data: Dataset, split: Split, follow: FloatArray) -> None:
    lists = asyncio.run(build_teacher_lists(Chain(follow), split.train, config=TeacherConfig(k=5)))
    off = RankingDistillation(lists, n_items=N_ITEMS, config=DistilConfig(strength=0))
    plain = train(data, split, epochs=2)
    same = train(data, split, epochs=2, extra_loss=off, item_vectors=teacher_item_vectors(follow, strength=0))
    assert off.matched > 0
    assert np.array_equal(plain.item_embeddings(), same.item_embeddings())
    taught, again = (
        train(data, split, epochs=2, extra_loss=RankingDistillation(lists, n_items=N_ITEMS)) for _ in range(2)
    )
    assert not np.array_equal(plain.item_embeddings(), taught.item_embeddings())
    assert np.array_equal(again.item_embeddings(), taught.item_embeddings())


def test_a_checkpoint_belongs_to_one_teacher(data: Dataset, split: Split, follow: FloatArray, tmp_path: Path) -> None:
    """A finished plain student is not taken for a taught one, nor one teacher's for another's."""
    train(data, split, epochs=1, checkpoint=tmp_path)
    lists, others = (
        asyncio.run(build_teacher_lists(Chain(follow), split.train, config=TeacherConfig(k=k))) for k in (5, 4)
    )
    with pytest.raises(CacheError, match="other data or settings"):
        train(data, split, epochs=1, checkpoint=tmp_path, extra_loss=RankingDistillation(lists, n_items=N_ITEMS))
    own = tmp_path / "own"
    taught = train(data, split, epochs=1, checkpoint=own, extra_loss=RankingDistillation(lists, n_items=N_ITEMS))
    again = train(data, split, epochs=1, checkpoint=own, extra_loss=RankingDistillation(lists, n_items=N_ITEMS))
    assert np.array_equal(taught.item_embeddings(), again.item_embeddings())
    with pytest.raises(CacheError, match="other data or settings"):
        train(data, split, epochs=1, checkpoint=own, extra_loss=RankingDistillation(others, n_items=N_ITEMS))
    with pytest.raises(ConfigError, match="identity"):
        SasrecRecommender(checkpoint=own, extra_loss=lambda states, vectors, batch: states.sum())


async def test_a_teacher_that_knows_helps_and_one_that_does_not_does_not(
    data: Dataset, split: Split, follow: FloatArray
) -> None:
    """Lists at random, and vectors shuffled among the items, are the controls."""
    ignorant = RandomRecommender()
    ignorant.fit(data, split)
    vectors = np.eye(10)[groups_of_items()]
    shuffled = vectors[np.random.default_rng(0).permutation(N_ITEMS)]
    extras: dict[str, dict[str, Any]] = {"alone": {}}
    for name, teacher in (("lists", Chain(follow)), ("random lists", ignorant)):
        lists = await build_teacher_lists(teacher, split.train, config=TeacherConfig(k=5, prefixes_per_user=9))
        extras[name] = {"extra_loss": RankingDistillation(lists, n_items=N_ITEMS)}
    for name, known in (("vectors", vectors), ("shuffled vectors", shuffled)):
        extras[name] = {"item_vectors": teacher_item_vectors(known, strength=1.0)}
    found = {name: await quality(train(data, split, **options), follow) for name, options in extras.items()}
    for name, control in (("lists", "random lists"), ("vectors", "shuffled vectors")):
        assert found[name] > found["alone"] + 0.03, found
        assert found[control] < found["alone"] + 0.01, found


def test_golden_item_vectors() -> None:
    """Centred (-3, 0) and (3, 0) have length 3; strength .3 makes it .3."""
    found = teacher_item_vectors(np.array([[1.0, 4.0], [7.0, 4.0]]))
    assert found is not None
    np.testing.assert_allclose(found, [[-0.3, 0], [0.3, 0]], atol=1e-7)
    with pytest.raises(DataError, match="all alike"):
        teacher_item_vectors(np.ones((3, 2)))
    with pytest.raises(ConfigError, match="negative"):
        teacher_item_vectors(np.ones((3, 2)), strength=-1)
