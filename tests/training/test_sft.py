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
from llmrec.lm.adapters import content_hash, read_stamp
from llmrec.training.callbacks import Progress
from llmrec.training.examples import IGNORED, supervised_tokens
from llmrec.training.recipe import SftRecipe, find_recipe, load_recipe, load_recipe_of
from llmrec.training.sft import build_data, curve, first_and_best, user_parts

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


def test_card_curve_and_stamp_are_written(adapter: Path, mini_folder: Path) -> None:
    record = json.loads((adapter / "training.json").read_text(encoding="utf-8"))
    assert record["n_train"] == 48
    assert record["n_validation"] == 8
    assert set(record["checks"]) == {"templates", "gradients", "padding", "frozen", "labels"}
    assert record["checks"]["frozen"]["compared"]
    assert any("validation_loss" in row for row in record["curve"])
    card = (adapter / "README.md").read_text(encoding="utf-8")
    assert "recommender adapter" in card
    assert f"{record['best']:.4f}" in card
    assert not (adapter / "checkpoints").exists()
    assert read_stamp(adapter) == content_hash(mini_folder)


def test_history_labels_carry_no_loss(films: Dataset, films_split: Split, mini_folder: Path) -> None:
    """Whatever stands in the history, only the target's tokens are learnt."""
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    recipe = load_recipe_of(SftRecipe, RECIPE, ["examples=40", "validation_examples=4"])
    data = build_data(films, films_split, recipe, tokenizer)
    for one in data.train:
        first = next(place for place, label in enumerate(one.labels) if label != IGNORED)
        assert all(label == IGNORED for label in one.labels[:first])
        assert one.labels[first:] == one.input_ids[first:]
        target = tokenizer.decode(one.input_ids[first:])
        assert target.startswith("Title:")
        assert target.endswith("<|im_end|>")


def test_loss_rewards_the_next_token_not_the_current_one(mini_folder: Path) -> None:
    """Logits that copy the current token must be punished, those that name the next one not."""
    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    labels = torch.tensor([[5, 9, 3, 7, 11, 2]])
    size = model.config.vocab_size
    copying = 50.0 * torch.nn.functional.one_hot(labels, size).float()
    knowing = torch.roll(copying, -1, dims=1)
    assert model.loss_function(copying, labels, size) > 10
    assert model.loss_function(knowing, labels, size) < 1e-3


def test_validation_users_are_others(films: Dataset, films_split: Split, mini_folder: Path) -> None:
    recipe = load_recipe_of(SftRecipe, RECIPE, ["examples=100", "validation_examples=30"])
    watched, others = user_parts(films_split, recipe)
    n_watched, n_others = (int((part.train.lengths() > 0).sum()) for part in (watched, others))
    assert n_watched == round(0.1 * len(films_split.users))
    assert n_watched + n_others == len(films_split.users)
    assert not ((watched.train.lengths() > 0) & (others.train.lengths() > 0)).any()
    data = build_data(films, films_split, recipe, AutoTokenizer.from_pretrained(mini_folder))
    assert not {tuple(one.input_ids) for one in data.train} & {tuple(one.input_ids) for one in data.validation}
    assert supervised_tokens(data.train) > 100 * 5


def test_without_validation_nothing_is_measured(films: Dataset, films_split: Split, mini_folder: Path) -> None:
    recipe = load_recipe_of(SftRecipe, RECIPE, ["examples=20", "validation_examples=0"])
    data = build_data(films, films_split, recipe, AutoTokenizer.from_pretrained(mini_folder))
    assert not data.validation
    assert first_and_best([{"step": 1.0, "loss": 2.0}]) == {"first_loss": 2.0, "best_validation_loss": None}


def test_a_killed_run_goes_on_and_other_checkpoints_are_not_taken_up(
    mini_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_file(asset("finetune/sft.py"), name="sft_under_test")
    step_end = Progress.on_step_end

    def broken(self: Progress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step_end(self, args, state, control, **kwargs)
        if state.global_step == 3:
            raise KeyboardInterrupt

    whole = script.main(RECIPE, _overrides(mini_folder, tmp_path / "whole", batch_size=8))
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_end", broken)
        for seed in (0, 1):  # the second leaves checkpoints of another recipe in the same folder
            with pytest.raises(KeyboardInterrupt):
                script.main(
                    RECIPE, _overrides(mini_folder, tmp_path / "broken", batch_size=8, evaluations=6, seed=seed)
                )
    keys = list((tmp_path / "broken" / "checkpoints").iterdir())
    assert len(keys) == 2
    resumed = script.main(RECIPE, _overrides(mini_folder, tmp_path / "broken", batch_size=8, evaluations=6))
    again = script.main(RECIPE, _overrides(mini_folder, tmp_path / "again", batch_size=8, evaluations=6))
    assert resumed["best"] == pytest.approx(again["best"], abs=1e-4)
    assert whole["n_train"] == resumed["n_train"]
    assert list((tmp_path / "broken" / "logs").rglob("events*"))


def test_nothing_fits(films: Dataset, films_split: Split, mini_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    recipe = load_recipe_of(SftRecipe, RECIPE, ["examples=20", "max_tokens=3"])
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
        ("data={next_items: 1.5, facts: -0.5}", "data.facts"),
        ("role=my user", "role"),
        ("seed=4294967296", "seed"),
    ],
)
def test_wrong_settings_are_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_recipe_of(SftRecipe, RECIPE, [override])


def test_all_faults_come_at_once() -> None:
    with pytest.raises(ConfigError, match=r"epochs.*batch_size|batch_size.*epochs"):
        load_recipe_of(SftRecipe, RECIPE, ["epochs=0", "batch_size=-1"])


def test_a_folder_does_not_hide_a_shipped_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("user").mkdir()
    assert find_recipe(Path("user")) == asset("finetune/user.yaml")


def test_folders_may_begin_with_the_home_folder() -> None:
    recipe = load_recipe_of(SftRecipe, RECIPE, ["backbone=~/nano", "output=~/adapter"])
    assert recipe.backbone == str(Path.home() / "nano")
    assert recipe.output == str(Path.home() / "adapter")


def test_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match="shipped recipes"):
        find_recipe(Path("nonsense"))


def test_unknown_kind_of_data(films: Dataset, films_split: Split, mini_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    with pytest.raises(ConfigError, match="kinds:"):
        build_data(films, films_split, load_recipe_of(SftRecipe, RECIPE, ["data={poems: 1.0}"]), tokenizer)


def test_curve_rows() -> None:
    history = [{"loss": 2.0, "step": 1}, {"eval_loss": 1.5, "step": 2}, {"train_runtime": 3.0, "step": 2}]
    rows = curve(history)
    assert rows == [{"step": 1.0, "loss": 2.0}, {"step": 2.0, "validation_loss": 1.5}]
    assert first_and_best(rows) == {"first_loss": 2.0, "best_validation_loss": 1.5}
