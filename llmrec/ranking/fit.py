"""Trains a sequence network: full or sampled softmax at all positions, early stopping on validation NDCG@10, resume.

A run is a function of its seed: the order of an epoch is drawn from (seed, epoch), everything inside a step from (seed,
step). A killed run that goes on from its checkpoint therefore ends where it would have ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from llmrec.errors import ModelError
from llmrec.ranking.softmax import full_softmax_loss, sampled_softmax_loss
from llmrec.seeding import derive, rng

if TYPE_CHECKING:
    from llmrec.ranking.checkpoint import Checkpoint
    from llmrec.ranking.sequences import Batch, TrainingSequences
    from llmrec.ranking.transformer import SequenceNetwork
    from llmrec.retrieval.base import FloatArray, IntArray


class FitConfig(BaseModel):
    """Settings of the training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: PositiveInt = 200
    """Most passes over the training sequences."""
    sequences_per_batch: PositiveInt = 256
    learning_rate: PositiveFloat = 1e-3
    warmup_steps: NonNegativeInt = 100
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up; "cosine" falls to a tenth at the last of `epochs`, so it wants them chosen to fit."""
    weight_decay: NonNegativeFloat = 0.01
    """Of AdamW, on matrices only."""
    clip_norm: PositiveFloat = 5.0
    """Largest norm of the gradient."""
    negatives: PositiveInt | None = None
    """Items sampled per step for the softmax; None takes the whole catalogue, as does a number beyond its size."""
    negative_power: float = Field(default=0.5, ge=0, le=1)
    """Items are sampled in proportion to their training count to this power; 0 is uniform."""
    patience: PositiveInt = 10
    """Validations without a better one after which the training ends."""
    validate_every: PositiveInt = 1
    """Epochs between validations."""
    validation_users: PositiveInt = 5000
    """Users of the validation sample, drawn with the seed."""
    max_minutes: PositiveFloat | None = None
    """Time after which the training ends with the best weights so far; how far it got then depends on the machine."""
    checkpoint_seconds: NonNegativeFloat = 60.0
    """Shortest time between two checkpoints, which are written after a validation, where a folder for them is named."""
    seed: int = 0
    """Of initial weights, order, dropout, augmentation and the validation sample."""


@dataclass(frozen=True)
class CurvePoint:
    """One validation."""

    epoch: int
    step: int
    loss: float
    """Mean training loss (nats) since the validation before."""
    ndcg: float
    """Validation NDCG@10."""
    minutes: float
    """Of training and validation so far."""


@dataclass
class FitState:
    """Where a training stands; goes into checkpoints and reports."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    minutes: float = 0.0
    curve: list[CurvePoint] = field(default_factory=list)
    stopped: Literal["", "epochs", "patience", "minutes"] = ""
    """Why it ended; empty while it goes on."""

    @property
    def best(self) -> CurvePoint:
        """The first of the best validations."""
        return max(self.curve, key=lambda point: (point.ndcg, -point.step))

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FitState:
        """The inverse of `to_json`."""
        return cls(**{**data, "curve": [CurvePoint(**point) for point in data["curve"]]})


@dataclass(frozen=True)
class Progress:
    """One report of a running training."""

    epoch: int
    """Epochs done."""
    step: int
    steps_per_epoch: int
    loss: float
    """Of the last step, in nats."""
    best_ndcg: float | None
    """Best validation NDCG@10 so far; None before the first."""
    minutes: float


Report = Callable[[Progress], None]
"""Called after every step."""


class ExtraLoss(Protocol):
    """A term added to the loss, such as a distillation.

    One that a checkpoint is to go on with has an attribute `identity`, a hash of all that it depends on.
    """

    def __call__(self, states: Tensor, item_matrix: Tensor, batch: Batch) -> Tensor:
        """A scalar with a gradient.

        Args:
            states: shape (n_tokens, width), at all positions of the batch.
            item_matrix: the vectors that states are scored against, shape (n_items, width).
            batch: packed sequences with targets and users.
        """
        ...


def train(
    network: SequenceNetwork,
    sequences: TrainingSequences,
    *,
    config: FitConfig,
    counts: IntArray,
    validate: Callable[[SequenceNetwork], float],
    dtype: torch.dtype = torch.float32,
    extra_loss: ExtraLoss | None = None,
    report: Report | None = None,
    checkpoint: Checkpoint | None = None,
) -> FitState:
    """Train in place; the network ends with the weights of its best validation.

    Args:
        network: on the device to train on.
        sequences: training windows.
        config: settings.
        counts: training events per item, shape (n_items,), for the sampled softmax.
        validate: NDCG@10 of the network as it is.
        dtype: number type of matrix products; weights stay float32.
        extra_loss: added to the softmax.
        report: called after every step.
        checkpoint: where the state is kept; a state found there is continued.

    Raises:
        ModelError: the loss is not finite any more.
        CacheError: the checkpoint belongs to another training or is damaged.
    """
    run = _Run(network, sequences, config, _Sampler(counts, config), dtype, extra_loss)
    if checkpoint is not None and (found := checkpoint.load(network, run.optimiser)) is not None:
        run.state, run.best_weights = found
        if run.state.stopped == "minutes":  # this sitting may have a longer limit; if not, it ends after a step
            run.state.stopped = ""
    clock = _Clock(run.state.minutes, config.max_minutes)
    saved = time.monotonic()
    while not run.state.stopped:
        finished = run.epoch(clock, report)
        if not finished or run.state.epoch % config.validate_every == 0 or run.state.epoch >= config.epochs:
            run.validate(validate, clock)
            run.stop(finished)
            due = run.state.stopped or time.monotonic() - saved >= config.checkpoint_seconds
            if checkpoint is not None and finished and due:  # a broken epoch is begun anew when the training goes on
                checkpoint.save(network, run.optimiser, run.state, run.best_weights)
                saved = time.monotonic()
    network.load_state_dict(run.best_weights)
    network.eval()
    return run.state


@contextmanager
def seeded_torch(*keys: int | str, seed: int) -> Iterator[None]:
    """Inside, torch draws from a stream of its own for these keys; outside, its global state is as before."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive(seed, *keys))
        yield


class _Clock:
    """Minutes of all sittings of a training."""

    def __init__(self, before: float, limit: float | None) -> None:
        self._start, self._before, self._limit = time.monotonic(), before, limit

    @property
    def minutes(self) -> float:
        return self._before + (time.monotonic() - self._start) / 60

    @property
    def over(self) -> bool:
        return self._limit is not None and self.minutes >= self._limit


class _Sampler:
    """Draws the items of a sampled softmax."""

    def __init__(self, counts: IntArray, config: FitConfig) -> None:
        self.size = None if config.negatives is None or config.negatives >= len(counts) else config.negatives
        shares = (counts + 1.0) ** config.negative_power  # an item without events is a possible target of nobody
        self._cumulative: FloatArray = (shares / shares.sum()).cumsum()
        self._log_share = torch.from_numpy(shares / shares.sum()).log().float()

    def loss(self, states: Tensor, items: Tensor, targets: Tensor, dtype: torch.dtype, *, draw: Any) -> Tensor:
        if self.size is None:
            return full_softmax_loss(states, items, targets, dtype=dtype)
        rows = self._cumulative.searchsorted(draw.random(self.size) * self._cumulative[-1], side="right")
        sample = torch.from_numpy(rows)
        expected = self._log_share[sample] + math.log(self.size)
        where = states.device
        return sampled_softmax_loss(states, items, targets, sample=sample.to(where), log_expected=expected.to(where))


class _Run:
    """A training under way."""

    def __init__(
        self,
        network: SequenceNetwork,
        sequences: TrainingSequences,
        config: FitConfig,
        sampler: _Sampler,
        dtype: torch.dtype,
        extra_loss: ExtraLoss | None,
    ) -> None:
        self.network, self.sequences, self.config = network, sequences, config
        self.sampler, self.dtype, self.extra_loss = sampler, dtype, extra_loss
        self.device = next(network.parameters()).device.type
        parameters = list(network.parameters())
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
                {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            fused=True,
        )
        self.state = FitState()
        self.best_weights: dict[str, Tensor] = {}
        self._losses: list[float] = []

    def epoch(self, clock: _Clock, report: Report | None) -> bool:
        """One pass over the sequences; False when time ran out inside it."""
        config, state = self.config, self.state
        batches = self.sequences.batches(config.sequences_per_batch, rng(config.seed, "order", state.epoch))
        for chosen in batches:
            loss = self._step(chosen, last_step=config.epochs * len(batches))
            self._losses.append(loss)
            if report is not None:
                best = state.best.ndcg if state.curve else None
                report(Progress(state.epoch, state.step, len(batches), loss, best, clock.minutes))
            if clock.over:
                return False
        state.epoch += 1
        return True

    def _step(self, chosen: IntArray, *, last_step: int) -> float:
        config, step = self.config, self.state.step
        self.network.train()
        draw = rng(config.seed, "step", step)
        batch = self.sequences.batch(chosen, draw).to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * _rate(step, last_step, config)
        with seeded_torch("step", step, seed=config.seed):
            loss = self._loss(batch, draw)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self.optimiser.step()
        self.state.step += 1
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ModelError(
                f"the training loss is not finite any more, got {value!r} at step {step}; lower learning_rate "
                f"(now {config.learning_rate!r}) or set dtype to 'float32'"
            )
        return value

    def _loss(self, batch: Batch, draw: Any) -> Tensor:
        assert batch.targets is not None
        network = self.network
        with torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype != torch.float32):
            matrix = network.item_matrix()
            states = network(batch, matrix).float()
        scoring = network.scoring_matrix(matrix.float())
        loss = self.sampler.loss(states, scoring, batch.targets, self.dtype, draw=draw)
        return loss if self.extra_loss is None else loss + self.extra_loss(states, scoring, batch)

    def validate(self, validate: Callable[[SequenceNetwork], float], clock: _Clock) -> None:
        """Add a point to the curve; keep the weights when it is the best."""
        self.network.eval()
        ndcg, state = validate(self.network), self.state
        better = not state.curve or ndcg > state.best.ndcg
        loss = sum(self._losses) / len(self._losses)
        self._losses = []
        state.minutes = clock.minutes
        state.curve.append(CurvePoint(state.epoch, state.step, loss, ndcg, state.minutes))
        if better:
            self.best_weights = {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def stop(self, finished: bool) -> None:
        """Decide whether the training has ended, and say why."""
        state, config = self.state, self.config
        since_best = len(state.curve) - 1 - state.curve.index(state.best)
        if finished and state.epoch >= config.epochs:  # before the limit of time, which a resume takes away
            state.stopped = "epochs"
        elif finished and since_best >= config.patience:
            state.stopped = "patience"
        elif not finished or (config.max_minutes is not None and state.minutes >= config.max_minutes):
            state.stopped = "minutes"


def _rate(step: int, last_step: int, config: FitConfig) -> float:
    """Share of the full learning rate at a step."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(1, last_step - config.warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
