"""The adapters that a small model starts from: a writer of profiles and a predictor that reads them. [D]

Both learn from users that neither exploration nor the test ever sees. The predictor meets profiles of every style, and
none, with the right label behind each; the writer learns the styles without being told which of them helps.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from llmrec.lm.adapters import stamp
from llmrec.lm.codec import TokenCodec
from llmrec.lm.pretrained import Loaded
from llmrec.seeding import rng
from llmrec.training.backbone import load_for_training
from llmrec.training.checks.suite import Checks
from llmrec.training.examples import IGNORED, Encoded, fits
from llmrec.training.folders import RECORD
from llmrec.training.lettingo.prompts import ProfilePrompts, label_texts
from llmrec.training.lettingo.styles import rule_profile
from llmrec.training.lettingo.windows import LABELS
from llmrec.training.packed_trainer import make_packed_trainer
from llmrec.training.recipe import Recipe, SftRecipe
from llmrec.training.run_folder import checkpoint_folder, last_checkpoint, save_weights, write_outcome
from llmrec.training.sft import SftData, curve, facts_of

if TYPE_CHECKING:
    import numpy as np

    from llmrec.data.dataset import Dataset
    from llmrec.lm.hardware import Hardware
    from llmrec.training.lettingo.recipe import LettingoRecipe, StartSettings
    from llmrec.training.lettingo.windows import Histories, Window

Role = Literal["writer", "predictor"]
_OWN = {"script", "role", "output", "epochs", "batch_size", "learning_rate", "push_to"}
"""What a start adapter does not take over from the recipe."""


def start_adapters(
    recipe: LettingoRecipe, dataset: Dataset, histories: Histories, users: list[int], work: Path, hardware: Hardware
) -> dict[Role, Path]:
    """Train the adapters that the recipe asks for; those of an earlier run with the same users and settings are taken.

    Args:
        recipe: start, windows, fields and LoRA count.
        dataset: its catalogue and content hash.
        histories: labelled events.
        users: they learn from these alone.
        work: folder of the adapters.
        hardware: device and number type.

    Returns:
        Adapter folder of each role that is wanted; nothing for a recipe without a start.
    """
    if recipe.start is None:
        return {}
    roles: list[Role] = []
    if any(writer.adapter == "start" for writer in recipe.writers):
        roles.append("writer")
    if recipe.predictor.adapter == "start":
        roles.append("predictor")
    return {role: _adapter(role, recipe, recipe.start, dataset, histories, users, work, hardware) for role in roles}


def _adapter(
    role: Role,
    recipe: LettingoRecipe,
    start: StartSettings,
    dataset: Dataset,
    histories: Histories,
    users: list[int],
    work: Path,
    hardware: Hardware,
) -> Path:
    base = load_for_training(recipe, hardware)
    folder = work / f"start-{role}-{_digest(role, recipe, start, users, f'{base.name} {dataset.content_hash}')}"
    if (folder / RECORD).exists():
        return folder
    began = time.monotonic()
    own = _sft_recipe(role, recipe, start, folder)
    data = start_data(role, recipe, start, dataset, histories, users, base)
    checkpoints = checkpoint_folder(own, base.name, dataset.content_hash)
    trainer = make_packed_trainer(base.model, base.tokenizer, data, own, checkpoints, hardware)
    checks = Checks()
    checks.start(trainer, packed=True)
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    checks.end(trainer, seed=own.seed)
    save_weights(trainer, folder)
    if trainer.is_world_process_zero():
        if Path(recipe.backbone).is_dir():
            stamp(folder, Path(recipe.backbone))
        rows = curve(trainer.state.log_history)
        facts: dict[str, Any] = {
            **facts_of(dataset, base, data, rows),
            "checks": checks.record,
            "seconds": time.monotonic() - began,
            "hardware": hardware.note,
        }
        write_outcome(own, facts, rows, checkpoints)
    trainer.accelerator.wait_for_everyone()
    return folder


def _digest(role: Role, recipe: LettingoRecipe, start: StartSettings, users: list[int], stands_on: str) -> str:
    """12 hex digits that stand for everything an adapter is learnt from.

    The users count one by one: where there are fewer than the recipe asks for, settings of the other groups move the
    borders, and an adapter that has seen a user of the test must not be taken.
    """
    examples = recipe.model_dump_json(include={"windows", "item_fields", "labels"}) + start.model_dump_json(
        include={"styles", "blank"}
    )
    training = _sft_recipe(role, recipe, start, Path()).model_dump_json(exclude={"output", "dataset", "backbone"})
    style = recipe.policy_style if role == "writer" else recipe.predictor.style
    return hashlib.sha256(f"{role} {style} {users} {examples} {training} {stands_on}".encode()).hexdigest()[:12]


class _StartRecipe(SftRecipe):
    """Plain fine-tuning on examples that this module makes."""

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """One for each role."""
        return tuple(f"{role} start" for role in get_args(Role))


def _sft_recipe(role: Role, recipe: LettingoRecipe, start: StartSettings, folder: Path) -> SftRecipe:
    shared = recipe.model_dump(include=set(Recipe.model_fields) - _OWN)
    examples = start.writer_examples if role == "writer" else start.predictor_examples
    return _StartRecipe.model_validate(
        {
            **shared,
            "role": role,
            "output": str(folder),
            "data": {f"{role} start": 1.0},
            "examples": examples,
            "validation_examples": start.validation_examples,
            "epochs": start.epochs,
            "batch_size": start.batch_size,
            "learning_rate": start.learning_rate,
        }
    )


def start_data(
    role: Role,
    recipe: LettingoRecipe,
    start: StartSettings,
    dataset: Dataset,
    histories: Histories,
    users: list[int],
    base: Loaded,
) -> SftData:
    """Encoded examples of one role; a tenth of the users is for validation alone."""
    n_vocabulary = int(base.model.get_output_embeddings().weight.shape[0])
    codec = TokenCodec(base.model, base.tokenizer, n_vocabulary=n_vocabulary, name=base.name)
    watched = max(1, len(users) // 10)
    wanted = start.writer_examples if role == "writer" else start.predictor_examples
    parts: list[list[Encoded]] = []
    n_longer = 0
    for own, n in ((users[watched:] or users, wanted), (users[:watched], start.validation_examples)):
        draws = rng(recipe.seed, "lettingo", "start", role, n)
        windows = histories.drawn(own, recipe.windows, draws)
        examples = _examples(role, recipe, start, dataset, windows, codec, draws)
        kept, longer = fits((next(examples) for _ in range(n)), max_tokens=recipe.max_tokens)
        parts.append(kept)
        n_longer += longer
    return SftData(parts[0], parts[1], n_longer)


def _examples(
    role: Role,
    recipe: LettingoRecipe,
    start: StartSettings,
    dataset: Dataset,
    windows: Iterator[Window],
    codec: TokenCodec,
    draws: np.random.Generator,
) -> Iterator[Encoded]:
    prompts = ProfilePrompts(dataset, recipe.item_fields)
    names = list(start.styles)
    weights = [start.styles[name] / sum(start.styles.values()) for name in names]
    end = int(codec.tokenizer.eos_token_id)
    for window in windows:
        text = rule_profile(names[int(draws.choice(len(names), p=weights))], window.older, dataset.catalogue)
        if role == "writer":
            prompt = codec.prompt(prompts.write(window.older, style=recipe.policy_style))
            before = " " if recipe.policy_style == "raw" else ""
            learnt = [*codec.encode(before + text), end]
        else:
            (target,) = window.targets
            profile = "" if draws.random() < start.blank else text
            style = recipe.predictor.style
            prompt = codec.prompt(prompts.predict(window.recent, profile, target.item, style=style))
            learnt = list(codec.encode(label_texts(style)[LABELS.index(target.label)]))
        yield Encoded([*prompt, *learnt], [IGNORED] * len(prompt) + learnt)
