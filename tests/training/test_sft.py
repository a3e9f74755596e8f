"""LoRA fine-tuning by recipe: what is trained, what is left alone, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec.assets import asset, load_file
from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split
from llmrec.errors import ConfigError, DataError
from llmrec.training.examples import IGNORED, supervised_tokens
from llmrec.training.recipe import find_recipe, load_recipe
from llmrec.training.sft import build_data, curve, first_and_best

RECIPE = asset("finetune/recommender.yaml")


def _overrides(backbone: Path, output: Path, **changes: Any) -> list[str]:
    settings = {"backbone": backbone, "output": output, "examples": 48, "validation_examples": 8, "evaluations": 2}
    return [f"{key}={value}" for key, value in {**settings, **changes}.items()]


@pytest.fixture(scope="session")
def adapter(mini_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("adapter") / "recommender"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMREC_COMPILE", "0")
        patch.setenv("LLMREC_DTYPE", "float32")
        patch.setenv("LLMREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        script = load_file(asset("finetune/sft.py"), name="sft_under_test")
        script.main(RECIPE, _overrides(mini_folder, output, learning_rate=0.01))
    return output


def test_the_adapter_loads_with_peft_alone(adapter: Path, mini_folder: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(mini_folder)
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    ids = tokenizer("Next:\n", return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        before = base(**ids).logits.clone()
        model = PeftModel.from_pretrained(base, adapter)
        after = model(**ids).logits
        with model.disable_adapter():
            bare = model(**ids).logits
    assert (after - before).abs().max() > 1e-3  # it was trained
    torch.testing.assert_close(bare, before)  # and the backbone was not


def test_card_curve_and_stamp_are_written(adapter: Path) -> None:
    record = json.loads((adapter / "training.json").read_text(encoding="utf-8"))
    assert record["n_train"] == 48
    assert record["n_validation"] == 8
    assert any("validation_loss" in row for row in record["curve"])
    card = (adapter / "README.md").read_text(encoding="utf-8")
    assert "recommender adapter" in card
    assert f"{record['best']:.4f}" in card
    assert not (adapter / "checkpoints").exists()
    assert list(adapter.glob("*base*.json")) or json.loads(next(adapter.glob("llmrec*.json")).read_text())


def test_history_labels_carry_no_loss(films: Dataset, films_split: Split, mini_folder: Path) -> None:
    """Card 1.11, check 2: whatever stands in the history, only the target's tokens are learnt."""
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    recipe = load_recipe(RECIPE, ["examples=40", "validation_examples=4"])
    data = build_data(films, films_split, recipe, tokenizer)
    for one in data.train:
        first = next(place for place, label in enumerate(one.labels) if label != IGNORED)
        assert all(label == IGNORED for label in one.labels[:first])
        assert one.labels[first:] == one.input_ids[first:]
        target = tokenizer.decode(one.input_ids[first:])
        assert target.startswith("Title:")
        assert target.endswith("<|im_end|>")


def test_loss_rewards_the_next_token_not_the_current_one(mini_folder: Path) -> None:
    """Card 1.11, check 1: logits that copy the current token must be punished, those that name the next one not."""
    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    labels = torch.tensor([[5, 9, 3, 7, 11, 2]])
    size = model.config.vocab_size
    copying = 50.0 * torch.nn.functional.one_hot(labels, size).float()
    knowing = torch.roll(copying, -1, dims=1)
    assert model.loss_function(copying, labels, size) > 10
    assert model.loss_function(knowing, labels, size) < 1e-3


def test_validation_users_see_no_training_examples(films: Dataset, films_split: Split, mini_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    recipe = load_recipe(RECIPE, ["examples=100", "validation_examples=30"])
    data = build_data(films, films_split, recipe, tokenizer)
    assert not {tuple(one.input_ids) for one in data.train} & {tuple(one.input_ids) for one in data.validation}
    assert supervised_tokens(data.train) > 100 * 5


def test_nothing_fits(films: Dataset, films_split: Split, mini_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    recipe = load_recipe(RECIPE, ["examples=20", "max_tokens=3"])
    with pytest.raises(DataError, match="max_tokens=3"):
        build_data(films, films_split, recipe, tokenizer)


def test_shipped_recipes_are_valid_and_found_by_name() -> None:
    for path in asset("finetune").glob("*.yaml"):
        assert load_recipe(path).role
        assert find_recipe(Path(path.stem)) == path


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("learning_rat=1", "learning_rat"),
        ("lora.rank=0", "lora.rank"),
        ("epochs=many", "epochs"),
        ("examples", "key=value"),
        ("role.name=x", "not a group"),
        ("data={a: [}", "not YAML"),
    ],
)
def test_wrong_settings_are_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_recipe(RECIPE, [override])


def test_all_faults_come_at_once() -> None:
    with pytest.raises(ConfigError, match=r"epochs.*batch_size|batch_size.*epochs"):
        load_recipe(RECIPE, ["epochs=0", "batch_size=-1"])


def test_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match="shipped recipes"):
        find_recipe(Path("nonsense"))


def test_unknown_kind_of_data(films: Dataset, films_split: Split, mini_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    with pytest.raises(ConfigError, match="kinds:"):
        build_data(films, films_split, load_recipe(RECIPE, ["data={poems: 1.0}"]), tokenizer)


def test_curve_rows() -> None:
    history = [{"loss": 2.0, "step": 1}, {"eval_loss": 1.5, "step": 2}, {"train_runtime": 3.0, "step": 2}]
    rows = curve(history)
    assert rows == [{"step": 1.0, "loss": 2.0}, {"step": 2.0, "validation_loss": 1.5}]
    assert first_and_best(rows) == {"first_loss": 2.0, "best_validation_loss": 1.5}
