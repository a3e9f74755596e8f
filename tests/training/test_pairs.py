"""Who writes how much, what is asked twice, and which pairs come of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmrec.data.dataset import Dataset
from llmrec.errors import ConfigError, DataError, ModelError
from llmrec.lm.protocol import Completion, Sampling
from llmrec.training.lettingo.call_log import CallLog
from llmrec.training.lettingo.evaluate import Verdict, verdict
from llmrec.training.lettingo.explore import Candidate, ExploreSettings, Writer, WriterSettings, explore, turns
from llmrec.training.lettingo.pairs import (
    Pair,
    PairFacts,
    doubt,
    graded,
    held_out,
    ordered,
    pair_facts,
    positives,
    preference_pairs,
    shuffled_preferences,
)
from llmrec.training.lettingo.prompts import ItemFields, ProfilePrompts
from llmrec.training.lettingo.windows import GroupSettings, Histories, LabelSettings, WindowSettings, user_groups

WINDOWS = WindowSettings(older=(30,), at_least=8)


def _candidates(user: int, n: int) -> list[Candidate]:
    return [Candidate(user, "own", f"profile {place}") for place in range(n)]


def _verdicts(right: Sequence[bool]) -> list[Verdict]:
    return [verdict([0.0, 0.0, 1.0 + place / 10], "like" if good else "neutral") for place, good in enumerate(right)]


@pytest.mark.parametrize("n_right", range(11))
def test_rows_are_right_times_wrong(n_right: int) -> None:
    candidates = _candidates(3, 10)
    right = [place < n_right for place in range(10)]
    pairs = preference_pairs(candidates, _verdicts(right))
    assert len(pairs) == n_right * (10 - n_right) <= 25
    good = {candidate.text for candidate, one in zip(candidates, right, strict=True) if one}
    assert all(pair.chosen in good and pair.rejected not in good and pair.user == 3 for pair in pairs)
    assert len(set(pairs)) == len(pairs)


def test_no_pair_of_identical_texts() -> None:
    twins = [Candidate(0, "a", "same"), Candidate(0, "b", "same")]
    assert preference_pairs(twins, _verdicts([True, False])) == []


def test_unanimous_questions_are_counted_and_give_nothing() -> None:
    questions = [_verdicts([True, True]), _verdicts([False, False]), _verdicts([True, False])]
    pairs = [pair for own in questions for pair in preference_pairs(_candidates(0, 2), own)]
    asked = [[Candidate(0, "own", "a"), Candidate(0, "other", "b")] for _ in questions]
    facts = pair_facts(asked, questions, pairs, n_users=2)
    assert facts[:5] == (2, 3, 2, 1, 0.5)
    assert facts.writers == {"own": {"answers": 3, "right": 2}, "other": {"answers": 3, "right": 1}}


def test_golden_gap() -> None:
    """The right label has probability 1/2 with the better profile and 1/5 with the worse one: gap log 2.5."""
    scores = [[0.0, 0.0, 0.6931471805599453], [1.0986122886681098, 0.0, 0.0]]
    pairs = preference_pairs(_candidates(0, 2), [verdict(own, "like") for own in scores])
    assert [pair.gap for pair in pairs] == pytest.approx([0.9162907318741551])


def test_the_curriculum_goes_from_wide_gaps_to_narrow_ones_and_drops_ties() -> None:
    pairs = [Pair(place, "a", "b", gap) for place, gap in enumerate([0.1, 0.9, 0.0, 0.5, -0.3, 0.7, 0.01, 0.3])]
    stages = graded(pairs, stages=2, tie=0.01)
    assert [[pair.gap for pair in stage] for stage in stages] == [[0.9, 0.7], [0.5, 0.3, 0.1]]
    with pytest.raises(DataError, match=r"2 of 8 pairs .* curriculum"):
        graded(pairs, stages=3, tie=0.6)


def test_golden_orders_of_stages() -> None:
    stages = [[Pair(place, "a", "b", 1.0 - place)] for place in range(3)]
    assert ordered(stages, "easy_first", seed=0) == stages
    assert ordered(stages, "hard_first", seed=0) == stages[::-1]
    drawn = [ordered(stages, "shuffled", seed=seed) for seed in range(30)]
    assert all(sorted(own, key=stages.index) == stages != own for own in drawn)  # the same stages, never easy first
    assert len({str(own) for own in drawn}) == 5  # all orders but one
    assert ordered(stages, "shuffled", seed=3) == drawn[3]
    assert ordered(stages[:1], "shuffled", seed=0) == stages[:1]


@pytest.mark.parametrize(
    ("pairs", "questions", "candidates", "doubted"),
    [
        (200, 100, 10, False),
        (199, 100, 10, True),  # 1.99 a question
        (200, 200, 10, True),  # two targets a user: 2 a user, 1 a question
        (27, 100, 4, False),  # 2 * 4 * 3 / 90 = 0.267
        (26, 100, 4, True),
    ],
)
def test_golden_few_pairs_are_doubted(pairs: int, questions: int, candidates: int, doubted: bool) -> None:
    """Below 2 rows from ten candidates the predictor ignores the profile; rows grow with n (n - 1)."""
    facts = PairFacts(100, questions, 0, pairs, pairs / 100, {})
    text = doubt(facts, candidates=candidates)
    assert (text is not None) == doubted
    if text is not None:
        assert f"{pairs / questions:.2f} pairs a question" in text
        assert "hardly reads the profile" in text


def test_validation_users_are_apart_and_seeded() -> None:
    pairs = [Pair(user, f"a{n}", "b", 0.1) for user in range(20) for n in range(3)]
    train, watched = held_out(pairs, share=0.2, seed=0)
    assert len({pair.user for pair in watched}) == 4
    assert not {pair.user for pair in train} & {pair.user for pair in watched}
    assert sorted(train + watched) == sorted(pairs)
    assert held_out(pairs, share=0.2, seed=0) == (train, watched)
    assert held_out(pairs, share=0.2, seed=1) != (train, watched)
    assert held_out(pairs, share=0, seed=0) == (pairs, [])
    with pytest.raises(DataError, match="ignores the profile"):
        held_out([], share=0.1, seed=0)


def test_supervised_rows_are_the_different_right_profiles() -> None:
    pairs = [Pair(0, "a", "x", 1), Pair(0, "a", "y", 1), Pair(0, "b", "x", 1), Pair(1, "a", "x", 1)]
    assert [(pair.user, pair.chosen) for pair in positives(pairs)] == [(0, "a"), (0, "b"), (1, "a")]


def test_shuffled_preferences_swap_half() -> None:
    pairs = [Pair(user, "good", "bad", 0.5) for user in range(200)]
    mixed = shuffled_preferences(pairs, seed=0)
    swapped = [pair for pair in mixed if pair.chosen == "bad"]
    assert 70 < len(swapped) < 130
    assert all(pair == (pair.user, "bad", "good", -0.5) for pair in swapped)


def test_golden_turns() -> None:
    assert turns(1, 10) == [10]
    assert turns(4, 10) == [3, 3, 2, 2]
    with pytest.raises(ConfigError, match="at least one writer"):
        turns(0, 10)


class _Scribe:
    """Writes the seed and the number of the sample; every third text of a user is the same."""

    name = "scribe"

    def __init__(self, fail_after: int | None = None) -> None:
        self.prompts: list[Any] = []
        self.samplings: list[Sampling] = []
        self._fail_after = fail_after

    async def generate(self, prompt: Any, *, sampling: Sampling, adapter: str | None = None) -> list[Completion]:
        if self._fail_after is not None and len(self.prompts) >= self._fail_after:
            raise ModelError("the server went away")
        self.prompts.append(prompt)
        self.samplings.append(sampling)
        texts = [f" {sampling.seed} {n % 3}\n" if n else "" for n in range(sampling.n)]
        return [Completion(text, 0.0, 1, "stop") for text in texts]


def _writers(*models: Any) -> list[Writer]:
    return [
        Writer(WriterSettings(name=f"w{place}", style="raw"), lm, None, f"id{place}") for place, lm in enumerate(models)
    ]


async def test_exploration_shares_the_work_and_a_kill_costs_nothing_twice(
    films: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmrec.training.lettingo.explore.AT_ONCE", 4)
    histories = Histories(films, LabelSettings())
    sizes = GroupSettings(align=10, test=1)
    windows = user_groups(histories, films.interactions.n_users, WINDOWS, sizes, 0).align
    prompts = ProfilePrompts(films, ItemFields())
    settings = ExploreSettings(candidates=10, max_tokens=8)
    path = tmp_path / "profiles.jsonl"
    first, failing = _Scribe(), _Scribe(fail_after=5)
    with pytest.raises(ModelError, match="went away"):
        await explore(windows, _writers(first, failing), prompts, settings, CallLog(path), seed=0)
    assert [len(first.prompts), len(failing.prompts)] == [10, 5]
    again, rest = _Scribe(), _Scribe()
    found = await explore(windows, _writers(again, rest), prompts, settings, CallLog(path), seed=0)
    assert [len(again.prompts), len(rest.prompts)] == [0, 6]  # the four of the last unwritten lot are asked again
    assert {sampling.n for sampling in first.samplings} == {5}
    assert {sampling.temperature for sampling in first.samplings} == {1.0}
    assert len({sampling.seed for sampling in first.samplings}) == 10
    for own, window in zip(found, windows, strict=True):
        assert {candidate.user for candidate in own} == {window.user}
        texts = [candidate.text for candidate in own]
        assert len(set(texts)) == len(texts) == 6  # three different texts of each writer, none empty


class _Liner:
    """Writes two texts that differ in their line breaks alone, and one that differs in a word."""

    async def generate(self, prompt: Any, *, sampling: Sampling, adapter: str | None = None) -> list[Completion]:
        return [Completion(text, 0.0, 1, "stop") for text in ("Likes\n\n- war", "Likes - war", "Likes\nwar")]


@pytest.mark.parametrize(
    ("one_line", "expected"),
    [(True, ["Likes - war", "Likes war"]), (False, ["Likes\n\n- war", "Likes - war", "Likes\nwar"])],
)
async def test_profiles_for_a_policy_that_ends_at_a_line_break_are_one_line(
    films: Dataset, tmp_path: Path, one_line: bool, expected: list[str]
) -> None:
    histories = Histories(films, LabelSettings())
    windows = user_groups(histories, films.interactions.n_users, WINDOWS, GroupSettings(align=1, test=1), 0).align
    found = await explore(
        windows,
        _writers(_Liner()),
        ProfilePrompts(films, ItemFields()),
        ExploreSettings(candidates=3),
        CallLog(tmp_path / "profiles.jsonl"),
        seed=0,
        one_line=one_line,
    )
    assert [[candidate.text for candidate in own] for own in found] == [expected]
