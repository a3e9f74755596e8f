"""Trains nano from scratch on the dataset at hand, once.

The result is cached under a hash of data, texts, recipe, seed and number type; a killed run goes on from its last
checkpoint. The trainer is the one of transformers, over packed blocks.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from llmrec.assets import cache_dir
from llmrec.errors import CacheError, ConfigError
from llmrec.lm.nano import NanoShape, build_model, train_tokenizer
from llmrec.retrieval import calrec
from llmrec.roles import user
from llmrec.seeding import derive, rng
from llmrec.training.calrec.data import domain_shares
from llmrec.training.corpus import Material, build, stream
from llmrec.training.examples import plain_text
from llmrec.training.fingerprint import text_digest
from llmrec.training.packing import pack
from llmrec.training.quiet import quiet_libraries

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split

LABELS = (*calrec.CUES, *user.CUES, "\nShown: Title:", "Title:", ". Category:")
"""Texts that nano's tokenizer holds as one token each: they stand before or after every item."""


_LATER = ("exponent",)
"""Settings that came after models were cached: at their defaults they do not enter the key."""


DEFAULT_MIX = {
    "facts": 0.06,
    "sequences": 0.52,
    "decisions": 0.2,
    "instructions": 0.04,
    "profiles": 0.03,
    "dialogues": 0.15,
}
"""Share of tokens per kind of example."""


class NanoRecipe(BaseModel):
    """Shape, corpus and schedule of one nano. Parameters and token counts are fixed, so a seed gives one model."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    shape: NanoShape = NanoShape()
    tokens: PositiveInt = 1_800_000
    """Training tokens."""
    block: PositiveInt = 256
    """Tokens per packed block."""
    blocks_per_step: PositiveInt = 8
    """Blocks per optimiser step."""
    learning_rate: PositiveFloat = 3e-3
    """Peak of the schedule (AdamW; linear warm-up, then cosine to a tenth)."""
    history_items: PositiveInt = 15
    """Longest history in a recommendation prompt, in items."""
    mix: dict[str, float] = Field(default_factory=lambda: dict(DEFAULT_MIX))
    """Share of tokens per kind of example; kinds are `llmrec.training.corpus.BUILDERS`."""
    exponent: NonNegativeFloat = 0.3
    """Of several data sets each has tokens in proportion to its number of users ** exponent: 0 gives all the same. As
    CALRec (arXiv 2405.02429) draws its domains; taken from a summary of the paper."""

    @model_validator(mode="after")
    def _shares(self) -> NanoRecipe:
        if abs(sum(self.mix.values()) - 1) > 1e-6:
            raise ValueError(f"shares of mix must sum to 1, got {sum(self.mix.values()):.4f}")
        return self


@dataclass(frozen=True)
class Pretrained:
    """A trained nano."""

    path: Path
    """An ordinary Hugging Face folder."""
    cached: bool
    """Whether it was trained earlier."""
    report: dict[str, Any]
    """Parameters, tokens, seconds, loss curve."""


Source = tuple["Dataset", "Split"]
"""A data set and its split; only `split.train` is read."""


def train_nano(
    dataset: Dataset,
    split: Split,
    recipe: NanoRecipe,
    *,
    seed: int,
    others: Sequence[Source] = (),
    cache: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Pretrained:
    """Train nano, or find it in the cache.

    Args:
        dataset: its catalogue and name.
        split: only `split.train` is read.
        recipe: shape, corpus and schedule.
        seed: of weights, corpus and order.
        others: further data sets for one model over all of them: tokenizer and corpus are of all, and each has a share
            of the tokens in proportion to its number of users ** `recipe.exponent`.
        cache: folder of trained models; default the user's cache.
        say: receives one line for each thing that people want to know.

    Raises:
        CacheError: the cached model is damaged.
    """
    folder = (cache or cache_dir()) / "nano" / cache_key(dataset, split, recipe, seed=seed, others=others)
    if folder.exists():
        say(f"nano: trained earlier, taken from {folder}")
        return Pretrained(folder, True, read_report(folder))
    work = folder.with_name(folder.name + ".partial")
    work.mkdir(parents=True, exist_ok=True)
    with quiet_libraries():
        report = _train([(dataset, split), *others], recipe, seed=seed, work=work, say=say)
    (work / "model" / "nano.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    if (logs := work / "trainer" / "runs").exists():
        logs.rename(work / "model" / "logs")  # TensorBoard events
    (work / "model").rename(folder)
    shutil.rmtree(work, ignore_errors=True)
    return Pretrained(folder, False, report)


def cache_key(dataset: Dataset, split: Split, recipe: NanoRecipe, *, seed: int, others: Sequence[Source] = ()) -> str:
    """Hash of what the trained weights depend on: data, texts, recipe, seed, and how this machine computes."""
    from llmrec.lm.hardware import choose

    hardware = choose(purpose="training")
    parts = [
        text_digest(),
        dataset.content_hash,
        split.train.content_hash,
        recipe.model_dump_json(exclude=_at_default(recipe)),
        str(seed),
        f"{hardware.device} {hardware.dtype} {hardware.compile}",
        *(text for other, own in others for text in (other.content_hash, own.train.content_hash)),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


def _at_default(recipe: NanoRecipe) -> set[str]:
    return {name for name in _LATER if getattr(recipe, name) == NanoRecipe.model_fields[name].default}


def read_report(folder: Path) -> dict[str, Any]:
    """The report that was written when the model was trained.

    Raises:
        CacheError: it is missing or damaged.
    """
    path = folder / "nano.json"
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not (folder / "model.safetensors").stat().st_size:
            raise ValueError("model.safetensors is empty")
    except (OSError, ValueError) as error:
        raise CacheError(
            f"the cached model in {folder} is damaged ({error}); delete that folder and train again"
        ) from error
    return report


def _train(
    sources: Sequence[Source], recipe: NanoRecipe, *, seed: int, work: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    from llmrec.lm.hardware import choose
    from llmrec.training.loop import run_trainer

    started = time.monotonic()
    parts = _parts(sources, recipe)
    tokenizer = train_tokenizer(
        (
            plain_text(one)
            for part in parts
            for one in build(part.kind, part.material, rng(seed, "tokenizer", part.key))
        ),
        vocabulary_size=recipe.shape.vocabulary_size,
        phrases=LABELS,
    )
    blocks, counts = pack(
        {part.key: stream(part.kind, part.material, rng(seed, "corpus", part.key)) for part in parts},
        {part.key: part.share for part in parts},
        tokenizer,
        n_tokens=recipe.tokens,
        block=recipe.block,
        rng=rng(seed, "order"),
    )
    n_steps = len(blocks) // recipe.blocks_per_step
    if n_steps == 0:
        raise ConfigError(
            f"tokens={recipe.tokens} is less than one step of {recipe.block * recipe.blocks_per_step}; "
            "raise tokens, or lower block or blocks_per_step"
        )
    blocks = blocks[: n_steps * recipe.blocks_per_step]  # whole steps only, so that every token counted is trained on
    model = build_model(recipe.shape, tokenizer, seed=derive(seed, "weights") % 2**31)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    hardware = choose(purpose="training")
    say(f"nano: {parameters / 1e6:.2f} M parameters, {blocks.size / 1e6:.2f} M tokens; {hardware.note}")
    curve = run_trainer(
        model,
        blocks,
        folder=work / "trainer",
        hardware=hardware,
        blocks_per_step=recipe.blocks_per_step,
        learning_rate=recipe.learning_rate,
        seed=seed,
        title="nano",
    )
    seconds = time.monotonic() - started
    model.to("cpu").save_pretrained(work / "model")
    tokenizer.save_pretrained(work / "model")
    return {
        "parameters": parameters,
        "tokens": int(blocks.size),
        "tokens_per_kind": counts,
        "seconds": round(seconds, 1),
        "hardware": hardware.note,
        "seed": seed,
        "dataset": " + ".join(dataset.name for dataset, _ in sources),
        "recipe": recipe.model_dump(),
        "curve": curve,
    }


class _Part(NamedTuple):
    """One kind of example of one data set."""

    key: str
    """Names its draws; of the first data set the kind alone, so that others change nothing in what it gives."""
    kind: str
    material: Material
    share: float
    """Of all tokens."""


def _parts(sources: Sequence[Source], recipe: NanoRecipe) -> list[_Part]:
    weights = [1.0]
    if len(sources) > 1:
        weights = list(domain_shares([split.train.n_users for _, split in sources], exponent=recipe.exponent))
    return [
        _Part(kind if place == 0 else f"{kind} {place}", kind, material, share * float(weight))
        for place, (weight, material) in enumerate(
            zip(weights, (Material(*source, recipe.history_items) for source in sources), strict=True)
        )
        for kind, share in recipe.mix.items()
    ]
