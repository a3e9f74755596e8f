"""eval/tools.py: its columns, what counts as a hit in human dialogues, and the adapters that it measures there."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from llmrec.assets import asset, load_file
from llmrec.data.turns import RecommendationTurn
from llmrec.lm.local import LocalLM
from llmrec.roles.orchestrator import JOINT
from llmrec.training.tools.scores import Step, TurnScore


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_file(asset("eval/tools.py"), name="llmrec_eval_tools")


def _score(*steps: Step) -> TurnScore:
    return TurnScore(steps, f1=1.0, exact=True, checked_f1=1.0, sequence=True, hit=1.0)


def test_golden_product_of_tool_and_arguments(script: ModuleType) -> None:
    """Of 5 calls the tool is right in 4, the arguments given the true tool in 3, both in 2: 4/5 x 3/5 = 0.48."""
    scores = [
        _score(Step(True, True, True), Step(True, True, True)),
        _score(Step(True, False, False), Step(True, False, False), Step(False, False, True)),
    ]
    row = script.row_of(scores, told=True, seed=0)
    given, product = "arguments, given the true tool", "tool x arguments, given the true tool"
    assert list(row)[2:5] == [given, product, "tool and arguments"]
    assert [row[name]["value"] for name in ("tool", given, "tool and arguments")] == pytest.approx([0.8, 0.6, 0.4])
    assert row[product] == {"value": pytest.approx(0.48), "n": 5}
    bare = script.row_of(scores, told=False, seed=0)  # a brain that cannot be told the tool
    assert set(row) - set(bare) == {given, product}
    lines = list(script.markdown({"seen: bare": bare, "seen: tools": row}))
    assert lines[3].split(" | ")[3:6] == [given, product, "tool and arguments"]
    assert lines[5].split(" | ")[3:5] == ["–", "–"]
    assert lines[6].split(" | ")[4] == "0.480 n=5"
    assert lines[5].split(" | ")[5] == lines[6].split(" | ")[5]


# Human dialogues -----------------------------------------------------------------------------------------------------


def _turn(dialogue: str, targets: Sequence[int], mentioned: Sequence[int] = ()) -> RecommendationTurn:
    return RecommendationTurn(dialogue, 1, ("a film please",), "", (), tuple(targets), frozenset(mentioned))


def test_golden_hits_leave_out_what_was_mentioned(script: ModuleType) -> None:
    """The list is 0, 1, 2, ..., 69. Without mentions, rank of item i is i + 1.

    turn 1: target 0, nothing mentioned: rank 1. turn 2: target 1, and 0 was mentioned: rank 1, not 2.
    turn 3: targets 0 and 15, 0 was mentioned: what is left is 15, at rank 15. turn 4: target 0, mentioned: none left.
    turn 5: target 10, nothing mentioned: rank 11. turn 6: target 50, rank 51. turn 7: target 50, and 3 was mentioned:
    rank 50. turn 8: target 10, and 2 was mentioned: rank 10.
    hit@1: turns 1, 2 = 2/8. hit@10: and turn 8 = 3/8. hit@50: and turns 3, 5, 7 = 6/8.
    """
    turns = [
        _turn("1", [0]),
        _turn("2", [1], [0]),
        _turn("3", [0, 15], [0]),
        _turn("4", [0], [0]),
        _turn("5", [10]),
        _turn("6", [50]),
        _turn("7", [50], [3]),
        _turn("8", [10], [2]),
    ]

    async def rank(turn: RecommendationTurn) -> list[int]:
        return list(range(70))

    found = asyncio.run(script.human_hits(rank, turns, seed=0))
    assert {name: (one["value"], one["n"]) for name, one in found.items()} == {
        "hit@1": (2 / 8, 8),
        "hit@10": (3 / 8, 8),
        "hit@50": (6 / 8, 8),
    }


def test_golden_popularity_counts_the_other_dialogues(script: ModuleType) -> None:
    """Recommended: item 3 twice in A and once in B, item 1 once in B and once in C, item 2 once in C.

    For A (without its own 3, 3): 1 twice, then 2 and 3 once, then 0 and 4; ties by row. For B (without its 3, 1): 3
    twice, 1 and 2 once. For C (without 1, 2): 3 three times, 1 once.
    """
    turns = [_turn("A", [3]), _turn("A", [3]), _turn("B", [3, 1]), _turn("C", [1, 2], [3])]
    rank = script.popularity_ranker(turns, 5)
    found = [asyncio.run(rank(turn)) for turn in turns]
    assert found == [[1, 2, 3, 0, 4], [1, 2, 3, 0, 4], [3, 1, 2, 0, 4], [3, 1, 0, 2, 4]]
    hits = asyncio.run(script.human_hits(rank, turns, seed=0))
    assert hits["hit@1"]["value"] == 2 / 4  # B finds 3; C finds 1, since 3 was mentioned; A does not find 3
    assert hits["hit@10"]["value"] == 1.0


def test_popularity_gives_fifty_after_what_was_mentioned_is_taken_out(script: ModuleType) -> None:
    turn = _turn("A", [90], range(20))
    ranked = asyncio.run(script.popularity_ranker([turn, _turn("B", range(20))], 100)(turn))
    assert len([row for row in ranked if row not in turn.mentioned]) == 50


# What is measured there ----------------------------------------------------------------------------------------------

MOVIES = [{"movie_id": str(row), "name": f"Film {row} (1990)", "genre": ["comedy"]} for row in range(12)]
DIALOGUE = {
    "dialogue_id": "1",
    "initiator": 5,
    "movie_mentions": {"7": "Film 7 (1990)"},
    "initiator_answers": {"7": {"liked": 1}},
    "messages": [{"text": "I loved @7"}],
}
TURNS = [
    {
        "dialog_id": str(number),
        "turn_id": 1,
        "context": ["a comedy please"],
        "entity": [],
        "rec": [f"Film {number} (1990)"],
        "resp": "Try it",
    }
    for number in range(2)
]


def _redial(folder: Path) -> Path:
    folder.mkdir()
    files: dict[str, list[Any]] = {"movies": MOVIES, "dialogues_valid": [DIALOGUE], "turns_valid": TURNS}
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_the_joint_adapter_is_measured_on_human_dialogues(
    script: ModuleType,
    mini_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`--joint` and `--redial` together; the adapter is a fresh one, which is enough to be asked."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(mini_folder), LoraConfig(r=2, task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "joint" / JOINT)
    options = ["--joint", str(tmp_path / "joint"), "--redial", str(_redial(tmp_path / "redial")), "--parts"]
    options += ["--constraints", "grammar", "--state", str(tmp_path / "state.json"), "--json"]
    monkeypatch.setattr(sys, "argv", ["tools.py", "--backbone", str(mini_folder), *options])
    asked: list[str | None] = []
    generate = LocalLM.generate

    async def noted(self: LocalLM, *arguments: Any, **keywords: Any) -> Any:
        asked.append(keywords.get("adapter"))
        return await generate(self, *arguments, **keywords)

    monkeypatch.setattr(LocalLM, "generate", noted)
    script.main()
    rows = json.loads(capsys.readouterr().out)
    assert list(rows) == [
        "ReDial: BM25, the request's words",
        "ReDial: popularity in other dialogues",
        "ReDial: bare backbone, labels by name",
        "ReDial: bare backbone, tools, grammar",
        "ReDial: joint adapter, grammar",
    ]
    assert all(one["n"] == 2 for row in rows.values() for one in row.values())
    assert set(asked) == {None, JOINT}
