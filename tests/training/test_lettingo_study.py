"""eval/lettingo.py: which arms it takes, what its controls are made from, who judges, what stands above its table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from llmrec.assets import asset, load_file
from llmrec.data.dataset import Dataset
from llmrec.errors import ConfigError
from llmrec.lm.adapters import content_hash
from llmrec.lm.hardware import choose
from llmrec.lm.scripted import ScriptedLM
from llmrec.training.folders import RECORD
from llmrec.training.lettingo.engines import Engine
from llmrec.training.lettingo.prompts import item_line
from llmrec.training.lettingo.recipe import LettingoRecipe, named
from llmrec.training.lettingo.start import start_adapters
from llmrec.training.lettingo.windows import Groups, Histories, Rated, Window, user_groups
from llmrec.training.recipe import load_recipe
from llmrec.training.run_folder import without_paths

SMALL = (
    *("users={start: 120, align: 14, test: 10}", "windows={recent: 3, older: [8], at_least: 8, targets: 2}"),
    *("start.predictor_examples=40", "start.validation_examples=10", "max_tokens=320", "evaluations=1"),
    *("item_fields={older: [title], recent: [topics], target: [topics]}", "lora.rank=4"),
)


def _recipe(*overrides: str) -> LettingoRecipe:
    recipe = load_recipe(asset("finetune/lettingo.yaml"), [*SMALL, *overrides])
    assert isinstance(recipe, LettingoRecipe)
    return recipe


def _groups(recipe: LettingoRecipe, films: Dataset) -> Groups:
    histories = Histories(films, recipe.labels)
    return user_groups(histories, films.interactions.n_users, recipe.windows, recipe.users, recipe.seed)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_file(asset("eval/lettingo.py"), name="llmrec_eval_lettingo")


class _Training:
    """Stands for `finetune/lettingo.py`: writes the record alone, and counts."""

    def __init__(self) -> None:
        self.outputs: list[str] = []

    def run(self, recipe: LettingoRecipe, dataset: Dataset) -> None:
        self.outputs.append(Path(recipe.output).name)
        Path(recipe.output).mkdir(parents=True)
        backbone = Path(recipe.backbone)
        base = f"{backbone.name}@{content_hash(backbone)[:12]}" if backbone.is_dir() else recipe.backbone
        plain = without_paths(named(recipe)).model_dump()
        record = {"recipe": plain, "dataset_hash": dataset.content_hash, "base": base}
        (Path(recipe.output) / RECORD).write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture
def training(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> _Training:
    made = _Training()
    monkeypatch.setattr(script, "load_file", lambda *_, **__: made)
    return made


def test_arms_that_are_there_are_taken(
    script: ModuleType, training: _Training, films: Dataset, mini_folder: Path, tmp_path: Path
) -> None:
    """The same settings; an arm that is missing is trained beside them."""
    recipe = _recipe(f"backbone={mini_folder}")
    assert set(script.train(recipe, films, tmp_path, ["dpo"])) == {"dpo"}
    assert set(script.train(recipe, films, tmp_path, ["dpo", "curriculum-shuffled"])) == {"dpo", "curriculum-shuffled"}
    assert training.outputs == ["dpo", "curriculum-shuffled"]


def test_records_of_earlier_versions_are_taken_at_their_defaults(
    script: ModuleType, training: _Training, films: Dataset, tmp_path: Path
) -> None:
    script.train(_recipe(), films, tmp_path, ["dpo"])
    path = tmp_path / "dpo" / RECORD
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["recipe"]["curriculum_settings"]["order"], record["dataset_hash"]
    path.write_text(json.dumps(record), encoding="utf-8")
    script.train(_recipe(), films, tmp_path, ["dpo"])
    assert training.outputs == ["dpo"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("dpo.beta=0.3", r"dpo\.beta=0\.1, got 0\.3; name another --out"),
        ("users.test=11", r"users.test=10, got 11"),
        ("start.styles={full: 1}", r"start.styles.seen=1.0, got None"),
        ("writers=[{name: own, adapter: start, style: raw, temperature: 0.5}]", r"writers=\[.*'temperature': 0.5"),
    ],
)
def test_an_arm_of_other_settings_is_refused_before_anything_is_trained(
    script: ModuleType, training: _Training, films: Dataset, tmp_path: Path, change: str, message: str
) -> None:
    script.train(_recipe(), films, tmp_path, ["dpo"])
    with pytest.raises(ConfigError, match=message):
        script.train(_recipe(change), films, tmp_path, ["sft", "dpo"])
    assert training.outputs == ["dpo"]


def test_an_arm_of_other_data_is_refused(
    script: ModuleType, training: _Training, films: Dataset, tmp_path: Path
) -> None:
    other: Any = SimpleNamespace(content_hash="other", name=films.name)
    script.train(_recipe(), other, tmp_path, ["dpo"])
    with pytest.raises(ConfigError, match="other data of the same name"):
        script.train(_recipe(), films, tmp_path, ["dpo"])


def test_an_arm_of_a_backbone_that_was_trained_again_is_refused(
    script: ModuleType, training: _Training, films: Dataset, mini_folder: Path, tmp_path: Path
) -> None:
    backbone = tmp_path / "backbone"
    shutil.copytree(mini_folder, backbone)
    recipe = _recipe(f"backbone={backbone}")
    script.train(recipe, films, tmp_path, ["dpo"])
    config = json.loads((backbone / "config.json").read_text(encoding="utf-8"))
    (backbone / "config.json").write_text(json.dumps(config | {"transformers_version": "0"}), encoding="utf-8")
    with pytest.raises(ConfigError, match="other weights of the backbone"):
        script.train(recipe, films, tmp_path, ["dpo"])


def test_every_trained_arm_is_a_recipe_with_a_title(script: ModuleType, tmp_path: Path) -> None:
    recipes = {
        arm: script.changed(_recipe(), change, output=tmp_path / arm, work=tmp_path)
        for arm, change in script.TRAINED.items()
    }
    assert set(recipes) <= set(script.TITLES)
    settings = {arm: recipe.model_dump_json(exclude={"output"}) for arm, recipe in recipes.items()}
    assert len(set(settings.values())) == len(settings)
    assert recipes["curriculum"].curriculum_settings.order == "easy_first"
    assert recipes["curriculum-shuffled"].curriculum_settings.order == "shuffled"
    assert not recipes["dpo"].curriculum  # all pairs at once: the baseline of the curricula


async def test_controls_are_made_of_other_users(
    script: ModuleType, films: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer repeats its prompt, so that profiles say what they were written from."""

    def open_engines(players: Mapping[str, Any], **_: Any) -> dict[str, Engine]:
        lm = ScriptedLM(lambda call: f"{call.adapter}\n{call.text}", adapters=list(players))
        return {arm: Engine(lm, arm, arm) for arm in players}

    monkeypatch.setattr(script, "open_engines", open_engines)
    recipe = _recipe()
    windows = _groups(recipe, films).test
    profiles = await script.write_profiles(recipe, films, windows, {"untuned": None, "dpo": "x"}, tmp_path)
    assert set(profiles) == {"none", "untuned", "dpo", "other user", "random items", "rules", "planted"}
    assert all(len(texts) == len(windows) == 10 for texts in profiles.values())
    assert len(set(profiles["dpo"])) == 10
    assert sorted(profiles["other user"]) == sorted(profiles["dpo"])  # everybody's, each once
    assert all(other != own for other, own in zip(profiles["other user"], profiles["dpo"], strict=True))

    def shown(window: Window) -> list[str]:
        return [f"{item_line(films.catalogue, one.item, ['title'])}: {one.label}" for one in window.older]

    pool = {line for window in windows for line in shown(window)}
    foreign = 0
    for window, own, text in zip(windows, profiles["dpo"], profiles["random items"], strict=True):
        assert own.splitlines()[0] == text.splitlines()[0] == "dpo"
        assert own.splitlines()[2:-1] == shown(window)
        lines = text.splitlines()[2:-1]
        assert len(lines) == len(window.older)
        assert set(lines) <= pool
        foreign += len(set(lines) - set(shown(window)))
    assert foreign > 0.6 * sum(len(window.older) for window in windows)  # nine in ten come from others


def test_golden_majority_is_that_of_the_alignment(script: ModuleType) -> None:
    """Of the users of the alignment 2 of 3 labels are dislike; the test, where most are like, has no say."""
    align = [Window(5, (), (), (Rated(1, "dislike"), Rated(2, "dislike"))), Window(6, (), (), (Rated(1, "like"),))]
    test = [Window(0, (), (), (Rated(1, "like"), Rated(2, "like"))), Window(1, (), (), (Rated(3, "dislike"),))]
    found = script.majority(Groups([], align, test))
    assert [[one.label for one in own] for own in found] == [["dislike", "dislike"], ["dislike"]]
    assert [[one.correct for one in own] for own in found] == [[False, False], [True]]


def test_the_second_predictor_is_another_adapter_from_the_same_users(
    script: ModuleType, films: Dataset, mini_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _recipe(f"backbone={mini_folder}", f"output={tmp_path}", "writers=[{name: own, style: raw}]")
    histories, groups = Histories(films, recipe.labels), _groups(recipe, films)
    hardware = choose(purpose="training", device="cpu", dtype="float32")
    start = start_adapters(recipe, films, histories, groups.start, tmp_path / "work", hardware)
    open_engines, opened = script.open_engines, []

    def noted(players: Mapping[str, Any], **kwargs: Any) -> dict[str, Engine]:
        opened.append(players["judge"].adapter)
        engines: dict[str, Engine] = open_engines(players, **kwargs)
        return engines

    monkeypatch.setattr(script, "open_engines", noted)
    found = script.predictors(recipe, films, histories, groups, tmp_path, start, second=True)
    assert [title for title, _ in found] == ["the predictor of the alignment", "a second predictor"]
    assert opened[0] == str(start["predictor"])
    assert content_hash(Path(opened[1])) != content_hash(Path(opened[0]))
    seeds = [json.loads((Path(one) / RECORD).read_text(encoding="utf-8"))["recipe"]["seed"] for one in opened]
    assert seeds == [0, 1]
    assert len(script.predictors(recipe, films, histories, groups, tmp_path, start, second=False)) == 1
    other = recipe.model_copy(update={"predictor": recipe.predictor.model_copy(update={"adapter": None})})
    with pytest.raises(ConfigError, match=r"predictor\.adapter=start"):
        script.predictors(other, films, histories, groups, tmp_path, start, second=True)


def test_the_heading_counts_labels_pairs_and_every_writers_right_answers(script: ModuleType) -> None:
    recipe = _recipe("explore.candidates=10")
    test = [Window(0, (), (), (Rated(1, "like"), Rated(2, "like"))), Window(1, (), (), (Rated(1, "dislike"),))]
    found = {
        "pairs": 7,
        "pairs_per_user": 0.7,
        "unanimous": 3,
        "questions": 10,
        "writers": {"own": {"answers": 50, "right": 30}, "other": {"answers": 40, "right": 10}},
    }
    record = {"n_train": 6, "seconds": 12.3, "exploration": found}
    text = script.heading(recipe, Groups([5], [test[0]], test), {"dpo": record})
    assert "2 test users, 3 questions (dislike 33.3%, neutral 0.0%, like 66.7%)" in text
    assert "- DPO: 6 rows of 7 pairs (0.70 a user, 3 of 10 questions unanimous), 12 s" in text
    assert text.endswith("right answers by writer: own 30 of 50, other 10 of 40")
    more = {"warnings": ["hardly any"], "profile_tokens": {"chosen": 12.04, "rejected": 9}}
    doubted = script.heading(recipe, Groups([5], [test[0]], test), {"dpo": record | more})
    assert doubted == f"{text}\n  tokens of profiles: chosen 12.0, rejected 9.0\n  warning: hardly any"
