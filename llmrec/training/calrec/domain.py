"""Adapters of domains over a shared one (after MLoRA, RecSys 2024, arXiv 2408.08913).

Stage I trains one adapter on all domains. It is then fixed, and each domain gets an adapter of its own on top, whose
rank is the model's width over a temperature. What is saved is the sum of the two as one ordinary LoRA adapter, so that
it serves like any other.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrec.training.calrec.recipe import CalrecRecipe

_SHARED, _SUM = "shared", "sum"


def domain_rank(width: int, temperature: float) -> int:
    """Rank of a domain's adapter: width over temperature, at least 1."""
    return max(int(width / temperature), 1)


def domain_recipe(recipe: CalrecRecipe, model: Any) -> CalrecRecipe:
    """The recipe with the rank of a domain's adapter, and the scale of its update (alpha / rank) as it was."""
    rank = domain_rank(int(model.config.get_text_config().hidden_size), recipe.domain_temperature)
    alpha = max(round(recipe.lora.alpha * rank / recipe.lora.rank), 1)
    return recipe.model_copy(update={"lora": recipe.lora.model_copy(update={"rank": rank, "alpha": alpha})})


def with_shared_inside(model: Any, shared: Path) -> Any:
    """The backbone with the shared adapter added to its weights, which stay fixed."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(shared)).merge_and_unload()


def save_sum(model: Any, shared: Path, folder: Path) -> None:
    """Save shared and domain adapter as one, whose rank is the sum of theirs: their factors stand side by side.

    Args:
        model: a peft model over the backbone of `with_shared_inside`; changed.
        shared: folder of the shared adapter.
        folder: where the sum goes.
    """
    model.load_adapter(str(shared), _SHARED)
    model.add_weighted_adapter([_SHARED, "default"], [1.0, 1.0], _SUM, combination_type="cat")
    model.save_pretrained(str(folder), selected_adapters=[_SUM])
    for path in (folder / _SUM).iterdir():
        path.replace(folder / path.name)
    shutil.rmtree(folder / _SUM)
