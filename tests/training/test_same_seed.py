"""A recipe run twice with one seed gives the same adapter bit for bit, and another seed gives another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file as load_weights

from llmrec.assets import asset, load_file

_SMALL = {"evaluations": 1}
_RECIPES: dict[str, tuple[str, dict[str, Any], str]] = {
    "recommender": ("sft.py", {"examples": 24, "validation_examples": 4, "batch_size": 8, "epochs": 2}, ""),
    "user": ("user.py", {"examples": 24, "validation_examples": 4, "batch_size": 8, "calibration_users": 0}, ""),
    "tools": ("tools.py", {"turns": 12, "validation_turns": 4, "register_adapters": "false"}, "tools"),
}
"""Script, settings, and the adapter's folder in the output."""


@pytest.mark.parametrize("name", list(_RECIPES))
def test_the_seed_alone_decides(name: str, mini_folder: Path, tmp_path: Path) -> None:
    script, changes, inside = _RECIPES[name]
    module = load_file(asset(f"finetune/{script}"), name=f"{name}_with_seeds")

    def adapter(folder: str, seed: int) -> dict[str, torch.Tensor]:
        output = tmp_path / folder
        settings = {**_SMALL, **changes, "backbone": mini_folder, "output": output, "seed": seed}
        module.main(asset(f"finetune/{name}.yaml"), [f"{key}={value}" for key, value in settings.items()])
        weights: dict[str, torch.Tensor] = load_weights(output / inside / "adapter_model.safetensors")
        return weights

    first, other, again = adapter("first", 5), adapter("other", 6), adapter("again", 5)
    assert first.keys() == again.keys() == other.keys()
    assert any(bool(weight.any()) for part, weight in first.items() if "lora_B" in part), "nothing was learnt"
    assert all(torch.equal(first[part], again[part]) for part in first)
    assert not any(torch.equal(first[part], other[part]) for part in first)
