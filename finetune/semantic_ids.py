r"""Give a backbone tokens for semantic ids, and train their rows together with one LoRA adapter.

    llmrec finetune finetune/semantic_ids.yaml --set dataset=films --set backbone=runs/quickstart/backbone
    accelerate launch finetune/semantic_ids.py finetune/semantic_ids.yaml --set backbone=Qwen/Qwen3-0.6B \
      --set batch_size=8      # rows of all processes together, a multiple of their number

Writes `output/backbone` (the backbone with id tokens, its ids and its other adapters) and the adapter in `output`. A
killed run goes on from its last checkpoint when it is started again with the same output folder.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.data.spec import load
from llmrec.data.splits import leave_one_out
from llmrec.errors import ConfigError
from llmrec.lm.adapters import AdapterStore, content_hash
from llmrec.retrieval.semantic import semantic_ids
from llmrec.semid.base import default_levels
from llmrec.semid.codes import SemanticIds
from llmrec.semid.quantiser import quantiser_config
from llmrec.semid.tokens import IDS_FOLDER, extend_backbone, read_record, token_numbers, trainable_rows
from llmrec.training.backbone import backbone_folder, load_for_training, training_hardware
from llmrec.training.checks.suite import Checks
from llmrec.training.folders import check_folders
from llmrec.training.packed_trainer import make_packed_trainer
from llmrec.training.quiet import quiet_libraries
from llmrec.training.recipe import load_recipe_of
from llmrec.training.run_folder import (
    checkpoint_folder,
    last_checkpoint,
    run_script,
    save_weights,
    write_outcome,
)
from llmrec.training.semantic.recipe import SemanticRecipe
from llmrec.training.semantic.start_rows import start_from_texts
from llmrec.training.semantic.tasks import IdMaterial, build_data
from llmrec.training.sft import curve, facts_of

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split


def main(recipe_path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run the recipe; returns the facts that also stand in `training.json`."""
    recipe = load_recipe_of(SemanticRecipe, recipe_path, overrides)
    check_folders(recipe)
    with quiet_libraries():
        return run(recipe)


def run(recipe: SemanticRecipe) -> dict[str, Any]:
    """Ids, backbone, data, trainer, adapter, card and curve, in that order."""
    from accelerate import PartialState

    output = Path(recipe.output)
    started = time.monotonic()
    dataset = load(recipe.dataset, seed=recipe.seed)
    split = leave_one_out(dataset.interactions)
    hardware = training_hardware()
    with PartialState(cpu=hardware.device == "cpu").main_process_first():  # the others find what the first one made
        backbone = prepare_backbone(recipe, dataset, split, output / "backbone")
    ids = SemanticIds.load(backbone / IDS_FOLDER, dataset.catalogue)
    base = load_for_training(recipe.model_copy(update={"backbone": str(backbone)}), hardware)
    data = build_data(IdMaterial(dataset, split, ids, recipe.history_items), recipe, base.tokenizer)
    checkpoints = checkpoint_folder(recipe, base.name, dataset.content_hash)
    tokens = token_numbers(base.tokenizer, ids)
    new_rows = trainable_rows(base.model, tokens)
    trainer = make_packed_trainer(
        base.model, base.tokenizer, data, recipe, checkpoints, hardware, trainable_token_indices=new_rows
    )
    if recipe.start_rows == "texts":
        texts = [dataset.catalogue.document(row) for row in range(len(dataset.catalogue))]
        start_from_texts(trainer.model, base.tokenizer, ids, texts, tokens)
    checks = Checks()
    checks.start(trainer, tokens=tokens, packed=True)
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    checks.end(trainer, seed=recipe.seed)
    save_weights(trainer, output)
    rows = curve(trainer.state.log_history)
    if not trainer.is_world_process_zero():
        return {"curve": rows}
    checks.saved(output, trainer.model)
    store = AdapterStore.load(backbone)
    store.add(recipe.role, output)  # behind the others: peft cannot add an adapter without token rows to one with them
    store.save()
    facts: dict[str, Any] = {
        **facts_of(dataset, base, data, rows),
        "n_tokens": sum(len(one.input_ids) for one in data.train),
        "n_new_tokens": len(tokens),
        "base_inside": backbone.name,
        "ids": {"fingerprint": ids.fingerprint, "sizes": list(ids.sizes)},
        "checks": checks.record,
        "seconds": time.monotonic() - started,
        "hardware": hardware.note,
    }
    return write_outcome(named_ids(recipe), facts, rows, checkpoints)


def prepare_backbone(recipe: SemanticRecipe, dataset: Dataset, split: Split, folder: Path) -> Path:
    """The backbone with id tokens: the one of an earlier run where it is the same, else a new one.

    Raises:
        ConfigError: the folder holds a backbone that was made from something else.
    """
    source = backbone_folder(recipe.backbone)
    made_from = {
        "backbone": content_hash(source),
        "dataset": dataset.content_hash,
        "ids": named_ids(recipe).ids.model_dump(mode="json"),
        "seed": recipe.seed,
    }
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        extend_backbone(source, folder, make_ids(recipe, dataset, split), seed=recipe.seed, made_from=made_from)
    elif (found := read_record(folder)["made_from"]) != made_from:
        wrong = [key for key, value in made_from.items() if found.get(key) != value]
        raise ConfigError(
            f"{str(folder)!r} was made from another {', '.join(wrong)} (got {found!r}); name another output, or "
            "delete it"
        )
    return folder


def make_ids(recipe: SemanticRecipe, dataset: Dataset, split: Split) -> SemanticIds:
    """Ids that were built earlier, or new ones."""
    settings = recipe.ids
    if settings.folder is not None:
        return SemanticIds.load(Path(settings.folder), dataset.catalogue)
    levels = settings.levels or default_levels(len(dataset.catalogue))
    config = quantiser_config(settings.quantiser, levels=levels)
    return asyncio.run(semantic_ids(dataset, vectors=settings.vectors, config=config, split=split, seed=recipe.seed))


def named_ids(recipe: SemanticRecipe) -> SemanticRecipe:
    """The recipe with the name of its folder of ids in place of the path: cards and records travel."""
    folder = None if recipe.ids.folder is None else Path(recipe.ids.folder).name
    return recipe.model_copy(update={"ids": recipe.ids.model_copy(update={"folder": folder})})


if __name__ == "__main__":
    run_script(main, __doc__)
