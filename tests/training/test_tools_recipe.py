"""finetune/tools.py: one adapter for each job, which the agent then uses; and what a recipe makes of the turns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from llmrec.assets import asset, load_file
from llmrec.cli.main import app
from llmrec.lm.adapters import AdapterStore, content_hash, read_stamp
from llmrec.lm.loading import load_backbone
from llmrec.roles.orchestrator import ToolAdapters, ToolBrain
from llmrec.roles.recommender import RecommenderConfig
from llmrec.roles.serving import brain_for
from llmrec.training.examples import IGNORED
from llmrec.training.recipe import load_recipe_of
from llmrec.training.tools.data import ToolTurns, adapter_data, adapter_tools, conversations
from llmrec.training.tools.recipe import ToolsRecipe
from llmrec.training.tools.trajectories import Conversation, Step

RECIPE = asset("finetune/tools.yaml")
SMALL = [
    "mode=decoupled",
    "turns=24",
    "validation_turns=8",
    "evaluations=1",
    "minimum_calls=10",
    "acting_share=1.0",
    "register_adapters=true",
]


@pytest.fixture(scope="module")
def trained(mini_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Backbone, output and facts of a short run."""
    folder = tmp_path_factory.mktemp("tools")
    backbone, output = folder / "backbone", folder / "adapters"
    shutil.copytree(mini_folder, backbone)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMREC_COMPILE", "0")
        patch.setenv("LLMREC_DTYPE", "float32")
        patch.setenv("LLMREC_CACHE", str(folder / "cache"))
        script = load_file(asset("finetune/tools.py"), name="tools_under_test")
        facts = script.main(RECIPE, [f"backbone={backbone}", f"output={output}", *SMALL])["adapters"]
        for name in facts:
            assert not (output / name / "checkpoints").exists()
        further = (f"backbone={backbone}", f"output={output}", f"push_to=file:{folder / 'remote'}")
        settings = [f"--set={one}" for one in (*further, *SMALL)]
        again = CliRunner().invoke(app, ["finetune", str(RECIPE), *settings, "--json"])
        assert again.exit_code == 0, again.stderr
        answer = json.loads(again.stdout)
        assert {name: one["seconds"] for name, one in answer["adapters"].items()} == {
            name: one["seconds"] for name, one in facts.items()
        }  # finished adapters are not trained again
        assert answer["n_train"] == sum(one["n_train"] for one in facts.values())
        shown = CliRunner().invoke(app, ["finetune", str(RECIPE), *settings])
        assert shown.exit_code == 0, shown.stderr
        assert all(f"adapter {name}: " in shown.stdout for name in facts)
    return backbone, output, facts


def test_every_adapter_is_trained_stamped_and_entered(trained: tuple[Path, Path, dict[str, Any]]) -> None:
    backbone, output, facts = trained
    assert set(facts) == {"tool_select", "tool_read", "tool_args"} | (set(facts) & {"tool_search", "tool_rank"})
    assert set(AdapterStore.load(backbone).folders()) >= set(facts)
    for name, one in facts.items():
        assert read_stamp(output / name) == content_hash(backbone)
        record = json.loads((output / name / "training.json").read_text(encoding="utf-8"))
        assert record["n_supervised"] == one["n_supervised"] > 0
        assert set(record["checks"]) == {"gradients", "packing", "frozen", "labels"}
        assert record["checks"]["frozen"]["compared"]
        assert (output / name / "curves.png").stat().st_size > 5000
        assert f"{name} adapter" in (output / name / "README.md").read_text(encoding="utf-8")
    assert facts["tool_select"]["n_supervised"] < facts["tool_select"]["n_tokens"] / 10


def test_every_adapter_is_pushed_into_a_folder_of_its_own(trained: tuple[Path, Path, dict[str, Any]]) -> None:
    """By the same command once more: what is finished is not trained again, and where it goes changes nothing."""
    _, output, facts = trained
    for name in facts:
        pushed = output.parent / "remote" / name / "adapter_model.safetensors"
        assert pushed.read_bytes() == (output / name / "adapter_model.safetensors").read_bytes()


def test_another_process_of_a_finished_run_neither_pushes_nor_enters(
    trained: tuple[Path, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process finds the finished records; the first one alone writes."""
    backbone, output, facts = trained
    script = load_file(asset("finetune/tools.py"), name="tools_under_test")
    monkeypatch.setattr(script, "make_packed_trainer", lambda *_, **__: pytest.fail("a finished adapter was trained"))
    remote, entered = tmp_path / "remote", (backbone / "adapters.json").read_text(encoding="utf-8")
    settings = [f"backbone={backbone}", f"output={output}", f"push_to=file:{remote}", *SMALL]
    (backbone / "adapters.json").unlink()
    try:
        with monkeypatch.context() as patch:
            patch.setattr("accelerate.PartialState.is_main_process", False)
            assert set(script.main(RECIPE, settings)["adapters"]) == set(facts)
            assert not remote.exists()
            assert not (backbone / "adapters.json").exists()
        script.main(RECIPE, settings)
        assert sorted(path.name for path in remote.iterdir()) == sorted(facts)
        assert set(AdapterStore.load(backbone)) == set(facts)
    finally:
        (backbone / "adapters.json").write_text(entered, encoding="utf-8")


def test_the_agent_of_this_backbone_calls_tools_with_them(trained: tuple[Path, Path, dict[str, Any]]) -> None:
    lm = load_backbone(trained[0], device="cpu", dtype="float32")
    brain = brain_for(RecommenderConfig(), lm, noun="film")
    assert isinstance(brain, ToolBrain)
    adapters = ToolAdapters.of(lm.capabilities.adapters)
    assert adapters is not None
    assert adapters.writer("read") == "tool_read"
    assert adapters.writer("popular") == "tool_args"


CONVERSATION: Conversation = (
    Step("search", '{"where":["genres=Comedy"]}', "### Act\nHistory: no\nCall:\n", "### Act\nHistory: no\nCall:\n"),
)
READING: Conversation = (
    Step("read", '{"marks":["no *genres* => avoid"],"first":"new"}', "### Read\n", "### Read\n", ((25, 31), (43, 46))),
)
TURNS = ToolTurns([*[READING] * 5, *[CONVERSATION] * 3], [])


def test_another_mode_takes_the_place_of_what_was_entered(
    trained: tuple[Path, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"COMPILE": "0", "DTYPE": "float32", "CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(f"LLMREC_{name}", value)
    backbone = trained[0].with_name("joint-backbone")
    shutil.copytree(trained[0], backbone)
    assert "tool_select" in AdapterStore.load(backbone).folders()
    script = load_file(asset("finetune/tools.py"), name="tools_under_test")
    settings = [*SMALL, "mode=joint", "turns=8", "validation_turns=0"]
    script.main(RECIPE, [f"backbone={backbone}", f"output={tmp_path / 'joint'}", *settings])
    lm = load_backbone(backbone, device="cpu", dtype="float32")
    assert [name for name in lm.capabilities.adapters if name.startswith("tool")] == ["tools"]
    brain = brain_for(RecommenderConfig(), lm, noun="film")
    assert isinstance(brain, ToolBrain)
    assert brain.name.endswith("/tools")


def test_modes_and_their_adapters() -> None:
    def tools(*changes: str) -> dict[str, tuple[str, ...] | None]:
        return adapter_tools(load_recipe_of(ToolsRecipe, RECIPE, changes), TURNS)

    assert tools("mode=joint") == {"tools": None}
    assert tools("mode=decoupled", "arguments=shared") == {"tool_select": (), "tool_args": ("read", "search")}
    assert tools("mode=decoupled", "minimum_calls=5") == {
        "tool_select": (),
        "tool_read": ("read",),
        "tool_args": ("search",),
    }


def test_only_the_choices_of_a_reading_are_learnt_where_the_recipe_says_so(mini_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    learnt = {}
    for loss in ("call", "choices"):
        recipe = load_recipe_of(ToolsRecipe, RECIPE, [f"loss={loss}"])
        data = adapter_data(("read",), TURNS, recipe, tokenizer)
        assert len(data.train) == 5
        assert not data.validation
        learnt[loss] = tokenizer.decode([label for label in data.train[0].labels if label != IGNORED])
    written = READING[0].arguments
    assert [written[start:end] for start, end in READING[0].choices] == [" avoid", "new"]
    assert learnt == {"call": f"read\n{written}\n", "choices": " avoidnew"}


def test_conversations_leave_out_what_needs_no_tool() -> None:
    class Idle:
        def reading(self) -> tuple[Step, ...]:
            return READING

        def acting(self) -> tuple[Step, ...]:
            return ()

    assert conversations([Idle()]) == [READING]  # type: ignore[list-item]
