"""Self-checks of a training: each passes on a sound training, fires on a broken one, and changes nothing."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec.assets import asset, load_file
from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split
from llmrec.errors import ConfigError, ModelError
from llmrec.lm.hardware import Hardware
from llmrec.roles.user import decision_prompt
from llmrec.training.checks.frozen import check_frozen, frozen_digest
from llmrec.training.checks.gradient import check_gradients, check_saved_rows, check_token_rows
from llmrec.training.checks.loss import COARSE, EXACT, check_labels, check_packing, check_padding
from llmrec.training.checks.suite import Checks, batch_loss
from llmrec.training.checks.templates import SERVED, check_templates
from llmrec.training.corpus import BUILDERS, Material
from llmrec.training.examples import Segment
from llmrec.training.packed_trainer import make_packed_trainer
from llmrec.training.recipe import SftRecipe, load_recipe_of
from llmrec.training.sft import SftData, build_data, make_trainer

RECIPE = asset("finetune/recommender.yaml")
CPU = Hardware("cpu", torch.float32, False, "test")


@pytest.fixture(scope="session")
def data(films: Dataset, films_split: Split, mini_folder: Path) -> SftData:
    recipe = load_recipe_of(SftRecipe, RECIPE, ["examples=24", "validation_examples=8"])
    return build_data(films, films_split, recipe, AutoTokenizer.from_pretrained(mini_folder))


@pytest.fixture
def trainer(data: SftData, mini_folder: Path, tmp_path: Path) -> Any:
    recipe = load_recipe_of(SftRecipe, RECIPE, ["examples=24", "validation_examples=8"])
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    return make_trainer(model, tokenizer, data, recipe, tmp_path / "checkpoints", CPU)


def _state(model: Any) -> dict[str, Any]:
    weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    gradients = [weight.grad is None for weight in model.parameters()]
    drawn = torch.random.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())
    return {"weights": weights, "modes": modes, "gradients": gradients, "drawn": drawn}


def test_a_sound_training_passes_and_is_left_as_it_was(trainer: Any) -> None:
    before = _state(trainer.model)
    checks = Checks()
    checks.start(trainer)
    checks.end(trainer, seed=0)
    after = _state(trainer.model)
    assert set(checks.record) == {"gradients", "padding", "frozen", "labels"}
    assert checks.seconds == pytest.approx(sum(found["seconds"] for found in checks.record.values()))
    assert checks.record["padding"]["padding_tokens"] > 0
    assert checks.record["labels"]["shuffled_loss"] > checks.record["labels"]["true_loss"]
    for name, weight in before["weights"].items():
        assert torch.equal(weight, after["weights"][name]), name
    assert {k: v for k, v in before.items() if k != "weights"} == {k: v for k, v in after.items() if k != "weights"}
    assert trainer.optimizer is None


def test_with_checks_and_without_the_training_is_the_same(
    mini_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout draws from the global generator, so a check that moved it would change the losses."""
    script = load_file(asset("finetune/sft.py"), name="sft_under_test")

    def losses(name: str) -> list[dict[str, float]]:
        settings = {"backbone": mini_folder, "output": tmp_path / name, "examples": 24, "validation_examples": 8}
        overrides = [f"{key}={value}" for key, value in {**settings, "lora.dropout": 0.1, "batch_size": 8}.items()]
        return list(script.main(RECIPE, overrides)["curve"])

    checked = losses("checked")
    for name in ("start", "end", "templates"):
        monkeypatch.setattr(Checks, name, lambda self, *args, **kwargs: None)
    assert losses("unchecked") == checked


# --- gradients


def _loss(trainer: Any) -> Any:
    return lambda: batch_loss(trainer, [trainer.train_dataset[0], trainer.train_dataset[1]])


def test_full_tuning_trains_everything(mini_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    ids = torch.tensor([[5, 9, 3, 7]])
    found = check_gradients(model, lambda: model(input_ids=ids, labels=ids).loss)
    assert found["frozen"] == 0
    assert found["trained"] == sum(weight.numel() for weight in model.parameters())


def test_gradient_checkpointing_gives_the_same_gradients(
    trainer: Any, data: SftData, mini_folder: Path, tmp_path: Path
) -> None:
    recipe = load_recipe_of(SftRecipe, RECIPE, ["gradient_checkpointing=true"])
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    saving = make_trainer(model, tokenizer, data, recipe, tmp_path / "saving", CPU)
    assert saving.args.activation_checkpointing
    how = saving.args.activation_checkpointing_kwargs
    saving.model.activation_checkpointing_enable(activation_checkpointing_kwargs=how)  # as `train` does at its start
    assert any(getattr(module, "gradient_checkpointing", False) for module in saving.model.modules())
    check_gradients(saving.model, _loss(saving))
    gradients = []
    for one in (trainer, saving):
        one.model.train()
        _loss(one)().backward()
        gradients.append({name: weight.grad for name, weight in one.model.named_parameters() if weight.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_nothing_to_train(trainer: Any) -> None:
    trainer.model.requires_grad_(False)
    with pytest.raises(ModelError, match="nothing is to be trained"):
        check_gradients(trainer.model, _loss(trainer))


def test_a_backbone_that_was_not_frozen(trainer: Any) -> None:
    name, weight = next((n, w) for n, w in trainer.model.named_parameters() if "norm" in n)
    weight.requires_grad_(True)
    with pytest.raises(ModelError, match="1 weights outside the adapter") as caught:
        check_gradients(trainer.model, _loss(trainer))
    assert name in str(caught.value)


def test_a_part_of_the_adapter_that_is_frozen(trainer: Any) -> None:
    next(w for n, w in trainer.model.named_parameters() if "lora_B" in n).requires_grad_(False)
    with pytest.raises(ModelError, match="is_trainable=True"):
        check_gradients(trainer.model, _loss(trainer))


def test_a_part_of_the_adapter_that_no_gradient_reaches(trainer: Any) -> None:
    """The first layer's output is cut off from the graph."""
    layers = trainer.model.get_base_model().model.layers
    layers[0].mlp.register_forward_hook(lambda module, inputs, output: output.detach())
    with pytest.raises(ModelError, match=r"no gradient reaches.*layers\.0\.mlp"):
        check_gradients(trainer.model, _loss(trainer))


def test_a_loss_that_is_not_finite(trainer: Any) -> None:
    with pytest.raises(ModelError, match="inf"):
        check_gradients(trainer.model, lambda: _loss(trainer)() * float("inf"))


def test_a_gradient_that_is_not_finite(trainer: Any) -> None:
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(ModelError, match="is not finite; lower learning_rate"):
        check_gradients(trainer.model, _loss(trainer))


# --- new tokens


@pytest.fixture
def with_rows(mini_folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    return get_peft_model(model, LoraConfig(r=2, trainable_token_indices=[1020, 1021, 1022], task_type="CAUSAL_LM"))


def _rows_loss(model: Any) -> Any:
    ids = torch.tensor([[5, 1020, 1021, 7]])
    return lambda: model(input_ids=ids, labels=ids).loss


def test_rows_of_new_tokens_move_and_are_put_back(with_rows: Any) -> None:
    before = _state(with_rows)
    assert check_token_rows(with_rows, [1020, 1021, 1022], _rows_loss(with_rows)) == {"moved": 3, "rows": 3}
    after = _state(with_rows)
    assert all(torch.equal(weight, after["weights"][name]) for name, weight in before["weights"].items())


def test_rows_that_are_not_those_of_the_new_tokens(with_rows: Any) -> None:
    with pytest.raises(ModelError, match="moves none of the 2 rows"):
        check_token_rows(with_rows, [900, 901], _rows_loss(with_rows))
    with pytest.raises(ModelError, match="which is an old one"):  # 1022 = 7 * 146 is among the others that are watched
        check_token_rows(with_rows, [1020, 1021], _rows_loss(with_rows))


def test_an_adapter_without_rows(trainer: Any) -> None:
    with pytest.raises(ModelError, match="trainable_token_indices"):
        check_token_rows(trainer.model, [1020], _loss(trainer))


def test_rows_that_were_not_saved(with_rows: Any, tmp_path: Path) -> None:
    with_rows.save_pretrained(tmp_path / "whole")
    assert check_saved_rows(tmp_path / "whole", with_rows) == {"rows": 3}
    with pytest.raises(ModelError, match="were not saved"):
        check_saved_rows(tmp_path / "nothing", with_rows)
    with torch.no_grad():
        for name, weight in with_rows.named_parameters():
            if "trainable_tokens_delta" in name:
                weight += 1.0
    with pytest.raises(ModelError, match="are not those of the model"):
        check_saved_rows(tmp_path / "whole", with_rows)


# --- loss


def _rows(trainer: Any) -> list[dict[str, Any]]:
    rows = sorted((trainer.train_dataset[i] for i in range(24)), key=lambda row: len(row["input_ids"]))
    return [rows[0], rows[-1]]


def test_a_first_token_that_is_to_be_learnt_is_no_padding(trainer: Any) -> None:
    """Nothing comes before it: on the right it is never predicted, on the left it would be, from padding."""

    def collate(rows: Sequence[Any]) -> Any:
        batch = trainer.data_collator(list(rows))
        batch["labels"][:, 0] = batch["input_ids"][:, 0]
        return batch

    assert check_padding(trainer.model, collate, _rows(trainer))["difference"] <= EXACT


def test_weights_in_four_bits_are_multiplied_in_half_precision(trainer: Any) -> None:
    trainer.model.is_loaded_in_4bit = True
    assert check_padding(trainer.model, trainer.data_collator, _rows(trainer))["allowed"] == COARSE


def test_padding_that_is_attended_to(trainer: Any) -> None:
    def collate(rows: Sequence[Any]) -> Any:
        batch = trainer.data_collator(list(rows))
        return {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}

    with pytest.raises(ModelError, match="depends on padding"):
        check_padding(trainer.model, collate, _rows(trainer))


def test_padding_that_carries_loss(trainer: Any) -> None:
    def collate(rows: Sequence[Any]) -> Any:
        batch = trainer.data_collator(list(rows))
        return {**batch, "labels": batch["labels"].where(batch["attention_mask"] == 1, batch["input_ids"])}

    with pytest.raises(ModelError, match="label -100"):
        check_padding(trainer.model, collate, _rows(trainer))


@pytest.fixture
def packed(data: SftData, mini_folder: Path, tmp_path: Path) -> Any:
    recipe = load_recipe_of(SftRecipe, RECIPE, ["examples=24", "validation_examples=8", "max_tokens=1024"])
    tokenizer, model = AutoTokenizer.from_pretrained(mini_folder), AutoModelForCausalLM.from_pretrained(mini_folder)
    return make_packed_trainer(model, tokenizer, data, recipe, tmp_path / "packed", CPU)


def test_examples_side_by_side_are_kept_apart(packed: Any) -> None:
    row = packed.train_dataset[0]
    assert sum(position == 0 for position in row["position_ids"]) >= 3
    assert check_packing(packed.model, packed.data_collator, row)["difference"] <= EXACT


def test_a_model_that_reads_over_the_border_of_an_example(packed: Any) -> None:
    """Without position ids a row is one text to the model."""

    def collate(rows: Sequence[Any]) -> Any:
        batch = packed.data_collator(list(rows))
        return {name: value for name, value in batch.items() if name != "position_ids"}

    with pytest.raises(ModelError, match="do not keep packed examples apart"):
        check_packing(packed.model, collate, packed.train_dataset[0])


def test_a_model_that_was_driven_away_from_its_labels(trainer: Any, mini_folder: Path) -> None:
    """Logits of the wrong sign: the true next token is the least likely one."""
    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    model.lm_head = copy.deepcopy(model.lm_head)
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(-model.lm_head.weight)
    rows = [trainer.train_dataset[i] for i in range(12)]
    with pytest.raises(ModelError, match="Nothing was saved"):
        check_labels(model, trainer.data_collator, rows, seed=0)


# --- what must stay fixed


def test_a_backbone_that_moved_during_training(trainer: Any) -> None:
    checks = Checks()
    checks.start(trainer)
    with torch.no_grad():
        trainer.model.get_base_model().model.norm.weight[0] += 1e-3
    with pytest.raises(ModelError, match="the backbone was to stay fixed"):
        checks.end(trainer, seed=0)


def test_a_reference_adapter_that_moved(mini_folder: Path) -> None:
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(mini_folder), LoraConfig(r=2, task_type="CAUSAL_LM"))
    model.add_adapter("reference", LoraConfig(r=2, task_type="CAUSAL_LM"))
    reference, policy = frozen_digest(model, "reference"), frozen_digest(model, "default")
    with torch.no_grad():
        next(w for n, w in model.named_parameters() if "lora_B.default" in n).add_(1.0)
    check_frozen(model, reference, "reference")
    with pytest.raises(ModelError, match="'default' was to stay fixed"):
        check_frozen(model, policy, "default")
    with pytest.raises(ConfigError, match="no weights of adapter 'other'"):
        frozen_digest(model, "other")


# --- templates


def test_every_served_kind_is_asked_for_in_its_own_form(films: Dataset, films_split: Split, mini_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    found = check_templates([*SERVED, "facts"], Material(films, films_split, 5), tokenizer, model)
    assert found.pop("facts") is None
    assert set(found) == set(SERVED)
    assert min(found.values()) >= 4, found


def test_a_training_prompt_with_one_more_item_than_serving_shows(
    films: Dataset, films_split: Split, mini_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = BUILDERS["next_items"]
    monkeypatch.setitem(
        BUILDERS,
        "next_items",
        lambda material, draws: longer(Material(material.dataset, material.split, 6), draws),
    )
    with pytest.raises(ModelError, match=r"'next_items' are not asked for.*write both with one function"):
        check_templates(["next_items"], Material(films, films_split, 5), AutoTokenizer.from_pretrained(mini_folder))


def test_a_serving_prompt_that_was_changed(
    films: Dataset, films_split: Split, mini_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmrec.roles.simulated_user.decision_prompt", lambda *args: decision_prompt(*args) + " ")
    with pytest.raises(ModelError, match="'decisions' are not asked for"):
        check_templates(["decisions"], Material(films, films_split, 5), AutoTokenizer.from_pretrained(mini_folder))


def test_tokens_that_are_cut_elsewhere(
    films: Dataset, films_split: Split, mini_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An example whose prompt is cut inside a word has other tokens than the whole prompt."""
    whole = BUILDERS["next_items"]

    def cut(material: Material, draws: np.random.Generator) -> Any:
        for prompt, target in whole(material, draws):
            yield (Segment(prompt.text[:3], False), Segment(prompt.text[3:], False), target)

    monkeypatch.setitem(BUILDERS, "next_items", lambda material, draws: list(cut(material, draws)))
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    with pytest.raises(ModelError, match="other tokens than served ones"):
        check_templates(["next_items"], Material(films, films_split, 5), tokenizer, model)
