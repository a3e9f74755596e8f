"""The whole of `finetune/lettingo.py` on a small nano: start, exploration, evaluation, alignment, resuming."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from llmrec.assets import asset, load_file
from llmrec.data.dataset import Dataset
from llmrec.errors import ConfigError, DataError
from llmrec.lm.adapters import check_adapter, content_hash
from llmrec.lm.hardware import choose
from llmrec.lm.local import LocalLM
from llmrec.lm.protocol import Sampling
from llmrec.lm.scripted import RecordingLM, ScriptedLM
from llmrec.seeding import rng
from llmrec.training.examples import IGNORED
from llmrec.training.folders import CHECKPOINTS
from llmrec.training.lettingo.call_log import CallLog
from llmrec.training.lettingo.engines import Engine, Player, open_engines
from llmrec.training.lettingo.explore import Writer, written
from llmrec.training.lettingo.pairs import Pair, PairFacts
from llmrec.training.lettingo.prompts import ProfilePrompts
from llmrec.training.lettingo.recipe import LettingoRecipe, named, stages_of
from llmrec.training.lettingo.stages import PROFILES, VERDICTS, explore_and_judge, set_stage
from llmrec.training.lettingo.start import start_adapters, start_data
from llmrec.training.lettingo.styles import STYLES
from llmrec.training.lettingo.windows import Histories, LabelSettings, user_groups
from tests.training.small_lettingo import small_recipe


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
        record: dict[str, Any] = script.run(small_recipe(mini_folder, out), films)
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
    recipe = small_recipe(
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


def test_a_stage_of_other_pairs_is_trained_again(
    done: tuple[Path, dict[str, Any]], films: Dataset, mini_folder: Path, script: ModuleType, tmp_path: Path
) -> None:
    """Killed in its second stage and started again, when the engines have come to other verdicts: both are trained."""
    recipe = small_recipe(
        mini_folder,
        tmp_path / "curriculum",
        f"work={done[0] / 'work'}",
        "curriculum=true",
        "curriculum_settings={tie: 0, stages: 2}",
    )
    train_stage, explore_and_judge, calls = script.train_stage, script.explore_and_judge, []

    def killed_in_second(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["first_step"])
        if len(calls) == 2:
            raise RuntimeError("killed")
        return train_stage(*args, **kwargs)

    async def other_verdicts(*args: Any) -> Any:
        pairs, found = await explore_and_judge(*args)
        return [pair._replace(chosen=pair.rejected, rejected=pair.chosen) for pair in pairs], found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "train_stage", killed_in_second)
        with pytest.raises(RuntimeError, match="killed"):
            script.run(recipe, films)
        patch.setattr(script, "explore_and_judge", other_verdicts)
        script.run(recipe, films)
    assert calls == [0, calls[1], 0, calls[1]]


def test_pairs_for_validation_that_are_all_too_long_are_said_and_do_without(
    done: tuple[Path, dict[str, Any]],
    films: Dataset,
    mini_folder: Path,
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def long(pairs: Sequence[Pair], **kwargs: Any) -> tuple[list[Pair], list[Pair]]:
        return list(pairs), [pairs[0]._replace(chosen="much " * 400)]

    monkeypatch.setattr(script, "held_out", long)
    recipe = small_recipe(mini_folder, tmp_path, f"work={done[0] / 'work'}", "dpo.method=sft")
    record = script.run(recipe, films)
    assert record["n_validation"] == 0
    assert record["best"] is None
    assert any("nothing is watched" in text for text in record["warnings"])
    assert "warning: none of 1 pairs for validation fits into max_tokens=320" in capsys.readouterr().err
    # method sft has loss on the chosen profiles and their ends alone
    assert record["n_supervised"] == pytest.approx(record["n_train"] * (record["profile_tokens"]["chosen"] + 1))


def test_a_predictor_that_ignores_profiles_is_doubted_before_anything_is_trained(
    done: tuple[Path, dict[str, Any]],
    films: Dataset,
    mini_folder: Path,
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def unanimous(*_: Any) -> Any:
        return [], PairFacts(14, 28, 28, 0, 0.0, {})

    monkeypatch.setattr(script, "explore_and_judge", unanimous)
    with pytest.raises(DataError, match="no user has both"):
        script.run(small_recipe(mini_folder, tmp_path, f"work={done[0] / 'work'}"), films)
    assert "warning: 0.00 pairs a question from 4 profiles" in capsys.readouterr().err
    enough = done[1]["exploration"]["pairs"] / done[1]["exploration"]["questions"] >= 2 * 4 * 3 / 90
    assert bool(done[1]["warnings"]) == (not enough)


def test_processes_wait_for_the_first_one_for_days(
    films: Dataset, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches torch when `accelerate launch` started two processes on the CPU; its own limit is half an hour."""
    from accelerate import PartialState

    class Asked(Exception):
        pass

    found: dict[str, Any] = {}

    def init(**kwargs: Any) -> None:
        found.update(kwargs)
        raise Asked

    launched = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("torch.distributed.init_process_group", init)
    PartialState._reset_state()
    try:
        with pytest.raises(Asked):
            script.run(small_recipe("x", tmp_path), films)
    finally:
        PartialState._reset_state()
    assert found["world_size"] == 2
    assert found["timeout"] >= timedelta(days=2)


class _WouldTrain(Exception):
    """Stands for the training of a start adapter."""


def _start_folder(recipe: LettingoRecipe, films: Dataset, users: list[int], work: Path) -> str:
    """Where the first start adapter of a recipe is trained; those that are there are taken."""

    def stop(own: Any, *_: Any) -> None:
        raise _WouldTrain(own.output)

    with pytest.MonkeyPatch.context() as patch:
        module = "llmrec.training.lettingo.start"
        patch.setattr(f"{module}.load_for_training", lambda *_: SimpleNamespace(name="nano"))
        patch.setattr(f"{module}.start_data", lambda *_: None)
        patch.setattr(f"{module}.checkpoint_folder", stop)
        hardware = choose(purpose="training", device="cpu", dtype="float32")
        with pytest.raises(_WouldTrain) as stopped:
            start_adapters(recipe, films, Histories(films, recipe.labels), users, work, hardware)
    return str(stopped.value)


def test_a_start_adapter_that_has_seen_a_user_of_the_test_is_not_taken(films: Dataset, tmp_path: Path) -> None:
    """With fewer users than asked for, the size of the test moves the borders of all groups."""
    histories = Histories(films, LabelSettings())
    users, folders = [], []
    for n_test in (300, 1200):
        recipe = small_recipe("x", tmp_path / "out", f"users={{start: 1200, align: 600, test: {n_test}}}")
        groups = user_groups(histories, films.interactions.n_users, recipe.windows, recipe.users, recipe.seed)
        users.append((set(groups.start), {window.user for window in (*groups.align, *groups.test)}))
        folders.append(_start_folder(recipe, films, groups.start, tmp_path))
    assert users[0][0] & users[1][1]  # they would leak
    assert folders[0] != folders[1]


@pytest.mark.parametrize(
    ("change", "writer", "predictor"),
    [
        ("policy_style=chat", True, False),
        ("predictor={adapter: start, style: chat}", False, True),
        ("start.writer_examples=41", True, False),
        ("start.predictor_examples=41", False, True),
        ("start.styles={full: 1}", True, True),
        ("start.learning_rate=1e-3", True, True),
        ("windows.recent=4", True, True),
        ("lora.rank=8", True, True),
        ("schedule=linear", True, True),
        ("seed=1", True, True),
        ("dpo.beta=0.3", False, False),
        ("explore.candidates=5", False, False),
        ("output=elsewhere", False, False),
        ("learning_rate=1e-5", False, False),
    ],
)
def test_a_start_adapter_is_known_by_what_it_learns_from(
    films: Dataset, tmp_path: Path, change: str, writer: bool, predictor: bool
) -> None:
    users = list(range(50))
    for differs, roles in ((writer, ()), (predictor, ("writers=[{name: own, style: raw}]",))):
        before = _start_folder(small_recipe("x", tmp_path / "out", *roles), films, users, tmp_path)
        after = _start_folder(small_recipe("x", tmp_path / "out", *roles, change), films, users, tmp_path)
        assert (before != after) == differs
        assert _start_folder(small_recipe("x", tmp_path / "out", *roles), films, users[:-1], tmp_path) != before


async def test_a_writer_of_another_backbone_joins_the_exploration(
    films: Dataset, mini_folder: Path, tmp_path: Path
) -> None:
    """A recording stands for the other model, as an endpoint would."""
    path = tmp_path / "other.jsonl"
    recipe = small_recipe(
        *(mini_folder, tmp_path, "start=null", "users.start=0", "predictor={style: raw}"),
        f'writers=[{{name: own, style: raw}}, {{name: other, backbone: "scripted:{path}", style: raw}}]',
    )
    groups = user_groups(
        Histories(films, recipe.labels), films.interactions.n_users, recipe.windows, recipe.users, recipe.seed
    )
    other = RecordingLM(ScriptedLM(lambda call: f" Other {call.sample}.", name="other model"), path)
    await written(
        groups.align,
        Writer(recipe.writers[1], other, None, "recorded"),
        ProfilePrompts(films, recipe.item_fields),
        CallLog(tmp_path / "recorded.jsonl"),
        n=2,
        max_tokens=recipe.explore.max_tokens,
        seed=recipe.seed,
    )
    stage = set_stage(recipe, films, {}, tmp_path / "work")
    assert [writer.lm.name for writer in stage.writers][1] == "other model"
    assert len({writer.identity for writer in stage.writers}) == 2
    pairs, found = await explore_and_judge(recipe, stage, groups.align)
    n = found.questions
    assert n == 28
    assert found.writers["other"]["answers"] == 2 * n
    assert 0 < found.writers["own"]["answers"] <= 2 * n
    by_other = {side: {getattr(pair, side) for pair in pairs} & {"Other 0.", "Other 1."} for side in Pair._fields[1:3]}
    assert by_other["chosen"]
    assert by_other["rejected"]
    assert {text for pair in pairs for text in pair[1:3]} - {"Other 0.", "Other 1."}  # and texts of its own


def test_start_examples_teach_labels_and_profiles_alone(films: Dataset, mini_folder: Path, tmp_path: Path) -> None:
    recipe = small_recipe(
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


def test_the_stages_of_asmall_recipe(tmp_path: Path) -> None:
    pairs = [Pair(user, "good", f"bad {n}", 0.1 * n) for user in range(3) for n in range(4)]
    assert stages_of(small_recipe("x", tmp_path), pairs) == [pairs]
    assert [len(stage) for stage in stages_of(small_recipe("x", tmp_path, "dpo.method=sft"), pairs)] == [3]
    easy_first = stages_of(small_recipe("x", tmp_path, "curriculum=true"), pairs)
    assert [{round(pair.gap, 1) for pair in stage} for stage in easy_first] == [{0.3}, {0.2}, {0.1}]
    shuffled = stages_of(small_recipe("x", tmp_path, "dpo.shuffled=true"), pairs)[0]
    assert {pair.chosen for pair in shuffled} > {"good"}
    hard_first = stages_of(
        small_recipe("x", tmp_path, "curriculum=true", "curriculum_settings.order=hard_first"), pairs
    )
    assert hard_first == easy_first[::-1]
    mixed = stages_of(small_recipe("x", tmp_path, "curriculum=true", "curriculum_settings.order=shuffled"), pairs)
    assert sorted(mixed, key=easy_first.index) == easy_first != mixed


def test_a_shuffled_curriculum_has_the_pairs_of_the_true_one_half_of_them_swapped(tmp_path: Path) -> None:
    pairs = [Pair(user, "good", f"bad {n}", 0.1 * n) for user in range(60) for n in range(4)]
    true = stages_of(small_recipe("x", tmp_path, "curriculum=true"), pairs)
    control = stages_of(small_recipe("x", tmp_path, "curriculum=true", "dpo.shuffled=true"), pairs)
    assert [len(stage) for stage in control] == [60, 60, 60]
    for own, stage in zip(control, true, strict=True):
        swapped = [pair.chosen != "good" for pair in own]
        assert 18 <= sum(swapped) <= 42  # half of 60, within three standard deviations
        back = [
            pair._replace(chosen=pair.rejected, rejected=pair.chosen, gap=-pair.gap) if other else pair
            for pair, other in zip(own, swapped, strict=True)
        ]
        assert back == stage


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
        small_recipe("x", tmp_path, change)


def test_a_curriculum_of_right_profiles_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="curriculum: false"):
        small_recipe("x", tmp_path, "curriculum=true", "dpo.method=sft")


def test_a_chat_model_needs_no_start(tmp_path: Path) -> None:
    """The settings that the YAML names for a chat model hold together."""
    recipe = small_recipe(
        *("Qwen/Qwen3-8B", tmp_path, "start=null", "users.start=0", "policy_style=chat", "predictor={style: chat}"),
        'writers=[{name: own}, {name: other, backbone: "endpoint:http://127.0.0.1:1/v1"}]',
        "windows={older: [30, 50, 70]}",
    )
    assert recipe.writers[1].temperature == 1.0
    assert recipe.windows.recent == 10
    assert named(recipe.model_copy(update={"work": str(tmp_path)})).work is None


def test_records_name_no_folder_of_this_machine(mini_folder: Path, tmp_path: Path) -> None:
    recipe = small_recipe(mini_folder, tmp_path, f"writers=[{{name: a, backbone: {mini_folder}, adapter: start}}]")
    assert str(mini_folder.parent) not in named(recipe).model_dump_json(exclude={"backbone", "output"})


def test_every_style_is_in_thesmall_recipe(films: Dataset, tmp_path: Path) -> None:
    recipe = small_recipe("x", tmp_path)
    assert recipe.start is not None
    assert set(recipe.start.styles) == set(STYLES)
    assert ProfilePrompts(films, recipe.item_fields).write([], style="raw")
