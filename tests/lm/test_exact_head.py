"""Logits of a backbone in half precision, on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM

from llmrec.lm.exact_head import ExactHead, with_exact_head
from llmrec.lm.local import LocalLM
from tests.lm.conftest import Folders

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def _logits(lm: LocalLM, adapter: str | None = None) -> torch.Tensor:
    with lm.opened(adapter=adapter) as opened:
        logits: torch.Tensor = opened.model(IDS).logits
        return logits


def test_logits_are_products_in_fp32_of_states_in_bf16(folders: Folders) -> None:
    model = LocalLM.from_folder(folders.base, dtype="bf16", device="cpu")._model
    with torch.inference_mode():
        found = model(IDS).logits
        states = model.get_decoder()(IDS).last_hidden_state
    assert states.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert torch.equal(found, linear(states.float(), model.get_output_embeddings().weight.float()))
    assert not torch.equal(found, found.bfloat16().float())


def test_without_it_logits_come_in_steps(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmrec.lm.local.with_exact_head", lambda model: model)
    found = _logits(LocalLM.from_folder(folders.base, dtype="bf16", device="cpu")).float()
    assert torch.equal(found, found.bfloat16().float())


def test_a_swapped_tensor_has_a_copy_of_its_own(folders: Folders, tmp_path: Path) -> None:
    """An adapter with token rows changes both ends of the tied weights; the bare backbone comes back exactly."""
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[7, 8])
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(folders.base), config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "trainable_tokens_delta" in name:
                weight.add_(0.5)
    adapted.save_pretrained(tmp_path / "rows")
    lm = LocalLM.from_folder(folders.base, dtype="bf16", device="cpu")
    bare = _logits(lm)
    lm.load_adapter("rows", tmp_path / "rows")
    for _ in range(2):
        with lm.opened(adapter="rows") as opened:
            states = opened.model.get_decoder()(IDS).last_hidden_state
            head = opened.model.get_output_embeddings()
            expected = linear(states.float(), head.weight.float())
            assert torch.equal(opened.model(IDS).logits, expected)
            assert not torch.allclose(expected, bare, atol=1e-2)
        assert torch.equal(_logits(lm), bare)
    assert len(head._copies) == 2


def test_full_precision_and_other_layers_are_left_alone(folders: Folders) -> None:
    model = LocalLM.from_folder(folders.base, dtype="fp32", device="cpu")._model
    head = model.get_output_embeddings()
    assert type(head) is torch.nn.Linear

    class Own(torch.nn.Linear):
        """A layer of somebody's own."""

    model.set_output_embeddings(Own(4, 4))
    model.bfloat16()
    assert type(with_exact_head(model).get_output_embeddings()) is Own
    assert issubclass(ExactHead, torch.nn.Linear)
