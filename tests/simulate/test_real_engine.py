"""The simulated user and the agent on a real (tiny, untrained) language model: grammar, batching, command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.data.dataset import Dataset
from llmrec.lm.adapters import AdapterStore, stamp
from llmrec.lm.local import LocalLM
from llmrec.roles.mindset import UserConfig
from llmrec.roles.opinion import opinion
from llmrec.roles.user import instruction_examples
from llmrec.simulate.fidelity import click_fidelity
from llmrec.simulate.metrics import summarise_run
from llmrec.simulate.policies import RandomPolicy, build_policies
from llmrec.testing.models import save_tiny_model
from tests.simulate.conftest import Run, World
from tests.simulate.world import make_dataset, make_world

TALKS = UserConfig(
    adapter=None,
    threshold=0.0,
    second_chance=1.0,
    patience_low=50.0,
    patience_high=50.0,
    say_tokens=400,  # the tiny tokenizer has a token for every few bytes
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset, split = make_world()
    examples = instruction_examples(dataset, split, np.random.default_rng(0), 50)
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), texts=[prompt + answer for prompt, answer in examples])


@pytest.fixture(scope="module")
def lm(folder: Path) -> LocalLM:
    return LocalLM.from_folder(folder, dtype="float32", device="cpu")


async def test_an_untrained_model_can_only_say_well_formed_things(run: Run, lm: LocalLM) -> None:
    result = await run([RandomPolicy(240)], lm=lm, config=TALKS, n_users=2, max_rounds=2)
    asked = [played.instruction for one in result.sessions for played in one.rounds]
    assert all(one is not None for one in asked)
    for one in asked:
        assert one is not None
        assert one.value in one.say
        assert len(one.say.split()) <= 14
    assert not any(played.notes for one in result.sessions for played in one.rounds)


async def test_an_instruction_that_does_not_fit_is_noted_and_counted(run: Run, lm: LocalLM) -> None:
    hasty = TALKS.model_copy(update={"say_tokens": 20})
    result = await run([RandomPolicy(240)], lm=lm, config=hasty, n_users=2, max_rounds=1)
    assert summarise_run(result.sessions, run.world[1], seed=0)["random"]["unwritten_instructions"] == 2
    assert all(one.rounds[0].notes[0].startswith("no instruction: ") for one in result.sessions)
    assert [one.failed for one in result.sessions] == [None, None]


async def test_opinions_are_distributions(lm: LocalLM) -> None:
    found = await opinion(
        lm, "Viewer: unknown.\nWatched: nothing yet\nShown: Title: Alien ->", has_ratings=True, adapter=None
    )
    assert sum(found.probabilities) == pytest.approx(1.0)
    assert 0.0 < found.click < 1.0


async def test_the_agent_answers_simulated_users(run: Run, lm: LocalLM) -> None:
    dataset, split = run.world
    policies = build_policies(["agent", "agent-blind"], dataset, split, lm, slate_size=4)
    result = await run(policies, lm=lm, config=TALKS, n_users=1, max_rounds=2, slate_size=4)
    assert [one.failed for one in result.sessions] == [None] * 2
    for one in result.sessions:
        shown = [item for played in one.rounds for item in played.slate]
        assert len(shown) == len(set(shown)) == 8
        assert not set(shown) & set(split.train.history(one.user).tolist())
        assert all(played.prose and played.events for played in one.rounds)


async def test_fidelity_of_an_untrained_model_is_reported_as_it_is(world: World, lm: LocalLM) -> None:
    dataset, split = world
    found = await click_fidelity(lm, dataset, split, n_users=8, seed=0, adapter=None)
    assert found.model.failed == 0
    assert np.isfinite(found.probabilities).all()


def _table(folder: Path, dataset: Dataset) -> Path:
    folder.mkdir()
    catalogue, events = dataset.catalogue, dataset.interactions
    rows = ["item_id,title,year,genres"]
    for row in range(len(catalogue)):
        genres = "|".join(map(str, catalogue.values(row, "genres")))
        rows.append(f"{catalogue.item_ids[row]},{catalogue.title(row)},{catalogue.values(row, 'year')[0]},{genres}")
    (folder / "items.csv").write_text("\n".join(rows) + "\n")
    lines = ["user_id,item_id,timestamp,rating"]
    for user in range(events.n_users):
        for place, (item, stars) in enumerate(zip(events.history(user), events.ratings(user), strict=True)):  # type: ignore[arg-type]
            lines.append(f"{events.user_ids[user]},{catalogue.item_ids[item]},{1_000_000 + place},{stars:.0f}")
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_commands(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = _table(tmp_path / "mine", make_dataset())
    runner = CliRunner()
    command = ["simulate", "--dataset", f"table:{table}", "--backbone", str(folder), "--no-user-adapter"]
    command += ["--policy", "popular,random", "--users", "3", "--max-rounds", "2", "--device", "cpu"]
    first = runner.invoke(app, [*command, "--json"])
    assert first.exit_code == 0, first.output
    answer = json.loads(first.stdout)
    assert (answer["sessions"], answer["resumed"]) == (6, 0)
    assert set(answer["policies"]) == {"popular", "random"}
    assert answer["policies"]["random"]["out_of_catalogue"] == 0
    again = runner.invoke(app, [*command, "--json"])
    resumed = json.loads(again.stdout)
    assert (resumed["sessions"], resumed["resumed"]) == (6, 6)
    assert resumed["policies"] == answer["policies"]
    people = runner.invoke(app, command)
    assert "compliance" in people.stdout
    listed = runner.invoke(app, ["sessions", "list", "--json"])
    assert [one["run"] for one in json.loads(listed.stdout)["runs"]] == [answer["run"]]
    shown = runner.invoke(app, ["sessions", "show", answer["run"], "--policy", "random", "--limit", "1", "--private"])
    assert "round 1" in shown.stdout
    assert "Film " in shown.stdout
    assert "mindset: satisfaction" in shown.stdout
    one = runner.invoke(app, ["sessions", "show", answer["run"], "--json"])
    assert len(json.loads(one.stdout)["sessions"]) == 6


def test_the_command_plays_a_tuned_user_by_its_calibration(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An offset of -4 in the adapter's folder makes clicks rare, is told, and does not touch the bare backbone."""
    monkeypatch.chdir(tmp_path)
    backbone, adapter = tmp_path / "backbone", tmp_path / "user"
    shutil.copytree(folder, backbone)
    bare = AutoModelForCausalLM.from_pretrained(backbone)
    get_peft_model(bare, LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(adapter)
    stamp(adapter, backbone)
    store = AdapterStore.load(backbone)
    store.add("user", adapter)
    store.save()
    command = ["simulate", "--dataset", f"table:{_table(tmp_path / 'mine', make_dataset())}", "--device", "cpu"]
    command += ["--backbone", str(backbone), "--policy", "random", "--users", "4", "--max-rounds", "2", "--json"]
    clicks = []
    for offset in (4.0, -4.0):
        (adapter / "calibration.json").write_text(json.dumps({"scale": 0.5, "offset": offset}), encoding="utf-8")
        found = CliRunner().invoke(app, command)
        assert found.exit_code == 0, found.output
        assert f"log-odds of a click times 0.500 plus {offset:+.3f}" in " ".join(found.stderr.split())
        clicks.append(json.loads(found.stdout)["policies"]["random"]["clicks"]["value"])
    assert clicks[1] < clicks[0] / 2
    plain = CliRunner().invoke(app, [*command, "--no-user-adapter"])
    assert plain.exit_code == 0, plain.output
    assert "log-odds" not in plain.stderr


def test_the_command_takes_adapters_by_folder(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the agent and of the user, on a backbone that names none; the user's calibration lies in the folder."""
    monkeypatch.chdir(tmp_path)
    bare = AutoModelForCausalLM.from_pretrained(folder)
    adapted = get_peft_model(bare, LoraConfig(r=2, task_type="CAUSAL_LM"))
    for name in ("reader", "viewer"):
        adapted.save_pretrained(tmp_path / name)
        stamp(tmp_path / name, folder)
    (tmp_path / "viewer" / "calibration.json").write_text('{"scale": 0.5, "offset": 4.0}', encoding="utf-8")
    command = ["simulate", "--dataset", f"table:{_table(tmp_path / 'mine', make_dataset())}", "--device", "cpu"]
    command += ["--backbone", str(folder), "--policy", "agent", "--users", "1", "--max-rounds", "1", "--json"]
    found = CliRunner().invoke(app, [*command, "--adapter", "reader", "--user-adapter", "viewer"])
    assert found.exit_code == 0, found.output
    assert "log-odds of a click times 0.500 plus +4.000" in " ".join(found.stderr.split())
    settings = json.loads(found.stdout)["settings"]
    assert settings["user"]["adapter"] == "user"
    assert settings["policy_settings"]["agent"]["adapter"] == "agent"
    for wrong, remedy in (
        (["--user-adapter", "nowhere"], "no adapter 'nowhere' that plays the users; its adapters are: none; name"),
        (["--user-adapter", "viewer", "--no-user-adapter"], "got --user-adapter 'viewer' too"),
        (["--adapter", "nowhere", "--no-user-adapter"], "no adapter 'nowhere'; its adapters are: none; name"),
    ):
        refused = CliRunner().invoke(app, [*command, *wrong])
        assert refused.exit_code == 2
        assert remedy in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["simulate", "--policy", "nonsense"], "no policy is called 'nonsense'; choose from agent"),
        (["simulate", "--policy", ","], "--policy got no name"),
        (["simulate"], "need a language model"),
        (["simulate", "--user", "nobody"], "no agent 'nobody'"),
        (["sessions", "list"], "no journal at"),
        (["sessions", "show", "x"], "no journal at"),
    ],
)
def test_wrong_commands(command: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMREC_BACKBONE", raising=False)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


async def test_an_untrained_model_in_both_chat_seats_stays_well_formed(run: Run, lm: LocalLM) -> None:
    """Messages and JSON schemas hold a random model as grammars do: valid calls, known items, a record of each turn."""
    dataset, split = run.world
    policies = build_policies(["agent"], dataset, split, lm, slate_size=3, agent={"brain": "chat", "prose": False})
    assert policies[0].settings["brain"] == "chat"
    config = TALKS.model_copy(update={"style": "chat"})
    result = await run(policies, lm=lm, config=config, n_users=2, max_rounds=2, slate_size=3)
    rounds = [played for one in result.sessions for played in one.rounds]
    assert not any(one.failed for one in result.sessions)
    assert all(len(played.slate) == 3 and not played.out_of_catalogue for played in rounds)
    found = summarise_run(result.sessions, split, seed=0)["agent"]["agent"]
    assert found["turns"] == len(rounds) == 4
    assert found["calls"]["asked"] >= 4
    assert found["calls"]["valid_share"] == 1.0
    assert found["constraints"]["kept"] in (None, 1.0)
    assert found["seconds_per_turn"]["value"] > 0
