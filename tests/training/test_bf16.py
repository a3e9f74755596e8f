"""Training in bfloat16: backbone and products are in it, the adapter is not. Also on CPUs without units for it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file as load_weights

from llmrec.assets import asset, load_file
from llmrec.lm.loading import load_backbone
from llmrec.lm.local import LocalLM
from llmrec.lm.protocol import Sampling
from llmrec.training.checks.loss import COARSE

_COMMON = {"examples": 16, "batch_size": 16, "epochs": 8, "evaluations": 1, "learning_rate": 0.003, "history_items": 4}
"""Every step is on all examples, so that losses of two steps can be compared."""
_VALIDATION = "{users: 4, samples: 2, max_tokens: 12, examples: 8}"


@pytest.mark.parametrize(
    ("name", "script", "changes"),
    [
        ("recommender", "sft.py", {"validation_examples": 8}),
        ("calrec", "calrec.py", {"max_tokens": 256, "select": "loss", "validation": _VALIDATION}),
    ],
)
def test_a_few_steps_in_bfloat16(
    name: str,
    script: str,
    changes: dict[str, Any],
    mini_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLMREC_DTYPE", "bfloat16")
    settings = {**_COMMON, **changes, "backbone": mini_folder, "output": tmp_path}
    record = load_file(asset(f"finetune/{script}"), name=f"{name}_in_bfloat16").main(
        asset(f"finetune/{name}.yaml"), [f"{key}={value}" for key, value in settings.items()]
    )
    assert "bfloat16" in record["hardware"]
    weights = load_weights(tmp_path / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    found = {check.removeprefix("stage II: "): one for check, one in record["checks"].items()}
    assert found["padding"]["allowed"] == COARSE, "the backbone was not in a half-precision type"
    assert found["padding"]["difference"] <= COARSE
    assert found["frozen"]["compared"]
    losses = [row["loss"] for row in record["curve"] if "loss" in row]
    assert losses[-1] < losses[0] - 0.05
    with_it, without = asyncio.run(_served(mini_folder, tmp_path))
    assert abs(with_it - without) > 0.01, "the adapter does nothing"


async def _served(backbone: Path, adapter: Path) -> tuple[float, float]:
    """Log-probability of a text with the adapter and without it, from an engine in bfloat16."""
    engine = load_backbone(backbone, adapters={"recommender": adapter}, device="cpu")
    assert isinstance(engine, LocalLM)
    prompt, texts = "Title: Heat (1995)\nNext:\n", ["Title: Casino (1995)"]
    (said,) = await engine.generate(prompt, sampling=Sampling(max_tokens=5, temperature=0), adapter="recommender")
    assert said.n_tokens > 0
    (with_it,) = await engine.score(prompt, texts, adapter="recommender")
    (without,) = await engine.score(prompt, texts)
    return with_it, without
