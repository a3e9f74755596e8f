"""Click decisions against real held-out items."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.simulate.fidelity import click_fidelity, draw_cases
from tests.simulate.conftest import World
from tests.simulate.world import Taster


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
