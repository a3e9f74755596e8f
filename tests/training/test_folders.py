"""What a training writes over, what it leaves, and what it refuses to spoil."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmrec.assets import asset, load_file
from llmrec.errors import ConfigError, ModelError, ModelNotFoundError
from llmrec.lm.adapters import content_hash
from llmrec.training.backbone import check_targets
from llmrec.training.checks.loss import check_labels
from llmrec.training.folders import check_folders
from llmrec.training.recipe import load_recipe
from llmrec.training.run_folder import drop_checkpoints, read_record, run_script, write_record

CALREC = [
    "examples=16",
    "batch_size=8",
    "history_items=4",
    "max_tokens=256",
    "evaluations=1",
    "select=loss",
    "validation={users: 4, samples: 2, max_tokens: 12, examples: 8}",
]
PLAIN = ["examples=16", "validation_examples=4", "evaluations=1"]


def _train(recipe: str, backbone: Path, output: Path, *settings: str) -> dict[str, Any]:
    script = load_file(asset(f"finetune/{'calrec' if recipe == 'calrec' else 'sft'}.py"), name=f"{recipe}_in_a_folder")
    done: dict[str, Any] = script.main(
        asset(f"finetune/{recipe}.yaml"), [f"backbone={backbone}", f"output={output}", *settings]
    )
    return done


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMREC_COMPILE", "0")
    monkeypatch.setenv("LLMREC_DTYPE", "float32")


def test_a_folder_holds_what_was_trained_last(mini_folder: Path, tmp_path: Path) -> None:
    """Other recipes and kinds of tuning in the same output leave no weights, and no record that speaks of others."""
    output = tmp_path / "one"
    _train("calrec", mini_folder, output, *CALREC)
    first = content_hash(output)
    _train("recommender", mini_folder, output, *PLAIN)
    assert content_hash(output) != first
    assert not (output / "stage.json").exists()
    _train("calrec", mini_folder, output, *CALREC)
    assert content_hash(output) == first  # trained again: what lay there was another recipe's
    _train("calrec", mini_folder, output, *CALREC, "tuning=full")
    assert (output / "model.safetensors").exists()
    assert not list(output.glob("adapter_*"))  # transformers would put it on the new weights
    assert not hasattr(AutoModelForCausalLM.from_pretrained(output), "peft_config")
    _train("recommender", mini_folder, output, *PLAIN)
    assert not (output / "model.safetensors").exists()
    assert not (output / "config.json").exists()


def test_killed_runs_of_other_settings_can_go_on(mini_folder: Path, tmp_path: Path) -> None:
    killed = tmp_path / "one" / "checkpoints" / "0123456789abcdef"
    killed.mkdir(parents=True)
    (killed / "state").touch()
    _train("recommender", mini_folder, tmp_path / "one", *PLAIN)
    assert [path.name for path in killed.parent.iterdir()] == [killed.name]
    drop_checkpoints(killed)
    assert not killed.parent.exists()


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"output": "{backbone}"}, ConfigError, "output is the backbone itself"),
        ({"output": "{backbone}/../nano"}, ConfigError, "output is the backbone itself"),
        ({"push_to": "file:{backbone}"}, ConfigError, "push_to is the backbone itself"),
        ({"output": "{tmp}/foreign"}, ConfigError, "holds a model that no recipe wrote"),
        ({"push_to": "file:{tmp}/foreign"}, ConfigError, "push_to holds a model"),
        ({"output": "{tmp}/file"}, ConfigError, "output must be a folder, got the file"),
        ({"push_to": "file:{tmp}/file"}, ConfigError, "push_to must be a folder"),
        ({"output": "{tmp}/out", "push_to": "file:{tmp}/out/inside"}, ConfigError, "into its own output"),
        ({"backbone": "{tmp}/nowhere"}, ModelNotFoundError, "no model folder, got"),
    ],
)
def test_folders_that_a_training_would_spoil(
    tmp_path: Path, settings: dict[str, str], error: type[Exception], said: str
) -> None:
    for folder in ("nano", "foreign"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").touch()
    (tmp_path / "file").touch()
    named = {"backbone": "{backbone}", "output": "{tmp}/out", **settings}
    values = [f"{key}={value.format(tmp=tmp_path, backbone=tmp_path / 'nano')}" for key, value in named.items()]
    recipe = load_recipe(asset("finetune/recommender.yaml"), values)
    with pytest.raises(error, match=said):
        check_folders(recipe)


@pytest.mark.parametrize("recipe", ["recommender", "user", "tools", "calrec", "lettingo", "semantic_ids"])
def test_every_script_looks_at_its_folders(recipe: str, mini_folder: Path) -> None:
    path = asset(f"finetune/{recipe}.yaml")
    script = load_file(asset(f"finetune/{load_recipe(path).script}"), name=f"{recipe}_and_its_folders")
    with pytest.raises(ConfigError, match="output is the backbone itself"):
        script.main(path, [f"backbone={mini_folder}", f"output={mini_folder}"])


def test_records_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "training.json"
    assert read_record(path) is None
    write_record(path, {"loss": float("nan"), "n": 1})
    assert read_record(path) == {"loss": None, "n": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["training.json"]
    path.write_text("{", encoding="utf-8")
    assert read_record(path) is None


def test_a_training_that_diverges_ends_at_once(mini_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"diverged: loss is nan at step \d+ of \d+; lower learning_rate \(it is"):
        _train("recommender", mini_folder, tmp_path / "one", *PLAIN, "learning_rate=1.0e+30", "epochs=20")
    assert not list((tmp_path / "one").glob("adapter_*"))


@pytest.mark.parametrize("setting", ["learning_rate=.inf", "weight_decay=.inf", "learning_rate=.nan"])
def test_numbers_without_end_are_no_settings(setting: str) -> None:
    with pytest.raises(ConfigError, match="finite number"):
        load_recipe(asset("finetune/recommender.yaml"), [setting])


def test_misspelt_layers_are_named(mini_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    for fits in ("all-linear", ["q_proj", "layers.0.mlp.up_proj"], r".*\.(q|v)_proj"):
        check_targets(model, fits)
    for wrong, said in (
        (["q_proj", "qproj"], "got .'q_proj', 'qproj'.*they are: .*q_proj"),
        ("nope", "nope"),
        ([], ""),
    ):
        with pytest.raises(ConfigError, match=f"lora.target_modules must name layers of the backbone.*{said}"):
            check_targets(model, wrong)
    with pytest.raises(ConfigError, match="no regular expression"):
        check_targets(model, "(")


def test_a_misspelt_setting_shows_those_of_its_group() -> None:
    with pytest.raises(ConfigError, match=r"Known keys of lora: rank, alpha, dropout, target_modules$"):
        load_recipe(asset("finetune/recommender.yaml"), ["lora.rnk=3"])
    with pytest.raises(ConfigError) as caught:
        load_recipe(asset("finetune/calrec.yaml"), ["stages=both"])
    assert "got {" not in str(caught.value)


def test_a_script_by_itself_tells_errors_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverged(*_: Any) -> None:
        raise ModelError("it\ndiverged")

    script = load_file(asset("finetune/sft.py"), name="sft_by_itself")
    for main, recipe, code, said in (
        (script.main, "nowhere.yaml", 2, "error: no recipe file, got 'nowhere.yaml'"),
        (diverged, "recommender", 1, "error: it diverged\n"),
    ):
        monkeypatch.setattr(sys, "argv", ["sft.py", recipe])
        with pytest.raises(SystemExit) as caught:
            run_script(main, None)
        assert caught.value.code == code
        assert capsys.readouterr().err.startswith(said)


def test_weights_that_diverged_are_not_saved(mini_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}]

    def collate(part: Any) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([row[name] for row in part]) for name in ("input_ids", "labels")}

    with pytest.raises(ModelError, match="loss of held-out labels is nan"):
        check_labels(model, collate, rows, seed=0)
