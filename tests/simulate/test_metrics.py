"""Metrics of sessions, counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmrec.errors import ConfigError
from llmrec.roles.instruction import Instruction, Predicate
from llmrec.simulate.metrics import (
    agent_turns,
    checked_compliance,
    click_rate,
    compare,
    first_slate_ndcg,
    instruction_rate,
    n_clicks,
    out_of_catalogue,
    summarise_run,
)
from llmrec.simulate.session import Compliance, Constraints, Round, Session
from tests.simulate.conftest import World

ASKED = Instruction(
    kind="less_of",
    attribute="genres",
    value="War",
    say="Please less War",
    predicate=Predicate(mode="none", attribute="genres", values=("War",)),
)


def _round(turn: int, actions: str, **more: Any) -> Round:
    """Actions by letter: s(kip), v(iew), c(lick), l(ike), d(islike), r(ate), x (leave)."""
    names = {"s": "skip", "v": "view", "c": "click", "l": "like", "d": "dislike", "r": "rate", "x": "leave"}
    shown = tuple({"item": place, "action": names[letter]} for place, letter in enumerate(actions))
    return Round(turn=turn, slate=tuple(range(len(actions))), shown=shown, **more)


def _session(*rounds: Round, user: int = 0, policy: str = "a", **more: Any) -> Session:
    settings: dict[str, Any] = {
        "user": user,
        "user_id": str(user),
        "policy": policy,
        "slate_size": 2,
        "profile": {},
        "likes": (),
        "wants": (),
        "n_history": 1,
        "rounds": rounds,
        "ended": "round limit",
    }
    return Session(**(settings | more))


def test_golden_counts_of_one_session() -> None:
    """Eight decided items (a leave is none), of which c, l, r and d are clicks; one instruction in three rounds."""
    session = _session(
        _round(0, "svc", instruction=ASKED),
        _round(1, "lrs", compliance=Compliance(kind="less_of", before=0.25, after=0.75), out_of_catalogue=(999, -1)),
        _round(2, "sdx"),
    )
    assert n_clicks(session) == 4
    assert click_rate(session) == 0.5
    assert instruction_rate(session) == pytest.approx(1 / 3)
    assert checked_compliance(session) == [("less_of", 0.25, 0.75)]
    assert out_of_catalogue(session) == 2


def test_golden_ndcg_of_the_first_slate(world: World) -> None:
    """Both held-out items are relevant: at the second place alone 1 / log2(3), over the ideal 1 + 1 / log2(3)."""
    _, split = world
    user = int(split.users[3])
    other = next(item for item in range(240) if item not in (int(split.test[3]), int(split.validation[3])))
    gain = 1 / np.log2(3)
    slates = {
        (other, int(split.test[3])): gain / (1 + gain),
        (int(split.validation[3]), int(split.test[3])): 1.0,
        (other,): 0.0,
        (): 0.0,
    }
    for slate, expected in slates.items():
        session = _session(Round(turn=0, slate=slate), user=user)
        assert first_slate_ndcg(session, split) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="not among the evaluated users"):
        first_slate_ndcg(_session(user=10_000), split)


def test_golden_summary(world: World) -> None:
    _, split = world
    users = [int(user) for user in split.users[:2]]
    sessions = [
        _session(_round(0, "cc"), _round(1, "ss"), user=users[0], seconds=2.0),
        _session(_round(0, "sx"), user=users[1], ended="out of patience", seconds=4.0),
        _session(user=users[0], policy="b", ended="failed", failed="ModelError: broke"),
    ]
    found = summarise_run(sessions, split, seed=0)
    assert found["a"]["rounds"]["value"] == 1.5
    assert found["a"]["rounds_distribution"] == {"1": 1, "2": 1}
    assert found["a"]["actions"] == {"click": 2, "leave": 1, "skip": 3}
    assert found["a"]["click_rate"]["value"] == 0.25
    assert found["a"]["endings"] == {"out of patience": 1, "round limit": 1}
    assert found["a"]["seconds_per_session"] == 3.0
    assert found["a"]["compliance"] == {"n": 0, "before": None, "after": None}
    assert (found["b"]["n"], found["b"]["failed"], found["b"]["rounds"]["value"]) == (1, 1, 0.0)
    assert all(one["simulated"] for one in found.values())


def test_golden_paired_comparison() -> None:
    """Users 0 and 1 met both policies: differences 1 and 1; user 2 met only the first and does not count."""
    sessions = [
        _session(_round(0, "c"), _round(1, "c"), user=0),
        _session(_round(0, "c"), _round(1, "c"), user=1),
        _session(*[_round(turn, "c") for turn in range(9)], user=2),
        _session(_round(0, "c"), user=0, policy="b"),
        _session(_round(0, "c"), user=1, policy="b"),
    ]
    assert compare(sessions, "a", "b", lambda one: float(len(one.rounds)), seed=0) == (1.0, 1.0, 1.0)


def test_golden_agent_turns() -> None:
    """Two turns: 3 calls asked, 2 valid, 1 of them mended, 1 refused; one slate of two keeps to what was refused."""
    first: dict[str, Any] = {
        "calls_asked": 2,
        "calls_valid": 2,
        "calls_repaired": 1,
        "calls_refused": 1,
        "repairs": {"fenced": 1},
        "corrections": ["genres=Horror"],
        "model_calls": 3,
        "tokens_written": 60,
        "seconds": {"understand": 1.0, "plan": 2.0},
    }
    second = first | {"calls_asked": 1, "calls_valid": 0, "calls_repaired": 0, "calls_refused": 0, "corrections": []}
    second |= {"seconds": {"plan": 4.0, "prose": 1.0}, "repairs": {}, "tokens_written": 40, "model_calls": 1}
    kept = Constraints(refused=("genres=Horror",), kept=True, wanted=("genres=Comedy",), wanted_share=0.75)
    broken = Constraints(refused=("genres=Horror",), kept=False)
    sessions = [
        _session(
            Round(turn=0, slate=(), record=first, constraints=kept),
            Round(turn=1, slate=(), record=second, constraints=broken),
        )
    ]
    found = agent_turns(sessions, seed=0)
    assert found is not None
    seconds = found.pop("seconds_per_turn")
    assert seconds["value"] == 4.0
    assert found == {
        "turns": 2,
        "failed_turns": 0,
        "calls": {"asked": 3, "valid_share": 2 / 3, "repaired_share": 0.5, "refused_share": 0.5},
        "repairs": {"fenced": 1},
        "corrections": 1,
        "constraints": {"n": 2, "kept": 0.5, "wanted_share": 0.75},
        "model_calls_per_turn": 2.0,
        "tokens_per_turn": 50.0,
        "seconds_per_step": {"plan": 3.0, "prose": 0.5, "understand": 0.5},
    }
    assert agent_turns([_session(_round(0, "c"))], seed=0) is None
