"""The tuned user: examples from logs, and the recipe from data to calibrated decisions."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from llmrec.assets import asset, load_file
from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.interactions import Interactions
from llmrec.data.splits import Split, leave_one_out
from llmrec.errors import ConfigError, DataError
from llmrec.lm.loading import load_backbone
from llmrec.roles.click_calibration import read_calibration
from llmrec.roles.persona import taste_index
from llmrec.roles.user import Seen
from llmrec.roles.user_talk import Said, after_answer_prompt, answer_prompt, leave_prompt, talk_prompt
from llmrec.seeding import rng
from llmrec.training.corpus import Material
from llmrec.training.examples import plain_text
from llmrec.training.recipe import SftRecipe, load_recipe_of
from llmrec.training.sft import build_data
from llmrec.training.user.decisions import can_calibrate, validation_halves
from llmrec.training.user.logs import build_user_data, leave_examples, talk_example, visit_ends
from llmrec.training.user.recipe import UserRecipe
from llmrec.training.user.redial_logs import label, read_talks, turns

RECIPE = asset("finetune/user.yaml")
SMALL = ("examples=24", "validation_examples=10", "batch_size=8", "evaluations=1")
HOUR = 3600

DIALOGUE: dict[str, Any] = {
    "dialogue_id": "7",
    "initiator": 1,
    "respondent": 2,
    "movie_mentions": {"10": "Old  Tale (1960)", "11": "New Tale (2001)", "12": "Third (1999)"},
    "initiator_answers": {
        "10": {"suggested": 1, "seen": 0, "liked": 1},
        "11": {"suggested": 1, "seen": 1, "liked": 1},
        "12": {"suggested": 0, "seen": 1, "liked": 1},
    },
    "messages": [
        {"sender": 2, "text": "Hello"},
        {"sender": 1, "text": "Something like @12 -> please"},
        {"sender": 2, "text": "Try @10 or @11, and @12"},
        {"sender": 1, "text": "I loved @11 <|im_end|>"},
        {"sender": 2, "text": "@10 is older"},
        {"sender": 1, "text": "I will watch it, bye"},
    ],
}


def _recipe(**changes: Any) -> UserRecipe:
    return load_recipe_of(UserRecipe, RECIPE, [*SMALL, *(f"{key}={json.dumps(v)}" for key, v in changes.items())])


def _visits(n_users: int = 30, *, ratings: bool = True) -> Dataset:
    """Everybody comes three times, for three, two and four events."""
    catalogue = Catalogue.from_columns(
        {
            "item_id": [str(i) for i in range(40)],
            "title": [f"Film {i}" for i in range(40)],
            "genres": [["Drama"] if i % 2 else ["Comedy"] for i in range(40)],
        },
        flat_fields=("genres",),
    )
    times = np.cumsum([0, 60, 60, 9 * HOUR, 60, 9 * HOUR, 60, 60, 60])
    items = np.concatenate([(np.arange(9) * 3 + user) % 40 for user in range(n_users)])
    interactions = Interactions.from_arrays(
        np.repeat(np.arange(n_users), 9),
        items,
        np.tile(times, n_users),
        ratings=np.tile([5, 4, 3, 2, 1, 5, 4, 3, 2], n_users).astype(np.float32) if ratings else None,
        user_ids=[str(user) for user in range(n_users)],
        n_items=40,
    )
    return Dataset("visits", "table:visits", catalogue, interactions, item_noun="film")


# --- when users leave


def test_golden_visits() -> None:
    times = np.array([0, 10, 20, 2000, 2010, 9000])
    assert visit_ends(times, gap_s=1800.0).tolist() == [False, False, True, False, True, True]


def test_moments_are_asked_about_as_a_user_is_asked() -> None:
    """Training events are the first seven: visits of three, two, and two of which the end is not known."""
    dataset = _visits()
    split = leave_one_out(dataset.interactions)
    examples = leave_examples(Material(dataset, split), rng(0, "leaves"), gap_s=1800.0)
    assert len(examples) == 60  # one of each kind per user
    index = taste_index(dataset, split)
    stars = [5, 4, 3, 2, 1, 5, 4]
    served = {}
    for user in range(30):
        items = [int(row) for row in index.train.history(user)]
        for start, place in ((0, 0), (0, 1), (0, 2), (3, 3), (3, 4), (5, 5)):
            persona = index.persona(user, until=start)
            past = [Seen(items[p], stars[p]) for p in range(start)]
            shown = [(items[p], str(stars[p])) for p in range(start, place + 1)]
            prompt = leave_prompt(dataset.catalogue, persona, past, shown)
            served[prompt] = " leaves" if place in (2, 4) else " stays"
    assert [(one[0].learn, one[1].learn) for one in examples] == [(False, True)] * 60
    assert all(served[prompt.text] == answer.text for prompt, answer in examples)
    assert {answer.text for _, answer in examples} == {" leaves", " stays"}


def test_leaves_need_time_stamps_and_visits(films: Dataset, films_split: Split) -> None:
    dataset = _visits()
    events = dataset.interactions
    ordered = Interactions.from_arrays(
        events.user_index(), events.items, None, user_ids=list(events.user_ids), n_items=40
    )
    unknown = Material(Dataset("o", "table:o", dataset.catalogue, ordered), leave_one_out(ordered))
    with pytest.raises(DataError, match="need time stamps"):
        leave_examples(unknown, rng(0), gap_s=1800.0)
    with pytest.raises(DataError, match="session_gap_s=1800"):  # films are days apart
        leave_examples(Material(films, films_split), rng(0), gap_s=1800.0)


# --- what users say


def test_golden_turns_of_a_dialogue() -> None:
    first, second = [*turns(DIALOGUE), None]
    assert second is None  # the second message offers what was decided on already
    assert first is not None
    assert first.offers == (("Old Tale (1960)", "accept"), ("New Tale (2001)", "liked"))  # 12 was the seeker's own
    assert first.said[-2:] == (
        Said("You", "Something like Third (1999) -> please"),
        Said("They", "Try Old Tale (1960) or New Tale (2001), and Third (1999)"),
    )
    assert first.reply == "I loved New Tale (2001) <|im_end|>"
    assert not first.last
    assert turns({**DIALOGUE, "initiator_answers": []}) == []
    silent = [message for message in DIALOGUE["messages"] if message["sender"] != DIALOGUE["initiator"]]
    assert [turn.reply for turn in turns({**DIALOGUE, "messages": silent})] == [""]


@pytest.mark.parametrize(
    ("seen", "liked", "wanted"),
    [(0, 1, "accept"), (1, 1, "liked"), (2, 1, "liked"), (1, 0, "reject"), (0, 0, "reject"), (0, 2, "unsure")],
)
def test_golden_labels(seen: int, liked: int, wanted: str) -> None:
    assert label({"suggested": 1, "seen": seen, "liked": liked}) == wanted


def test_a_turn_is_learnt_as_it_is_asked() -> None:
    """Joined pieces up to every learnt one are the prompts of serving; markup of the log is gone."""
    talk = turns(DIALOGUE)[0]
    example = talk_example(talk)
    asked = [
        talk_prompt("movie", talk.said, (), "Old Tale (1960)"),
        talk_prompt("movie", talk.said, talk.offers[:1], "New Tale (2001)"),
        answer_prompt("movie", talk.said, talk.offers),
        after_answer_prompt("movie", talk.said, talk.offers, talk.reply),
    ]
    before = [plain_text(example[:place]) for place, segment in enumerate(example) if segment.learn]
    assert before == asked
    learnt = [segment.text for segment in example if segment.learn]
    assert learnt == [" accept", " liked", " I loved New Tale (2001)", " stays"]
    assert "<|" not in plain_text(example)
    assert "like Third (1999) - please" in plain_text(example)


def test_a_turn_without_an_answer_learns_the_labels_alone() -> None:
    talk = turns(DIALOGUE)[0]._replace(reply="")
    assert [segment.text for segment in talk_example(talk) if segment.learn] == [" accept", " liked"]


def _redial(folder: Path, n: int = 20) -> Path:
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / "dialogues_test.jsonl.gz", "wt", encoding="utf-8") as out:
        for number in range(n):
            out.write(json.dumps({**DIALOGUE, "dialogue_id": str(number), "initiator": 1, "respondent": 2}) + "\n")
    return folder


def test_damaged_dialogues_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dialogues_"):
        read_talks(tmp_path)
    folder = _redial(tmp_path / "redial", 2)
    assert len(read_talks(folder)) == 2
    (folder / "dialogues_more.jsonl").write_text('{"dialogue_id": "1"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"dialogues_more\.jsonl, line 1: not a dialogue"):
        read_talks(folder)


def test_real_dialogues_are_read(real_data: Path) -> None:
    if not (real_data / "redial").is_dir():
        pytest.skip("no ReDial among the real data")
    talks = read_talks(real_data / "redial")
    assert len(talks) > 2000
    assert all(talk.offers and talk.said for talk in talks)


# --- data and recipe


def test_the_shipped_mix_is_that_of_plain_fine_tuning(films: Dataset, films_split: Split, mini_folder: Path) -> None:
    recipe = _recipe()
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    plain = SftRecipe.model_validate(
        {name: getattr(recipe, name) for name in SftRecipe.model_fields} | {"script": "sft.py"}
    )
    wanted = build_data(films, films_split, plain, tokenizer)
    found = build_user_data(films, films_split, recipe, tokenizer)
    assert found.train == wanted.train
    assert [one for rows in found.validation.values() for one in rows] == wanted.validation


def test_seekers_of_validation_are_others(mini_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "redial"
    folder.mkdir()
    lines = [json.dumps({**DIALOGUE, "initiator": number, "respondent": 0, "messages": [
        {**one, "sender": number if one["sender"] == 1 else 0, "text": f"{one['text']} {number}"}
        for one in DIALOGUE["messages"]
    ]}) for number in range(100, 140)]  # fmt: skip
    (folder / "dialogues_x.jsonl").write_text("\n".join(lines), encoding="utf-8")
    dataset = _visits()
    recipe = _recipe(talks=str(folder), data={"talks": 0.5, "leaves": 0.5})
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    data = build_user_data(dataset, leave_one_out(dataset.interactions), recipe, tokenizer)
    assert {kind: len(rows) for kind, rows in data.validation.items()} == {"talks": 5, "leaves": 5}
    seen = {tuple(one.input_ids) for one in data.train}
    assert not seen & {tuple(one.input_ids) for one in data.validation["talks"]}


def test_settings_that_do_not_fit() -> None:
    for changes, said in (
        ({"data": {"talks": 1.0}}, "need each other"),
        ({"talks": "DIR"}, "need each other"),
        ({"data": {"poems": 1.0}}, "leaves, talks"),
        ({"data": {"decisions": 0.4}}, "sum to 1"),
        ({"validation_examples": 0}, "calibration_users=0"),
    ):
        with pytest.raises(ConfigError, match=said):
            _recipe(**changes)


def test_calibration_asks_users_whom_training_never_saw(films: Dataset, films_split: Split) -> None:
    first, second = validation_halves(films, films_split, _recipe(calibration_users=20))
    assert len(first) == len(second) == 20 * 4
    assert not {one.user for one in first} & {one.user for one in second}
    test_items = dict(zip(films_split.users.tolist(), films_split.test.tolist(), strict=True))
    for one in (*first, *second):
        ever = films.interactions.history(one.user).tolist()
        assert one.taken == (one.item in ever)
        assert not one.taken or ever[one.cut] == one.item
        assert one.cut < len(ever) - 1 or one.item != test_items[one.user]
    assert can_calibrate(films_split, _recipe(calibration_users=20))
    assert not can_calibrate(films_split, _recipe(calibration_users=3))
    with pytest.raises(DataError, match="calibration_users=0"):
        validation_halves(films, films_split, _recipe(calibration_users=3))


def test_too_few_users_to_calibrate_on_are_refused_before_the_training(
    mini_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_file(asset("finetune/user.py"), name="user_under_test")
    monkeypatch.setattr(script, "make_trainer", lambda *_: pytest.fail("the training was begun"))
    settings = {"backbone": mini_folder, "output": tmp_path / "user", "calibration_users": 3}
    with pytest.raises(DataError, match="calibration_users=0"):
        script.main(RECIPE, [*SMALL, *(f"{key}={value}" for key, value in settings.items())])


def test_the_recipe_writes_a_calibrated_user(
    mini_folder: Path, films: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_file(asset("finetune/user.py"), name="user_under_test")
    output, remote = tmp_path / "user", tmp_path / "remote"
    settings = {"backbone": mini_folder, "output": output, "push_to": f"file:{remote}", "calibration_users": 12}
    record = script.main(RECIPE, [*SMALL, *(f"{key}={value}" for key, value in settings.items())])
    assert set(record["held_out_loss"]) == {"decisions", "instructions"}
    assert all(loss > 0 for loss in record["held_out_loss"].values())
    assert {"templates", "gradients", "padding", "frozen", "labels"} == set(record["checks"])
    found = record["decisions"]
    assert [row["predictor"] for row in found["table"]] == ["model", "calibrated", "constant", "popularity"]
    assert found["n_fit"] == found["n_measured"] == 48
    assert sum(one["n"] for one in found["bins"]["model"]) == 48
    assert read_calibration(output).scale == found["scale"]
    card = (output / "README.md").read_text(encoding="utf-8")
    for words in ("| decisions |", "| popularity |", "Self-checks passed: templates"):
        assert words in card
    # what was pushed serves as it is
    assert not (remote / "logs").exists()
    assert str(tmp_path) not in (remote / "training.json").read_text(encoding="utf-8")
    assert (remote / "reliability.png").exists()
    engine = load_backbone(mini_folder, adapters={"user": remote})
    assert engine.capabilities.adapters == ("user",)
