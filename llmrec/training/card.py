"""The model card that is written beside every adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrec.training.recipe import Recipe

_CARD = """\
---
library_name: {library}
base_model: {backbone}
tags: [recommendation, llmrec, {role}]
---

# {role} {form} of llmrec

{kind} for the role **{role}**, trained on the dataset `{dataset}` (spec `{spec}`).

| | |
|---|---|
| backbone | `{backbone}` (`{base}`) |
| examples | {n_train} for training, {n_validation} for validation, {n_longer} left out as too long |
| tokens with loss | {n_supervised} |
| best validation loss | {best_text} |
| seconds | {seconds:.0f} ({hardware}) |
| seed | {seed} |

Load it without this package:

```python
{loading}
```

{further}Trained on behaviour logs: it repeats their popularity bias, and it says nothing about people who are not in
them.

Recipe:

```json
{recipe}
```
"""


_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "PATH-OF-THIS-FOLDER")"""
_WHOLE = """\
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("PATH-OF-THIS-FOLDER")"""


def model_card(recipe: Recipe, facts: dict[str, Any]) -> str:
    """Markdown text of the card; `facts` fills the table (see `finetune/sft.py`)."""
    whole = getattr(recipe, "tuning", "lora") == "full"
    return _CARD.format(
        library="transformers" if whole else "peft",
        form="model" if whole else "adapter",
        kind="All weights" if whole else "LoRA adapter",
        loading=_WHOLE if whole else _ADAPTER.format(base=_base(recipe, facts)),
        role=recipe.role,
        backbone=recipe.backbone,
        spec=recipe.dataset,
        seed=recipe.seed,
        recipe=json.dumps(recipe.model_dump(), indent=1),
        further="".join(f"{section}\n\n" for section in sections(facts)),
        best_text="not measured" if facts["best"] is None else f"{facts['best']:.4f} nats per token, mean over batches",
        **facts,
    )


def _base(recipe: Recipe, facts: dict[str, Any]) -> str:
    """What the adapter is put on: the recipe's backbone, or the one that the training wrote into its own folder."""
    inside = facts.get("base_inside")
    return recipe.backbone if inside is None else f"PATH-OF-THIS-FOLDER/{inside}"


def sections(facts: dict[str, Any]) -> list[str]:
    """Further parts of the card, for what a training measured beside its loss."""
    found = []
    if held_out := facts.get("held_out_loss"):
        lines = [f"| {kind} | {loss:.4f} |" for kind, loss in held_out.items()]
        found.append(
            "\n".join(["Loss on users that training never saw, nats per token:\n", "| | |", "|---|---|", *lines])
        )
    if facts.get("ndcg10_best") is not None:
        found.append(ranking(facts))
    if decisions := facts.get("decisions"):
        found.append(_decisions(decisions))
    if checks := facts.get("checks"):
        seconds = sum(one["seconds"] for one in checks.values())
        found.append(f"Self-checks passed: {', '.join(checks)} ({seconds:.1f} s).")
    return found


RANKED = ("ndcg10_before", "ndcg10_best")
"""What a record tells of the validation ranking, where there was one."""


def ranking(facts: Mapping[str, Any]) -> str:
    """What chose the checkpoint, and what was there before: a training may leave the ranking worse than it found it."""
    before, best = facts["ndcg10_before"], facts["ndcg10_best"]
    text = f"The checkpoint is the one with the best validation NDCG@10: {best:.4f}"
    if before is None:
        return f"{text}."
    worse = "; on these users it ranks no better than what it started from" if best <= before else ""
    return f"{text}, and {before:.4f} before the first step{worse}."


def _decisions(decisions: dict[str, Any]) -> str:
    """The table of a user's decisions beside predictors that need no model."""
    lines = [
        f"| {row['predictor']} | {_interval(row['accuracy'])} | {_interval(row['log_loss'])} | {_interval(row['auc'])} "
        f"| {row['brier']:.4f} | {row['ece']:.4f} |"
        for row in decisions["table"]
    ]
    head = (
        f"Decisions of users that training never saw, one taken to one not taken: {decisions['n_measured']} measured, "
        f"calibrated on {decisions['n_fit']} others (`calibration.json`: log-odds times {decisions['scale']:.3f} plus "
        f"{decisions['offset']:.3f}; plot in `reliability.png`). Intervals are 95 % bootstrap over decisions.\n"
    )
    columns = "| predictor | accuracy | log loss | AUC | Brier | ECE |"
    return "\n".join([head, columns, "|---|---|---|---|---|---|", *lines])


def _interval(value: dict[str, float]) -> str:
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
