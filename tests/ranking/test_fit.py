"""The trainer: same seed, same run; a killed run ends where it would have ended; it stops when it should."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llmrec.data.dataset import Dataset
from llmrec.data.splits import leave_one_out
from llmrec.errors import CacheError, ModelError
from llmrec.ranking.fit import CurvePoint, ExtraLoss, FitConfig, FitState, Progress, Report, _Run, seeded_torch
from llmrec.ranking.sasrec import SasrecConfig, SasrecRecommender
from llmrec.ranking.sequences import AugmentConfig, Batch
from tests.ranking.synthetic import walks

VARIED = AugmentConfig(window_stride=4, item_mask=0.1, item_drop=0.1, reverse=0.1, order_jitter=2.0)
PLAIN: dict[str, Any] = {"width": 16, "max_length": 6, "dropout": 0.2, "dtype": "float32", "device": "cpu"}
FIT: dict[str, Any] = {
    "epochs": 6,
    "sequences_per_batch": 16,
    "warmup_steps": 4,
    "checkpoint_seconds": 0,
    "patience": 9,
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return walks(n_users=50, stray=0.3)


def run(data: Dataset, *, folder: Path | None = None, report: Report | None = None, **fit: Any) -> SasrecRecommender:
    config = SasrecConfig(**PLAIN, attention_dropout=0.1, augment=VARIED, fit=FitConfig(**FIT | fit))
    ranker = SasrecRecommender(config=config, checkpoint=folder, report=report)
    ranker.fit(data, leave_one_out(data.interactions))
    return ranker


def curve(ranker: SasrecRecommender) -> list[tuple[int, int, float, float]]:
    return [(point.epoch, point.step, point.loss, point.ndcg) for point in ranker.fit_state.curve]


def test_a_seed_is_a_run(data: Dataset) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = run(data)
    assert torch.equal(torch.random.get_rng_state(), state)  # torch's own stream is left alone
    torch.manual_seed(2)
    again, other = run(data), run(data, seed=1)
    assert curve(first) == curve(again) != curve(other)
    assert np.array_equal(first.item_embeddings(), again.item_embeddings())


class Killed(Exception):
    """Stands for a kill in the middle of a step."""


@pytest.mark.parametrize("settings", [{}, {"schedule": "cosine"}, {"negatives": 10, "validate_every": 2}])
def test_a_killed_run_ends_where_it_would_have_ended(data: Dataset, tmp_path: Path, settings: dict[str, Any]) -> None:
    whole = run(data, **settings)

    def kill(progress: Progress) -> None:
        if progress.epoch == 3 and progress.step % progress.steps_per_epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        run(data, folder=tmp_path, report=kill, **settings)
    steps: list[int] = []
    resumed = run(data, folder=tmp_path, report=lambda p: steps.append(p.epoch), **settings)
    assert min(steps) == (2 if "validate_every" in settings else 3)
    assert curve(resumed) == curve(whole)
    assert np.array_equal(resumed.item_embeddings(), whole.item_embeddings())
    steps.clear()
    done = run(data, folder=tmp_path, report=lambda p: steps.append(p.epoch), **settings)
    assert not steps  # a finished training is not repeated
    assert np.array_equal(done.item_embeddings(), whole.item_embeddings())


def test_a_checkpoint_of_something_else_is_refused(data: Dataset, tmp_path: Path) -> None:
    run(data, folder=tmp_path, epochs=1)
    with pytest.raises(CacheError, match="other data or settings"):
        run(data, folder=tmp_path, epochs=1, seed=5)
    with pytest.raises(CacheError, match="other data or settings"):
        run(walks(n_users=51), folder=tmp_path, epochs=1)
    file = tmp_path / "training.pt"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(CacheError, match="damaged"):
        run(data, folder=tmp_path, epochs=1)


def test_time_runs_out_inside_an_epoch_and_more_time_goes_on(data: Dataset, tmp_path: Path) -> None:
    short = run(data, folder=tmp_path, max_minutes=1e-6)
    assert short.fit_state.stopped == "minutes"
    assert curve(short)[-1][:2] == (0, 1)  # one step, then validated all the same
    assert curve(run(data, folder=tmp_path)) == curve(run(data))


def test_time_that_runs_out_with_the_last_epoch_leaves_nothing_to_go_on_with(data: Dataset) -> None:
    state = FitState(epoch=3, minutes=9.0, curve=[CurvePoint(3, 9, 1.0, 0.1, 9.0)])
    for epochs, patience, told in ((3, 5, "epochs"), (9, 0, "patience"), (9, 5, "minutes")):
        run = SimpleNamespace(state=state, config=SimpleNamespace(epochs=epochs, patience=patience, max_minutes=1.0))
        _Run.stop(run, True)  # type: ignore[arg-type]
        assert state.stopped == told
    _Run.stop(SimpleNamespace(state=state, config=SimpleNamespace(epochs=3, patience=5, max_minutes=1.0)), False)  # type: ignore[arg-type]
    assert state.stopped == "minutes"  # the last epoch itself was broken off


def test_patience_ends_it_and_the_best_weights_stay(data: Dataset) -> None:
    ranker = run(data, epochs=60, patience=2, learning_rate=0.02)
    state = ranker.fit_state
    assert state.stopped == "patience"
    assert len(state.curve) - 1 - state.curve.index(state.best) == 2
    exact = run(data, epochs=60, patience=2, learning_rate=0.02, max_minutes=60)
    assert exact.fit_state.best.ndcg == state.best.ndcg
    short = run(data, epochs=state.best.epoch, learning_rate=0.02)
    assert np.array_equal(short.item_embeddings(), ranker.item_embeddings())


def test_golden_best_is_the_first_of_equals() -> None:
    points = [CurvePoint(epoch, epoch, 1.0, ndcg, 0.1) for epoch, ndcg in enumerate([0.1, 0.3, 0.2, 0.3])]
    state = FitState(curve=points)
    assert state.best.epoch == 1
    assert FitState.from_json(state.to_json()) == state


def test_an_exploding_loss_is_an_error(data: Dataset) -> None:
    with pytest.raises(ModelError, match="lower learning_rate"):
        run(data, learning_rate=1e30, warmup_steps=0)


def test_the_extra_loss_is_added_and_sees_the_batch(data: Dataset) -> None:
    seen: list[tuple[int, ...]] = []

    def nothing(states: Tensor, item_matrix: Tensor, batch: Batch) -> Tensor:
        assert batch.targets is not None
        assert batch.users is not None
        seen.append((len(states), len(batch.targets), len(batch.users), len(batch.last), *item_matrix.shape))
        return 0.0 * states.sum()

    def pull(states: Tensor, item_matrix: Tensor, batch: Batch) -> Tensor:
        return item_matrix.square().sum()

    split = leave_one_out(data.interactions)
    found = []
    terms: tuple[ExtraLoss | None, ...] = (None, nothing, pull)
    for extra in terms:
        ranker = SasrecRecommender(config=SasrecConfig(**PLAIN, fit=FitConfig(**FIT)), extra_loss=extra)
        ranker.fit(data, split)
        found.append(ranker.item_embeddings())
    assert np.array_equal(found[0], found[1])
    assert np.abs(found[2]).sum() < 0.9 * np.abs(found[0]).sum()
    assert all(row[0] == row[1] and row[2] == row[3] and row[4:] == (40, 16) for row in seen)


def test_seeded_torch_draws_by_its_keys() -> None:
    with seeded_torch("a", 1, seed=0):
        first = torch.rand(3)
    with seeded_torch("a", 2, seed=0):
        second = torch.rand(3)
    with seeded_torch("a", 1, seed=0):
        again = torch.rand(3)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
