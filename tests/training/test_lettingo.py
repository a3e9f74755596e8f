"""The whole of `finetune/lettingo.py` on a small nano: start, exploration, evaluation, alignment, resuming."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import AutoTokenizer

from llmrec.assets import asset, load_file
from llmrec.data.dataset import Dataset
from llmrec.errors import ConfigError
from llmrec.lm.adapters import check_adapter, content_hash
from llmrec.lm.hardware import choose
from llmrec.lm.local import LocalLM
from llmrec.lm.protocol import Sampling
from llmrec.seeding import rng
from llmrec.training.examples import IGNORED
from llmrec.training.lettingo.engines import Engine, Player, open_engines
from llmrec.training.lettingo.pairs import Pair
from llmrec.training.lettingo.prompts import ProfilePrompts
from llmrec.training.lettingo.recipe import LettingoRecipe, named, stages_of
from llmrec.training.lettingo.stages import PROFILES, VERDICTS
from llmrec.training.lettingo.start import start_data
from llmrec.training.lettingo.styles import STYLES
from llmrec.training.lettingo.windows import Histories, LabelSettings
from llmrec.training.recipe import load_recipe
from llmrec.training.run_folder import CHECKPOINTS

SMALL = (
    *("users={start: 120, align: 14, test: 10}", "windows={recent: 3, older: [8], at_least: 8, targets: 2}"),
    *("start.writer_examples=40", "start.predictor_examples=40", "start.validation_examples=10"),
    *("explore={candidates: 4, max_tokens: 16}", "max_tokens=320", "evaluations=2"),
    *("item_fields.target=[topics]", "lora.rank=4", "batch_size=8", "learning_rate=3e-3"),
)


def _recipe(backbone: Path | str, output: Path, *changes: str) -> LettingoRecipe:
    recipe = load_recipe(
        asset("finetune/lettingo.yaml"), [f"backbone={backbone}", f"output={output}", *SMALL, *changes]
    )
    assert isinstance(recipe, LettingoRecipe)
    return recipe


class _Judge:
    """Answers by a hash of the question, so that profiles matter; the small nano always says the same label."""

    async def score(self, prompt: str, continuations: Sequence[str], *, adapter: str | None = None) -> list[float]:
        return [float(score) for score in rng(0, "judge", prompt).normal(size=len(continuations))]


@pytest.fixture(autouse=True, scope="module")
def judge() -> Iterator[None]:
    """Puts the judge in the predictor's place; writers stay real."""

    def with_judge(players: Any, *, seed: int = 0) -> dict[str, Engine]:
        lm: Any = _Judge()
        return open_engines(players, seed=seed) | {"predictor": Engine(lm, None, "judge")}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmrec.training.lettingo.stages.open_engines", with_judge)
        yield


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_file(asset("finetune/lettingo.py"), name="lettingo_under_test")


@pytest.fixture(scope="module")
def done(
    films: Dataset, mini_folder: Path, script: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A finished run: its output folder and facts."""
    out = tmp_path_factory.mktemp("lettingo") / "dpo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMREC_COMPILE", "0")
        patch.setenv("LLMREC_DTYPE", "float32")
        record: dict[str, Any] = script.run(_recipe(mini_folder, out), films)
    return out, record


async def test_a_run_leaves_an_adapter_its_record_and_its_curves(
    done: tuple[Path, dict[str, Any]], mini_folder: Path
) -> None:
    out, record = done
    names = {path.name for path in out.iterdir()}
    assert names >= {"adapter_model.safetensors", "README.md", "training.json", "curves.png", "backbone.json", "work"}
    assert CHECKPOINTS not in names
    assert json.loads((out / "training.json").read_text(encoding="utf-8"))["exploration"] == record["exploration"]
    found = record["exploration"]
    assert (found["users"], found["questions"]) == (14, 28)
    assert 0 < found["pairs"] == record["n_train"] + record["n_validation"]
    assert str(out.parent) not in (out / "README.md").read_text(encoding="utf-8")
    check_adapter("profile", out, base_content_hash=content_hash(mini_folder))
    lm = LocalLM.from_folder(mini_folder, adapters={"profile": out})
    texts = await lm.generate("Profile:", sampling=Sampling(max_tokens=5, temperature=0), adapter="profile")
    assert texts[0].n_tokens > 0


def test_runs_that_share_their_work_ask_nothing_twice(
    done: tuple[Path, dict[str, Any]], films: Dataset, mini_folder: Path, script: ModuleType, tmp_path: Path
) -> None:
    """A curriculum over the same exploration: killed in its second stage, it goes on there."""
    work = done[0] / "work"
    before = {path: path.stat().st_mtime_ns for path in [*work.glob("*.jsonl"), *work.glob("*/*.safetensors")]}
    assert {path.name for path in before} >= {PROFILES, VERDICTS, "adapter_model.safetensors"}
    recipe = _recipe(
        mini_folder,
        tmp_path / "curriculum",
        f"work={work}",
        "curriculum=true",
        "curriculum_settings={tie: 0, stages: 2}",
    )
    train_stage, calls = script.train_stage, []

    def killed_in_second(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["first_step"])
        if len(calls) == 2:
            raise RuntimeError("killed")
        return train_stage(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "train_stage", killed_in_second)
        with pytest.raises(RuntimeError, match="killed"):
            script.run(recipe, films)
        record = script.run(recipe, films)
    assert calls == [0, calls[1], calls[1]]  # the first stage was not trained again
    assert calls[1] > 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = record["exploration"]
    assert found == done[1]["exploration"]
    assert record["n_train"] <= done[1]["n_train"]
    assert set(record["checks"]) == {f"stage {n}: {name}" for n in (1, 2) for name in ("gradients", "frozen")}
    assert set(done[1]["checks"]) == {"gradients", "frozen"}
    losses = [row["validation_loss"] for row in record["curve"] if row.get("validation_margin") == pytest.approx(0)]
    assert losses == pytest.approx([0.693147] * 2, abs=1e-4)  # each stage starts at its own reference


def test_start_examples_teach_labels_and_profiles_alone(films: Dataset, mini_folder: Path, tmp_path: Path) -> None:
    recipe = _recipe(
        mini_folder, tmp_path, "start.blank=0.5", "start.writer_examples=100", "start.predictor_examples=200"
    )
    assert recipe.start is not None
    hardware = choose(purpose="training", device="cpu", dtype="float32")
    from llmrec.lm.pretrained import load_pretrained

    base = load_pretrained(str(mini_folder), hardware)
    histories = Histories(films, LabelSettings())
    users = list(range(200))
    made = {
        role: start_data(role, recipe, recipe.start, films, histories, users, base) for role in ("writer", "predictor")
    }
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)

    def parts(one: Any) -> tuple[str, str]:
        learnt = [label for label in one.labels if label != IGNORED]
        assert one.labels[-len(learnt) :] == learnt  # the end of the example
        return tokenizer.decode(one.input_ids[: -len(learnt)]), tokenizer.decode(learnt)

    writer = [parts(one) for one in made["writer"].train]
    assert all(prompt.endswith("\nProfile:") and text.endswith("<|im_end|>") for prompt, text in writer)
    openings = {text.split()[0] for _, text in writer}
    assert openings == {"Liked", "Prefers", "Mostly"}
    predictor = [parts(one) for one in made["predictor"].train]
    assert {text for _, text in predictor} == {" like", " neutral", " dislike"}
    blank = sum("Profile: unknown\n" in prompt for prompt, _ in predictor) / len(predictor)
    assert 0.4 < blank < 0.6
    assert len(made["predictor"].validation) == 10
    again = start_data("predictor", recipe, recipe.start, films, histories, users, base)
    assert again == made["predictor"]


def test_players_share_an_engine_and_keep_their_identity(done: tuple[Path, dict[str, Any]], mini_folder: Path) -> None:
    adapter = str(done[0])
    both = open_engines({"a": Player(str(mini_folder), adapter), "b": Player(str(mini_folder))})
    assert both["a"].lm is both["b"].lm
    assert both["b"].adapter is None
    assert both["a"].identity != both["b"].identity
    alone = open_engines({"b": Player(str(mini_folder))})["b"]
    assert alone.identity == both["b"].identity  # what else is loaded does not matter
    twice = open_engines({"a": Player(str(mini_folder), adapter), "c": Player(str(mini_folder), adapter)})
    assert twice["a"].adapter == twice["c"].adapter


def test_the_stages_of_a_recipe(tmp_path: Path) -> None:
    pairs = [Pair(user, "good", f"bad {n}", 0.1 * n) for user in range(3) for n in range(4)]
    assert stages_of(_recipe("x", tmp_path), pairs) == [pairs]
    assert [len(stage) for stage in stages_of(_recipe("x", tmp_path, "dpo.method=sft"), pairs)] == [3]
    easy_first = stages_of(_recipe("x", tmp_path, "curriculum=true"), pairs)
    assert [{round(pair.gap, 1) for pair in stage} for stage in easy_first] == [{0.3}, {0.2}, {0.1}]
    shuffled = stages_of(_recipe("x", tmp_path, "dpo.shuffled=true"), pairs)[0]
    assert {pair.chosen for pair in shuffled} > {"good"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("start=null", "adapter 'start' needs the settings under start"),
        ("users={start: 0, align: 10, test: 10}", "set users.start above 0"),
        ("start.styles={haiku: 1}", "unknown styles haiku"),
        ("writers=[{name: a, adapter: start}, {name: a}]", "different names"),
        ("labels={dislike_up_to: 4}", "below like_from"),
        ("explore.kandidates=3", "Extra inputs"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_loads(change: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        _recipe("x", tmp_path, change)


def test_a_curriculum_of_right_profiles_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="curriculum: false"):
        _recipe("x", tmp_path, "curriculum=true", "dpo.method=sft")


def test_a_chat_model_needs_no_start(tmp_path: Path) -> None:
    """The settings that the YAML names for a chat model hold together."""
    recipe = _recipe(
        *("Qwen/Qwen3-8B", tmp_path, "start=null", "users.start=0", "policy_style=chat", "predictor={style: chat}"),
        'writers=[{name: own}, {name: other, backbone: "endpoint:http://127.0.0.1:1/v1"}]',
        "windows={older: [30, 50, 70]}",
    )
    assert recipe.writers[1].temperature == 1.0
    assert recipe.windows.recent == 10
    assert named(recipe.model_copy(update={"work": str(tmp_path)})).work is None


def test_records_name_no_folder_of_this_machine(mini_folder: Path, tmp_path: Path) -> None:
    recipe = _recipe(mini_folder, tmp_path, f"writers=[{{name: a, backbone: {mini_folder}, adapter: start}}]")
    assert str(mini_folder.parent) not in named(recipe).model_dump_json(exclude={"backbone", "output"})


def test_every_style_is_in_the_recipe(films: Dataset, tmp_path: Path) -> None:
    recipe = _recipe("x", tmp_path)
    assert recipe.start is not None
    assert set(recipe.start.styles) == set(STYLES)
    assert ProfilePrompts(films, recipe.item_fields).write([], style="raw")
