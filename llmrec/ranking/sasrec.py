"""The trained ranker: a transformer over item sequences, with the softmax over the whole catalogue.

Sources: Kang & McAuley, Self-attentive sequential recommendation (ICDM 2018, arXiv 1808.09781), for the network;
Klenitskiy & Vasilev, Turning dross into gold loss (RecSys 2023, arXiv 2309.07602), for the loss; Zhai et al. (ICML
2024, arXiv 2402.17152) for the block "hstu" and for cosines with a temperature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from llmrec.errors import CacheError, ConfigError, DataError
from llmrec.lm.hardware import choose
from llmrec.ranking.checkpoint import Checkpoint
from llmrec.ranking.fit import ExtraLoss, FitConfig, FitState, Report, seeded_torch, train
from llmrec.ranking.saved import Origin, origin_of, read_spec, write_spec
from llmrec.ranking.sequences import AugmentConfig, TrainingSequences, pack
from llmrec.ranking.tensors import read_weights, write_weights
from llmrec.ranking.transformer import Block, SequenceNetwork
from llmrec.ranking.validation import Validation
from llmrec.retrieval.base import FloatArray, IntArray, checked_histories, popularity_backoff, require_fitted
from llmrec.retrieval.item_vectors import VECTORS_FILE

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split


KIND = "sasrec"
_COUNTS = "training_counts"


class SasrecConfig(BaseModel):
    """Settings of network, training and augmentation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    block: Block = "sasrec"
    """"sasrec": softmax attention and a feed-forward part; "hstu": gated attention without a softmax."""
    width: PositiveInt = 64
    """Of states and item vectors."""
    layers: PositiveInt = 2
    heads: PositiveInt = 2
    """Divides the width."""
    expansion: PositiveInt = 4
    """Width of the feed-forward part over `width` ("sasrec" only)."""
    max_length: PositiveInt = 50
    """Newest items of a history that are read; 200 suits long histories such as MovieLens."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """The sparser the data, the more."""
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of attention weights ("sasrec" only)."""
    temperature: PositiveFloat | None = None
    """None scores by plain products; a number (0.05 in HSTU) by cosines divided by it."""
    device: str = "auto"
    """"auto", "cpu" or "cuda"."""
    dtype: str = "auto"
    """Number type of the matrix products in training: "auto" is measured on the machine; weights are float32."""
    fit: FitConfig = FitConfig()
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="after")
    def _heads_divide_width(self) -> SasrecConfig:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} heads for width {self.width}")
        return self


class SasrecRecommender:
    """Ranks items by the product of their vectors with the state behind the last item of the history.

    An empty history gets the popular items of the training data. A history may hold rows of the catalogue only.

    Args:
        config: settings.
        name: in tables.
        item_vectors: vectors of the items (texts), shape (n_items, d): an item's vector is its own plus a learned
            projection of these.
        checkpoint: folder in which a training keeps its state, from which it goes on when it was killed.
        report: called after every training step.
        extra_loss: term added to the loss.
    """

    def __init__(
        self,
        *,
        config: SasrecConfig | None = None,
        name: str = "sasrec",
        item_vectors: npt.NDArray[Any] | None = None,
        checkpoint: Path | str | None = None,
        report: Report | None = None,
        extra_loss: ExtraLoss | None = None,
    ) -> None:
        self.name = name
        self.config = config or SasrecConfig()
        self._item_vectors = None if item_vectors is None else np.asarray(item_vectors, dtype=np.float32)
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        self._report, self._extra_loss = report, extra_loss
        if checkpoint is not None and extra_loss is not None and not hasattr(extra_loss, "identity"):
            raise ConfigError(
                "a training with a checkpoint needs an extra loss with an `identity`, a hash of what it depends on, "
                f"so that it never goes on with another loss; got {type(extra_loss).__name__}"
            )
        self._network: SequenceNetwork | None = None
        self._tables: _Tables | None = None
        self._counts: IntArray | None = None
        self.origin: Origin | None = None
        """What it was fitted on."""
        self._state = FitState()
        self._note = ""

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Train on the training events; the validation targets choose when to stop, the test targets are not read.

        Raises:
            ConfigError: item vectors of another number than items, or a split without validation targets.
            DataError: no user has two training events.
            ModelError: the loss is not finite any more.
            CacheError: the checkpoint is damaged, or belongs to other data or settings.
        """
        config, n_items = self.config, len(dataset.catalogue)
        hardware = choose(device=config.device, dtype=config.dtype, purpose="training")
        sequences = TrainingSequences(split.train, max_length=config.max_length, augment=config.augment)
        with seeded_torch("weights", seed=config.fit.seed):
            network = self._build(n_items).to(hardware.device)
        checkpoint = None
        if self._checkpoint is not None:
            checkpoint = Checkpoint(self._checkpoint, self._identity(dataset, split, str(hardware.dtype)))
        counts = split.train.item_counts()
        self._state = train(
            network,
            sequences,
            config=config.fit,
            counts=counts,
            validate=Validation(split, n_users=config.fit.validation_users, seed=config.fit.seed),
            dtype=hardware.dtype,
            extra_loss=self._extra_loss,
            report=self._report,
            checkpoint=checkpoint,
        )
        self._note = f"{hardware.device}, {str(hardware.dtype).removeprefix('torch.')}"
        if said := getattr(self._extra_loss, "note", ""):
            self._note += f"; {said}"
        self._counts, self.origin = counts, Origin.of(dataset, split)
        self._ready(network)

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Logits, shape (batch, n_items); popularity for an empty history.

        Raises:
            DataError: a history holds a row that the catalogue does not have.
        """
        tables, counts = require_fitted(self._tables, self.name), require_fitted(self._counts, self.name)
        scores: FloatArray = np.tile(popularity_backoff(counts), (len(histories), 1))
        filled = [row for row, history in enumerate(histories) if len(history)]
        if filled:
            states = torch.from_numpy(self.states([histories[row] for row in filled]))
            scores[filled] = (states.to(tables.scoring.device) @ tables.scoring.T).cpu().numpy()
        return scores

    def states(self, histories: Sequence[IntArray]) -> FloatArray:
        """State behind the last item of each non-empty history, shape (batch, width): a vector of the user.

        Raises:
            DataError: a history is empty or holds a row that the catalogue does not have.
        """
        network, tables = require_fitted(self._network, self.name), require_fitted(self._tables, self.name)
        empty = next((place for place, history in enumerate(histories) if not len(history)), None)
        if empty is not None:
            raise DataError(f"an empty history has no state, got one at place {empty}; leave it out, or use score()")
        rows = checked_histories(histories, n_items=network.n_items, max_length=network.max_length)
        with torch.inference_mode():
            batch = pack(rows).to(next(network.parameters()).device.type)
            states: FloatArray = network.last_states(batch, tables.reading).cpu().numpy()
        return states

    def item_embeddings(self) -> npt.NDArray[np.float32]:
        """The vectors that items are scored with, shape (n_items, width): collaborative vectors for semantic ids."""
        vectors: npt.NDArray[np.float32] = require_fitted(self._tables, self.name).scoring.float().cpu().numpy()
        return vectors

    @property
    def fit_state(self) -> FitState:
        """How the training went: learning curve, time, why it ended."""
        require_fitted(self._network, self.name)
        return self._state

    @property
    def n_parameters(self) -> int:
        """Trained numbers."""
        return sum(p.numel() for p in require_fitted(self._network, self.name).parameters())

    def describe(self) -> str:
        """Network, size, and how the training ended."""
        state, parameters = self._state, self.n_parameters
        best, config = state.best, self.config
        loss = "full softmax" if config.fit.negatives is None else f"softmax over {config.fit.negatives} sampled items"
        return (
            f"{config.block} block, width {config.width}, {config.layers} layers, {parameters:,} parameters, {loss}; "
            f"best of {state.epoch} epochs is {best.epoch} with validation NDCG@10 {best.ndcg:.4f}, ended by "
            f"{state.stopped} after {state.minutes:.1f} min on {self._note}"
        )

    def save(self, folder: Path | str) -> None:
        """Write weights and item vectors (safetensors) and a description (JSON).

        Raises:
            StorageError: the disk is full or refuses the write.
        """
        network, counts = require_fitted(self._network, self.name), require_fitted(self._counts, self.name)
        tensors = {name: _stored(value) for name, value in network.state_dict().items()}
        origin = require_fitted(self.origin, self.name)
        vectors = {"vectors": torch.from_numpy(self.item_embeddings())}
        write_weights(Path(folder), vectors, file=VECTORS_FILE, facts=origin._asdict())
        write_weights(Path(folder), {**tensors, _COUNTS: torch.from_numpy(counts)})
        write_spec(
            Path(folder),
            KIND,
            origin,
            name=self.name,
            n_items=network.n_items,
            config=self.config.model_dump(mode="json"),
            training=self._state.to_json(),
            note=self._note,
        )

    @classmethod
    def load(cls, folder: Path | str, dataset: Dataset) -> SasrecRecommender:
        """A fitted recommender as it was saved.

        Raises:
            CacheError: the folder is damaged, or its catalogue is not that of the dataset.
        """
        spec, tensors = read_spec(Path(folder), dataset), read_weights(Path(folder))
        vectors = tensors.get("item_vectors")
        try:
            counts = tensors.pop(_COUNTS)
            config = SasrecConfig.model_validate(spec["config"])
            loaded = cls(config=config, name=spec["name"], item_vectors=None if vectors is None else vectors.numpy())
            network = loaded._build(int(spec["n_items"]))
            network.load_state_dict(tensors)
            loaded.origin, loaded._note = origin_of(spec), spec["note"]
            loaded._state = FitState.from_json(spec["training"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CacheError(f"{folder} holds no usable {KIND} ({error}); save the recommender again") from error
        loaded._counts = counts.numpy()
        loaded._ready(network.to(choose(device=config.device, dtype="float32").device))
        return loaded

    def _ready(self, network: SequenceNetwork) -> None:
        """Keep the network for scoring, in float64: in float32 a row would depend on its batch."""
        self._network = network.double().eval()
        with torch.inference_mode():
            reading = network.item_matrix()
            # detached: without a projection or temperature these are the parameter itself
            self._tables = _Tables(reading.detach(), network.scoring_matrix(reading).detach())

    def _build(self, n_items: int) -> SequenceNetwork:
        config, vectors = self.config, self._item_vectors
        if vectors is not None and (vectors.ndim != 2 or len(vectors) != n_items):
            raise ConfigError(f"item_vectors must have one row per item ({n_items}), got shape {vectors.shape}")
        return SequenceNetwork(
            n_items=n_items,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            max_length=config.max_length,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            expansion=config.expansion,
            block=config.block,
            temperature=config.temperature,
            item_vectors=None if vectors is None else torch.from_numpy(vectors),
        )

    def _identity(self, dataset: Dataset, split: Split, dtype: str) -> str:
        """Of everything a training depends on; limits of time are no part of it."""
        free = {"fit": {"max_minutes", "checkpoint_seconds"}}
        digest = hashlib.sha256(self.config.model_dump_json(exclude=free).encode())
        for part in (dataset.content_hash, split.protocol, split.train.content_hash, dtype):
            digest.update(part.encode() + b"\x1f")
        if self._item_vectors is not None:
            digest.update(np.ascontiguousarray(self._item_vectors).data)
        if self._extra_loss is not None:
            digest.update(str(getattr(self._extra_loss, "identity", None)).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Tables:
    """Item vectors, computed once after the training, each of shape (n_items, width)."""

    reading: torch.Tensor
    scoring: torch.Tensor


def _stored(value: torch.Tensor) -> torch.Tensor:
    """As it was trained: scoring in float64 adds no information."""
    return (value.float() if value.is_floating_point() else value).cpu().contiguous()
