"""Click decisions against real held-out items."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.errors import ConfigError
from llmrec.simulate.fidelity import click_fidelity, draw_cases
from tests.simulate.conftest import World
from tests.simulate.world import ChatTaster, Taster


async def test_a_reader_of_tastes_beats_both_constants_and_popularity(world: World) -> None:
    dataset, split = world
    lm = Taster()
    found = await click_fidelity(lm, dataset, split, n_users=40, seed=0)
    assert found.model.n == 80
    assert found.model.positives == 40
    assert found.model.over_always.low > 0
    assert found.model.over_never.low > 0
    assert found.over_popularity.low > 0
    assert found.model.accuracy.value > 0.7
    assert found.model.always_click.value == 0.5
    assert all("\nShown: " in prompt and prompt.count("Shown:") == 1 for prompt in lm.prompts)
    assert found.to_json()["model"]["auc"]["value"] > 0.7


async def test_an_indifferent_model_does_not(world: World) -> None:
    dataset, split = world
    found = await click_fidelity(Taster(taken=0.6, adores_all=True), dataset, split, n_users=40, seed=0)
    assert found.model.accuracy.value == 0.5
    assert found.model.auc.value == 0.5
    assert found.over_popularity.high < 0.5


def test_cases_are_held_out_items_and_items_that_the_user_never_had(world: World) -> None:
    dataset, split = world
    cases = draw_cases(dataset, split, n_users=25, seed=0, stage="test")
    assert len(cases) == 50
    held_out = dict(zip(split.users.tolist(), split.test.tolist(), strict=True))
    for case in cases:
        if case.taken:
            assert case.item == held_out[case.user]
        else:
            assert case.item not in dataset.interactions.history(case.user)
    assert cases == draw_cases(dataset, split, n_users=25, seed=0, stage="test")
    assert cases != draw_cases(dataset, split, n_users=25, seed=1, stage="test")


async def test_failed_decisions_count_as_wrong(world: World) -> None:
    dataset, split = world
    found = await click_fidelity(Taster(fail_on="Category: "), dataset, split, n_users=10, seed=0)
    assert found.model.failed == 20
    assert found.model.accuracy.value == 0.0
    assert np.isnan(found.probabilities).all()


async def test_prompts_never_hold_the_answer(world: World) -> None:
    """The held-out item stands in the question only, never in the past or among the tastes' evidence."""
    dataset, split = world
    lm = Taster()
    found = await click_fidelity(lm, dataset, split, n_users=10, seed=0)
    for case, prompt in zip(found.cases, lm.prompts, strict=True):
        past = prompt.split("\nShown: ")[0]
        assert f"{dataset.catalogue.display(case.item)} " not in past.replace(";", " ")


@pytest.mark.parametrize("n_users", [5, 400])
async def test_more_users_than_there_are_means_all(world: World, n_users: int) -> None:
    dataset, split = world
    found = await click_fidelity(Taster(), dataset, split, n_users=n_users, seed=0)
    assert found.model.n == 2 * min(n_users, 40)


# Style chat ----------------------------------------------------------------------------------------------------------


async def test_a_chat_model_is_asked_in_messages_user_by_user(world: World) -> None:
    dataset, split = world
    lm = ChatTaster()
    found = await click_fidelity(lm, dataset, split, n_users=12, seed=0, adapter=None, concurrency=1)
    assert (found.style, found.model.n) == ("chat", 24)
    assert found.model.accuracy.value > 0.6
    systems = [prompt.split("\nOffered now")[0] for prompt in lm.prompts]
    assert all(systems[place] == systems[place + 1] for place in range(0, 24, 2))  # one user's follow each other
    assert len(set(systems)) == 12
    assert len(found.seconds) == 24
    with pytest.raises(AssertionError):  # a text reader is no chat model
        await click_fidelity(Taster(), dataset, split, n_users=2, seed=0, style="chat")


async def test_a_bias_is_measured_on_other_users_and_taken_away(world: World) -> None:
    dataset, split = world
    biased = ChatTaster(bias=4.0)
    plain = await click_fidelity(biased, dataset, split, n_users=20, seed=0, adapter=None)
    assert plain.model.accuracy.value == 0.5  # it says yes to everything
    asked = len(biased.prompts)
    found = await click_fidelity(biased, dataset, split, n_users=20, seed=0, adapter=None, n_calibration=20)
    assert found.cases == plain.cases
    assert found.model.accuracy.value > 0.6
    assert found.n_calibration == 40
    assert found.calibration.offset < -1
    assert len(biased.prompts) == asked + 80
    assert len(found.seconds) == 40
    assert found.to_json()["calibration"]["n"] == 40


async def test_calibration_needs_users_beside_the_measured_ones(world: World) -> None:
    dataset, split = world
    with pytest.raises(ConfigError, match="beside the measured ones"):
        await click_fidelity(ChatTaster(), dataset, split, n_users=30, seed=0, adapter=None, n_calibration=20)
    with pytest.raises(ConfigError, match="n_calibration"):
        await click_fidelity(ChatTaster(), dataset, split, n_users=5, seed=0, adapter=None, n_calibration=-1)


async def test_the_text_style_is_calibrated_as_well(world: World) -> None:
    dataset, split = world
    found = await click_fidelity(Taster(taken=0.4, other=0.05), dataset, split, n_users=20, seed=0, n_calibration=20)
    assert found.style == "text"
    assert found.calibration.offset > 0  # it hardly ever clicks
    assert max(found.uncorrected) == pytest.approx(0.4)
    assert max(found.probabilities) > 0.5
    assert len(found.seconds) == len(found.cases)
    with pytest.raises(ConfigError, match="per_user"):
        await click_fidelity(Taster(), dataset, split, n_users=5, seed=0, per_user=0)


async def test_several_decisions_of_a_user_come_after_a_shorter_past(world: World) -> None:
    dataset, split = world
    lm = Taster()
    found = await click_fidelity(lm, dataset, split, n_users=8, seed=0, per_user=3)
    assert found.model.n == 48
    for case, prompt in zip(found.cases, lm.prompts, strict=True):
        events = dataset.interactions.history(case.user).tolist()
        assert case.n_past == len(events) - 3
        if case.taken:
            assert case.item in events[-3:]
        past = prompt.split("\nShown: ")[0].replace(";", " ")
        assert not any(f"{dataset.catalogue.display(item)} " in past for item in events[-3:])
    once = draw_cases(dataset, split, n_users=8, seed=0, stage="test")
    assert {case[:3] for case in once if case.taken} <= {case[:3] for case in found.cases}


async def test_users_with_few_events_give_fewer_decisions(world: World) -> None:
    dataset, split = world
    cases = draw_cases(dataset, split, n_users=3, seed=0, stage="test", per_user=100)
    for user in {case.user for case in cases}:
        own = [case for case in cases if case.user == user]
        assert sum(case.taken for case in own) == len(dataset.interactions.history(user)) - 1
        assert {case.n_past for case in own} == {1}
