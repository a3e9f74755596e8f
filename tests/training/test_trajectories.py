"""Turns of tool calls: true observations, parts that share neither users nor language, and any catalogue."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split, leave_one_out
from llmrec.errors import DataError
from llmrec.ranking import registry
from llmrec.roles import marks, planner
from llmrec.roles.inventory import ALL_VOICES, DEVELOPMENT_FAMILIES, TOOL_FAMILIES
from llmrec.roles.request import Request
from llmrec.roles.tool_text import ANSWER, READ
from llmrec.roles.voices import HELD_OUT_FAMILIES, Voice
from llmrec.roles.words import FILLER
from llmrec.testing.tools import small_dataset, small_resources
from llmrec.tools.base import ToolContext, ToolEvent, call
from llmrec.tools.pool import CandidatePool
from llmrec.tools.registry import allowed
from llmrec.tools.resources import Resources, build_resources
from llmrec.training.tools.masks import argument_example, call_counts, selection_example
from llmrec.training.tools.trajectories import Trajectory, next_call, trajectories, users_of_part


@pytest.fixture(scope="module")
def resources(films: Dataset, films_split: Split) -> Resources:
    knn = registry.fitted("knn", films, films_split)
    return build_resources(films, train=films_split.train, neighbours=knn)


@pytest.fixture(scope="module")
def turns(resources: Resources, films_split: Split) -> list[Trajectory]:
    users = users_of_part(films_split.train, seed=0)["train"]
    return trajectories(resources, films_split.train, users=list(users), n=60, seed=0, part="train")


def test_families_for_training_development_and_test_are_apart() -> None:
    parts = [set(TOOL_FAMILIES), set(DEVELOPMENT_FAMILIES), set(HELD_OUT_FAMILIES)]
    assert set.union(*parts) == set(ALL_VOICES)
    assert sum(map(len, parts)) == len(ALL_VOICES)
    assert len(TOOL_FAMILIES) >= 15
    assert sum(len(lines) for family in TOOL_FAMILIES for lines in vars(ALL_VOICES[family]).values()) > 600


_CONNECTING = FILLER | {"those", "these", "none", "there", "what's"}


def _constructions(voice: Voice) -> set[tuple[str, str]]:
    """Pairs of neighbouring words of its templates of which one says more than words that ask and connect."""
    found: set[tuple[str, str]] = set()
    for lines in vars(voice).values():
        for line in lines:
            words = re.findall(r"\{\w+\}|[\w']+", line.lower())
            found |= {
                pair for pair in pairwise(words) if any(word not in _CONNECTING and word[0] != "{" for word in pair)
            }
    return found


def _openings(voice: Voice) -> set[str]:
    """Whole templates, without marks and case."""
    return {" ".join(re.findall(r"\{\w+\}|[\w']+", line.lower())) for lines in vars(voice).values() for line in lines}


@pytest.mark.parametrize("held_out", HELD_OUT_FAMILIES)
def test_no_held_out_wording_is_trained_on(held_out: str) -> None:
    """No template as a whole, and no pair of words of which one carries meaning ("fond of", "no go", "kindly omit")."""
    test = _constructions(ALL_VOICES[held_out]), _openings(ALL_VOICES[held_out])
    for family in (*TOOL_FAMILIES, *DEVELOPMENT_FAMILIES):
        train = _constructions(ALL_VOICES[family]), _openings(ALL_VOICES[family])
        assert not test[0] & train[0], family
        assert not test[1] & train[1], family


def test_users_of_the_parts_are_others(films_split: Split) -> None:
    parts = users_of_part(films_split.train, seed=0)
    everyone = np.concatenate(list(parts.values()))
    assert len(np.unique(everyone)) == len(everyone) == int((films_split.train.lengths() >= 1).sum())
    assert len(parts["test"]) == pytest.approx(len(everyone) / 10, abs=2)


def test_every_observation_is_true(turns: list[Trajectory], resources: Resources) -> None:
    """Running the calls again gives the sizes that the model is shown, and the same pool."""

    async def again(turn: Trajectory) -> CandidatePool:
        request = turn.request
        context = ToolContext(
            resources,
            history=turn.history,
            excluded=frozenset(turn.blank.shown) | request.banned_items,
            named={resources.dataset.catalogue.display(row): row for row in request.like_titles},
            user=turn.user,
        )
        pool = CandidatePool()
        for one, after in zip(turn.calls, turn.plans[1:], strict=True):
            pool, event = await call(allowed(planner.ALL_TOOLS), one, pool, context)
            assert event.n_after == after.done[-1].n_after
        return pool

    acting = [turn for turn in turns if turn.calls]
    assert len(acting) > 35
    for turn in acting:
        assert asyncio.run(again(turn)).rows == turn.pool.rows
        assert not turn.pool.items() & (turn.request.banned_items | set(turn.history))
        for row in turn.pool.rows if turn.calls[-1].name not in ("recommend", "similar") else ():
            assert turn.request.allows(resources.dataset.catalogue, row)


def test_small_talk_and_what_no_tool_serves_is_answered(turns: list[Trajectory]) -> None:
    idle = [turn for turn in turns if turn.meant.smalltalk]
    assert idle
    for turn in idle:
        assert [step.name for step in turn.reading()] == [ANSWER]
        assert turn.acting() == ()
    assert {step.name for turn in turns if turn not in idle for step in turn.reading()} == {READ}


def test_all_tools_occur_and_turns_end_with_an_answer(turns: list[Trajectory]) -> None:
    counts = call_counts([one for turn in turns for one in (turn.reading(), turn.acting()) if one])
    assert set(counts) == {READ, *planner.ALL_TOOLS}
    for turn in turns:
        if turn.acting() and len(turn.calls) < planner.MAX_CALLS:
            assert turn.acting()[-1].name == ANSWER


def test_what_is_taught_reads_back_as_what_was_meant(turns: list[Trajectory]) -> None:
    """Up to what the catalogue does not find in the message: at most one condition in fifty."""
    missed = total = 0
    for turn in turns:
        if turn.meant.smalltalk:
            continue
        read = marks.parse(turn.blank, turn.reading()[0].arguments)
        assert read.turn == turn.meant.turn
        for name in ("want", "avoid", "like_titles", "dislike_titles", "seen_titles"):
            meant, found = set(getattr(turn.meant, name)), set(getattr(read, name))
            assert found <= meant
            missed += len(meant - found)
            total += len(meant)
    assert total > 50
    assert missed / total < 0.02


def test_a_seed_gives_the_same_turns(resources: Resources, films_split: Split, turns: list[Trajectory]) -> None:
    users = list(users_of_part(films_split.train, seed=0)["train"])
    again = trajectories(resources, films_split.train, users=users, n=8, seed=0, part="train")
    assert again == turns[: len(again)]
    other = trajectories(resources, films_split.train, users=users, n=8, seed=0, part="test")
    assert [one.blank.message for one in other] != [one.blank.message for one in again]


def test_both_templates_are_texts_of_one_conversation(turns: list[Trajectory]) -> None:
    for turn in turns[:30]:
        for conversation in (turn.reading(), turn.acting()):
            if conversation:
                names = [segment.text for segment in selection_example(conversation) if segment.learn]
                assert names == [step.name for step in conversation]
                whole = "".join(segment.text for segment in argument_example(conversation, None))
                assert whole.startswith(conversation[-1].before)


def test_an_empty_result_is_mended_once() -> None:
    dataset = small_dataset()
    request = Request(query="zebra crossing")
    plan = planner.plan_form(request, dataset.catalogue, history=False)
    planned = planner.gold_calls(request, dataset.catalogue, history=False)
    first = next_call(request, plan, planned)
    assert first is not None
    assert first.name == "search"
    empty = replace(plan, done=(ToolEvent("search"),))
    mended = next_call(request, empty, planned)
    assert mended is not None
    assert mended.name == "popular"
    assert next_call(request, replace(empty, done=(*empty.done, ToolEvent("popular", n_after=5))), planned) is None


def test_any_catalogue_will_do() -> None:
    resources = small_resources()
    train = leave_one_out(resources.dataset.interactions).train
    made = trajectories(resources, train, users=[0], n=30, seed=3, part="train")
    assert len(made) >= 30
    assert any(turn.calls for turn in made)


def test_a_part_without_users_is_an_error(resources: Resources, films_split: Split) -> None:
    with pytest.raises(DataError, match="'validation' has no users"):
        trajectories(resources, films_split.train, users=[], n=3, seed=0, part="validation")
