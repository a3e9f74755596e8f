"""The small generator: a decoder trained from scratch that writes the semantic id of the next item.

After TIGER (Rajput et al., Recommender systems with generative retrieval, NeurIPS 2023, arXiv 2305.05065), with a
decoder alone, all positions of a history learnt in one pass, and beam search that can write no id but an item's.
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

from llmrec.data.arrow import storage_errors
from llmrec.errors import CacheError, ConfigError, ModelNotFoundError
from llmrec.lm.hardware import choose
from llmrec.lm.pretrained import load_pretrained, quiet
from llmrec.ranking.checkpoint import Checkpoint
from llmrec.ranking.fit import FitState, Report
from llmrec.ranking.generative_config import DecodeConfig, GenerativeConfig
from llmrec.ranking.generative_data import SPECIALS, CodeSequences, code_paths
from llmrec.ranking.generative_decode import Decoder
from llmrec.ranking.generative_fit import COMPILE_FROM_TOKENS, BeamValidation, train_generator
from llmrec.ranking.generative_model import CodeNetwork, build_model, build_tokenizer, n_parameters
from llmrec.ranking.saved import Origin, origin_of, read_spec, write_spec
from llmrec.ranking.tensors import read_weights, write_weights
from llmrec.retrieval.base import FloatArray, IntArray, checked_histories, popularity_backoff, require_fitted
from llmrec.retrieval.semantic import semantic_ids
from llmrec.running import run_sync
from llmrec.seeding import derive
from llmrec.semid.base import default_levels
from llmrec.semid.beam import Found
from llmrec.semid.codes import SemanticIds
from llmrec.semid.filters import ItemFilter
from llmrec.semid.quantiser import quantiser_config

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split

KIND = "generative"
MODEL_FOLDER, IDS_FOLDER = "model", "semantic_ids"
_COUNTS = "training_counts"


@dataclass(frozen=True)
class _Fitted:
    """What `score` needs."""

    model: Any
    ids: SemanticIds
    counts: IntArray
    decoder: Decoder


class GenerativeRecommender:
    """Ranks items by the probability of writing their semantic id behind those of the history.

    Items that the beams did not reach have no score (-inf). An empty history gets the popular items of the training
    data. A history may hold rows of the catalogue only.

    Args:
        config: settings.
        name: in tables.
        ids: semantic ids of the catalogue, in place of those that the settings would make.
        checkpoint: folder in which a training keeps its state, from which it goes on when it was killed.
        report: called after every training step.

    Raises:
        ConfigError: ids are given twice.
    """

    def __init__(
        self,
        *,
        config: GenerativeConfig | None = None,
        name: str = KIND,
        ids: SemanticIds | None = None,
        checkpoint: Path | str | None = None,
        report: Report | None = None,
    ) -> None:
        self.name = name
        self.config = config or GenerativeConfig()
        if ids is not None and self.config.ids is not None:
            raise ConfigError(f"semantic ids are given twice, as {ids!r} and as {self.config.ids!r}; leave one out")
        self._given = ids
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        self._report = report
        self._fitted: _Fitted | None = None
        self.origin: Origin | None = None
        """What it was fitted on."""
        self._state = FitState()
        self._note = ""

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Make the ids and train; validation targets choose when to stop, test targets are not read.

        Raises:
            ConfigError: settings that cannot work with this catalogue, or a split without validation targets.
            DataError: no user has two training events.
            ModelError: the quantiser collapsed, or the loss is not finite any more.
            CacheError: the checkpoint is damaged or of other data or settings, or the ids are of another catalogue.
        """
        config, counts = self.config, split.train.item_counts()
        ids = self.make_ids(dataset, split)
        paths = code_paths(ids)
        _check_weights(config, ids)
        sequences = CodeSequences(
            split.train,
            paths,
            max_length=config.max_length,
            sequences_per_batch=config.fit.sequences_per_batch,
            augment=config.augment,
        )
        hardware = choose(device=config.device, dtype=config.dtype, purpose="training")
        compiled = hardware.compile and sequences.n_tokens * config.fit.epochs >= COMPILE_FROM_TOKENS
        network = CodeNetwork(self._build(ids), dropout=config.dropout, compiled=compiled).to(hardware.device)
        numbers = str(hardware.dtype).removeprefix("torch.")
        self._note = f"{hardware.device}, {numbers}{', compiled' if compiled else ''}"
        self._state = train_generator(
            network,
            sequences,
            config=config.fit,
            sizes=ids.sizes,
            label_smoothing=config.label_smoothing,
            level_weights=config.level_weights,
            validate=BeamValidation(
                split,
                paths,
                max_length=config.max_length,
                beams=config.validation_beams,
                n_users=config.fit.validation_users,
                seed=config.fit.seed,
            ),
            dtype=hardware.dtype,
            report=self._report,
            checkpoint=self._resumable(dataset, split, ids),
        )
        self.origin = Origin.of(dataset, split)
        self._adopt(network.model, ids, counts)

    def make_ids(self, dataset: Dataset, split: Split) -> SemanticIds:
        """The semantic ids that `fit` trains on: given, read from a folder, or made as the settings say.

        Raises:
            ConfigError: settings that cannot work with this catalogue.
            ModelError: the quantiser collapsed.
            CacheError: the ids are damaged, or of another catalogue.
        """
        config, catalogue = self.config, dataset.catalogue
        if self._given is not None:
            self._given.check(catalogue)
            return self._given
        if config.ids is not None:
            return SemanticIds.load(Path(config.ids).expanduser(), catalogue)
        quantiser = quantiser_config(config.quantiser, levels=config.levels or default_levels(len(catalogue)))
        return run_sync(
            semantic_ids(dataset, vectors=config.vectors, config=quantiser, split=split, seed=config.fit.seed)
        )

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        """Log-probabilities, shape (batch, n_items), -inf where no beam came; popularity for an empty history.

        With a temperature or a share of cold items they are the numbers that the list is ordered by.

        Raises:
            DataError: a history holds a row that the catalogue does not have.
        """
        return self._scores(histories, None, users, seed)

    async def score_among(
        self,
        histories: Sequence[IntArray],
        *,
        allowed: Sequence[npt.NDArray[np.bool_]],
        users: Sequence[int] | None = None,
        seed: int = 0,
    ) -> FloatArray:
        """`score` among the allowed items, one boolean array of shape (n_items,) per history: no beam leaves them.

        Raises:
            DataError: a history holds a row that the catalogue does not have.
            ConfigError: a filter of other items.
        """
        scores = self._scores(histories, [ItemFilter(one) for one in allowed], users, seed)
        return np.where(np.reshape(list(allowed), scores.shape), scores, -np.inf)

    def _scores(
        self,
        histories: Sequence[IntArray],
        filters: Sequence[ItemFilter] | None,
        users: Sequence[int] | None,
        seed: int,
    ) -> FloatArray:
        fitted = require_fitted(self._fitted, self.name)
        filled = [row for row, history in enumerate(histories) if len(history)]
        asked = [histories[row] for row in filled]
        chosen = None if filters is None else [filters[row] for row in filled]
        keys = [(int(users[row]),) if users is not None else tuple(map(int, histories[row])) for row in filled]
        found = self.decode(asked, filters=chosen, seeds=[derive(seed, "decode", *key) for key in keys])
        scores = np.full((len(histories), len(fitted.ids)), -np.inf)
        scores[[row for row, history in enumerate(histories) if not len(history)]] = popularity_backoff(fitted.counts)
        for row, one in zip(filled, found, strict=True):
            scores[row, one.items] = one.scores
        return scores

    def decode(
        self,
        histories: Sequence[IntArray],
        *,
        filters: Sequence[ItemFilter] | None = None,
        seeds: Sequence[int] | None = None,
        settings: DecodeConfig | None = None,
    ) -> tuple[Found, ...]:
        """The items found for each history, best first.

        Args:
            histories: item rows, oldest first, at least one each.
            filters: what each history may get, beside what the settings exclude; None is everything.
            seeds: of each history, when items are drawn.
            settings: in place of `config.decode`.

        Raises:
            DataError: a history is empty or holds a row that the catalogue does not have.
            ConfigError: another number of filters or seeds, or a filter of other items.
        """
        fitted, how = require_fitted(self._fitted, self.name), settings or self.config.decode
        n_items = len(fitted.ids)
        rows = checked_histories(histories, n_items=n_items, max_length=self.config.max_length)
        chosen = list(filters) if filters is not None else [ItemFilter()] * len(rows)
        if len(chosen) != len(rows):
            raise ConfigError(f"{len(rows)} histories need as many filters, got {len(chosen)}")
        if how.exclude_history:
            chosen = [_without(one, history) for one, history in zip(chosen, histories, strict=True)]
        if not rows:
            return ()
        if how.cold_share is None:
            return fitted.decoder(rows, how.settings(), filters=chosen, seeds=seeds)
        share, length = how.cold_share, how.list_length
        return fitted.decoder.mixed(rows, how.settings(), share=share, list_length=length, filters=chosen, seeds=seeds)

    def extended(self, ids: SemanticIds) -> GenerativeRecommender:
        """The same model over a catalogue that has new items at its end (see `SemanticIds.extended`).

        Raises:
            CacheError: the ids of the old items are others.
        """
        fitted = require_fitted(self._fitted, self.name)
        known = len(fitted.ids)
        if ids.sizes != fitted.ids.sizes or not np.array_equal(ids.codes[:known], fitted.ids.codes):
            raise CacheError(
                f"the model was trained on the semantic ids {fitted.ids.fingerprint}, and {ids!r} do not begin with "
                "them; make them with SemanticIds.extended"
            )
        other = GenerativeRecommender(config=self.config, name=self.name)
        other._state, other._note = self._state, self._note
        other.origin = require_fitted(self.origin, self.name)._replace(catalogue=ids.catalogue_hash)
        other._adopt(fitted.model, ids, np.pad(fitted.counts, (0, len(ids) - known)))
        return other

    @property
    def ids(self) -> SemanticIds:
        """The semantic ids that the model writes."""
        return require_fitted(self._fitted, self.name).ids

    @property
    def fit_state(self) -> FitState:
        """How the training went: learning curve, time, why it ended."""
        require_fitted(self._fitted, self.name)
        return self._state

    @property
    def n_parameters(self) -> int:
        """Trained numbers."""
        return n_parameters(require_fitted(self._fitted, self.name).model)

    def describe(self) -> str:
        """Network, ids, how the training ended, and what has no score."""
        fitted, config, state = require_fitted(self._fitted, self.name), self.config, self._state
        made = fitted.ids.facts.get("vectors") or "vectors of the caller"
        return (
            f"decoder of width {config.width}, {config.layers} layers, {self.n_parameters:,} parameters, over "
            f"semantic ids of sizes {fitted.ids.sizes} from {made}; best of {state.epoch} epochs is "
            f"{state.best.epoch} with validation NDCG@10 {state.best.ndcg:.4f}, ended by {state.stopped} after "
            f"{state.minutes:.1f} min on {self._note}; at most {config.decode.beams} items get a score, an "
            "empty history gets popular items"
        )

    def save(self, folder: Path | str) -> None:
        """Write the model and its tokenizer (a Hugging Face folder), the semantic ids, and a description (JSON).

        Raises:
            StorageError: the disk is full or refuses the write.
        """
        fitted, folder = require_fitted(self._fitted, self.name), Path(folder)
        write_weights(folder, {_COUNTS: torch.from_numpy(fitted.counts)})
        with storage_errors(folder), quiet():
            fitted.model.save_pretrained(folder / MODEL_FOLDER)
            build_tokenizer(fitted.ids).save_pretrained(folder / MODEL_FOLDER)
        fitted.ids.save(folder / IDS_FOLDER)
        write_spec(
            folder,
            KIND,
            require_fitted(self.origin, self.name),
            name=self.name,
            n_items=len(fitted.ids),
            ids=fitted.ids.fingerprint,
            config=self.config.model_dump(mode="json"),
            training=self._state.to_json(),
            note=self._note,
        )

    @classmethod
    def load(cls, folder: Path | str, dataset: Dataset) -> GenerativeRecommender:
        """A fitted recommender as it was saved.

        Raises:
            CacheError: the folder is damaged, or its catalogue is not that of the dataset.
        """
        folder = Path(folder)
        spec, counts = read_spec(folder, dataset), read_weights(folder).get(_COUNTS)
        ids = SemanticIds.load(folder / IDS_FOLDER, dataset.catalogue)
        try:
            config = GenerativeConfig.model_validate(spec["config"])
            model = load_pretrained(str(folder / MODEL_FOLDER), choose(device=config.device, dtype="float32")).model
            if counts is None or len(counts) != len(ids) or spec["ids"] != ids.fingerprint:
                raise ValueError(f"its parts do not belong together, got ids {ids.fingerprint} for {spec['ids']}")
            loaded = cls(config=config, name=spec["name"])
            loaded.origin, loaded._note = origin_of(spec), spec["note"]
            loaded._state = FitState.from_json(spec["training"])
        except (KeyError, TypeError, ValueError, ModelNotFoundError) as error:
            raise CacheError(f"{folder} holds no usable {KIND} ({error}); save the recommender again") from error
        loaded._adopt(model, ids, counts.numpy())
        return loaded

    def _adopt(self, model: Any, ids: SemanticIds, counts: IntArray) -> None:
        """Take a trained model into use."""
        model = model.float().eval()  # whatever the environment asks for: bf16 has too few digits to rank by
        decoder = Decoder(model, code_paths(ids), max_length=self.config.max_length, cold=np.flatnonzero(counts == 0))
        self._fitted = _Fitted(model, ids, counts, decoder)

    def _build(self, ids: SemanticIds) -> Any:
        config = self.config
        return build_model(
            len(SPECIALS) + ids.n_tokens,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            feed_forward=round(config.expansion * config.width),
            context=(config.max_length + 1) * ids.depth,
            attention_dropout=config.attention_dropout,
            seed=config.fit.seed,
        )

    def _resumable(self, dataset: Dataset, split: Split, ids: SemanticIds) -> Checkpoint | None:
        """A checkpoint tied to everything a training depends on; limits of time and decoding are no part of that."""
        if self._checkpoint is None:
            return None
        free: Any = {"decode": True, "ids": True, "fit": {"max_minutes", "checkpoint_seconds"}}
        parts = (dataset.content_hash, split.protocol, split.train.content_hash, ids.fingerprint, self._note)
        digest = hashlib.sha256(self.config.model_dump_json(exclude=free).encode())
        for part in parts:
            digest.update(part.encode() + b"\x1f")
        return Checkpoint(self._checkpoint, digest.hexdigest()[:16])


def _check_weights(config: GenerativeConfig, ids: SemanticIds) -> None:
    if config.level_weights is not None and len(config.level_weights) != ids.depth:
        raise ConfigError(
            f"level_weights must have one weight per level of the ids, the collision level last ({ids.depth}), got "
            f"{config.level_weights!r}"
        )


def _without(one: ItemFilter, history: IntArray) -> ItemFilter:
    excluded = np.asarray(one.excluded, dtype=np.int64)
    return ItemFilter(one.allowed, np.concatenate([excluded, np.asarray(history, dtype=np.int64)]))
