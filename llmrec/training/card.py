"""The model card that is written beside every adapter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrec.training.recipe import Recipe

_CARD = """\
---
library_name: peft
base_model: {backbone}
tags: [recommendation, llmrec, {role}]
---

# {role} adapter of llmrec

LoRA adapter for the role **{role}**, trained on the dataset `{dataset}` (spec `{spec}`).

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
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{backbone}")
model = PeftModel.from_pretrained(base, "PATH-OF-THIS-FOLDER")
```

Trained on behaviour logs: it repeats their popularity bias, and it says nothing about people who are not in them.

Recipe:

```json
{recipe}
```
"""


def model_card(recipe: Recipe, facts: dict[str, Any]) -> str:
    """Markdown text of the card; `facts` fills the table (see `finetune/sft.py`)."""
    return _CARD.format(
        role=recipe.role,
        backbone=recipe.backbone,
        spec=recipe.dataset,
        seed=recipe.seed,
        recipe=json.dumps(recipe.model_dump(), indent=1),
        best_text="not measured" if facts["best"] is None else f"{facts['best']:.4f} nats per token",
        **facts,
    )
