"""The session loop: order, endings, failures, and controls that a sound environment must pass."""

from __future__ import annotations

from typing import Any

import pytest

from llmrec.roles.loading import load_agent
from llmrec.roles.mindset import UserConfig
from llmrec.roles.persona import taste_index
from llmrec.roles.simulated_user import Player, look, new_user
from llmrec.simulate.metrics import (
    checked_compliance,
    click_rate,
    compare,
    decided,
    first_slate_ndcg,
    instruction_rate,
    n_clicks,
    summarise_run,
)
from llmrec.simulate.policies import RandomPolicy, build_policies
from llmrec.simulate.session import Session, Stage, play
from tests.simulate.conftest import Run, World
from tests.simulate.world import GENRES, ChatTaster, FixedPolicy, Taster

NEVER_LEAVES = UserConfig(threshold=1.0, patience_low=1000.0, patience_high=1000.0)


def _stage(world: World, lm: Taster | None = None, config: UserConfig | None = None, **changes: Any) -> Stage:
    dataset, split = world
    player = Player(lm or Taster(), taste_index(dataset, split), config or UserConfig(), 0)
    settings = {"max_rounds": 8, "slate_size": 5} | changes
    return Stage(player, load_agent("user").build(player), **settings)


def _median(values: list[int]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


# 1. Order ------------------------------------------------------------------------------------------------------------


async def test_nothing_happens_after_the_first_leave(run: Run) -> None:
    result = await run([FixedPolicy("western", run.world[0], ("Western",))], n_users=20)
    silent = [one for one in result.sessions if one.ended == "out of patience"]
    assert silent
    for session in result.sessions:
        actions = [one["action"] for played in session.rounds for one in played.shown]
        if session.rounds[-1].slate:  # a policy that has nothing left to show is left without an item to leave at
            assert actions.count("leave") == (session.ended == "out of patience")
        assert "leave" not in actions[:-1]
        assert all(len(played.shown) == len(played.slate) for played in session.rounds[:-1])


async def test_a_user_without_patience_leaves_in_the_middle_of_a_list(run: Run) -> None:
    config = UserConfig(threshold=1.0, patience_low=2.0, patience_high=2.0)
    result = await run([FixedPolicy("western", run.world[0], ("Western",))], n_users=10, config=config)
    assert {one.ended for one in result.sessions} == {"out of patience"}
    last = [one.rounds[-1] for one in result.sessions]
    assert any(len(played.shown) < len(played.slate) for played in last)
    assert all(played.shown[-1]["action"] == "leave" for played in last)
    assert all(len(played.clicks) == len(played.shown) - 1 for played in last)


async def test_the_order_of_a_list_changes_what_happens(world: World) -> None:
    stage = _stage(world)
    outcomes = set()
    for order in ((0, 8, 16, 1, 2), (1, 2, 0, 8, 16), (16, 1, 8, 2, 0)):
        reactions = [await look(stage.player, new_user(stage.player, user), order) for user in range(8)]
        outcomes.add(tuple(tuple(sorted((s.item, s.action) for s in one.shown)) for one in reactions))
    assert len(outcomes) == 3


async def test_every_decision_reads_those_before_it(world: World) -> None:
    lm = Taster()
    stage = _stage(world, lm)
    await look(stage.player, new_user(stage.player, 0), (0, 1, 2))
    first, second, third = lm.prompts
    assert second.startswith(first)
    assert third.startswith(second)


# 3. Horizon ----------------------------------------------------------------------------------------------------------


async def test_sessions_with_random_items_are_neither_too_short_nor_endless(run: Run) -> None:
    result = await run([RandomPolicy(240)], n_users=24, max_rounds=10)
    assert _median([len(one.rounds) for one in result.sessions]) >= 3
    assert sum(one.ended == "round limit" for one in result.sessions) < 0.8 * len(result.sessions)


# 4. Trigger ----------------------------------------------------------------------------------------------------------


async def test_an_oracle_is_rarely_instructed_and_a_single_topic_mostly(run: Run) -> None:
    adored = Taster(taken=0.97, adores_all=True)  # whatever the oracle shows is what the user wants
    oracle = await run([FixedPolicy("oracle", run.world[0])], lm=adored, n_users=15)
    adverse = await run([FixedPolicy("western", run.world[0], ("Western",))], n_users=16)
    rounds = [played for one in oracle.sessions for played in one.rounds]
    assert sum(played.instruction is not None for played in rounds) < 0.05 * len(rounds)
    fed_up = [one for one in adverse.sessions if one.user % 8 != GENRES.index("Western")]
    assert sum(instruction_rate(one) for one in fed_up) > 0.5 * len(fed_up)


@pytest.mark.parametrize(("threshold", "rate"), [(0.0, 1.0), (1.0, 0.0)])
async def test_thresholds_zero_and_one_give_always_and_never(run: Run, threshold: float, rate: float) -> None:
    config = UserConfig(threshold=threshold, patience_low=1000.0, patience_high=1000.0)
    result = await run([RandomPolicy(240)], config=config, n_users=10, max_rounds=3)
    assert {instruction_rate(one) for one in result.sessions} == {rate}


async def test_a_user_who_spoke_up_stays_only_by_second_chance(run: Run) -> None:
    settings: dict[str, Any] = {"threshold": 0.0, "patience_low": 1000.0, "patience_high": 1000.0}
    stay = await run([RandomPolicy(240)], config=UserConfig(second_chance=1.0, **settings), n_users=10, max_rounds=3)
    go = await run([RandomPolicy(240)], config=UserConfig(second_chance=0.0, **settings), n_users=10, max_rounds=3)
    assert {one.ended for one in stay.sessions} == {"round limit"}
    assert {(one.ended, len(one.rounds)) for one in go.sessions} == {("gave up after asking", 1)}


# 5. Instruction sensitivity ------------------------------------------------------------------------------------------


async def test_reading_instructions_pays_and_ignoring_or_swapping_them_does_not(run: Run) -> None:
    dataset = run.world[0]
    policies = [
        FixedPolicy("reads", dataset, follow=True),
        FixedPolicy("blank", dataset),
        FixedPolicy("swapped", dataset, follow=True, swap="Please less Drama, less Horror"),
    ]
    config = UserConfig(second_chance=1.0)
    result = await run(policies, n_users=16, max_rounds=8, config=config)
    for other in ("blank", "swapped"):
        assert compare(result.sessions, "reads", other, _compliance, seed=0).low > 0
        assert compare(result.sessions, "reads", other, lambda one: float(len(one.rounds)), seed=0).value > 0


def _compliance(session: Session) -> float:
    shares = [after for _, _, after in checked_compliance(session)]
    return sum(shares) / len(shares) if shares else 0.0


# 8. Seeds ------------------------------------------------------------------------------------------------------------


def _content(sessions: tuple[Session, ...]) -> list[dict[str, Any]]:
    return [one.model_dump(exclude={"seconds"}) for one in sessions]


async def test_a_seed_gives_the_same_sessions_whatever_the_order_and_the_company(run: Run) -> None:
    policy = RandomPolicy(240)
    first = await run([policy], n_users=6)
    one_by_one = await run([policy], n_users=6, concurrency=1)
    in_company = await run([FixedPolicy("western", run.world[0], ("Western",)), policy], n_users=6, concurrency=3)
    other_seed = await run([policy], n_users=6, seed=1)
    assert _content(first.sessions) == _content(one_by_one.sessions)
    assert _content(first.sessions) == [one for one in _content(in_company.sessions) if one["policy"] == "random"]
    assert _content(first.sessions) != _content(other_seed.sessions)


async def test_policies_meet_the_same_users_in_the_same_mood(run: Run) -> None:
    result = await run(
        [RandomPolicy(240), FixedPolicy("western", run.world[0], ("Western",))], n_users=10, max_rounds=1
    )
    by_policy = {
        name: [(one.user, one.wants) for one in result.sessions if one.policy == name] for name in ("random", "western")
    }
    assert by_policy["random"] == by_policy["western"]


# 9. Reward hacking ---------------------------------------------------------------------------------------------------


async def test_repeating_one_item_does_not_pay(run: Run) -> None:
    adored = Taster(taken=0.97, adores_all=True)
    policies = [FixedPolicy("repeat", run.world[0], repeat=0), FixedPolicy("varied", run.world[0])]
    result = await run(policies, lm=adored, n_users=15)
    assert compare(result.sessions, "varied", "repeat", lambda one: float(len(one.rounds)), seed=0).low > 0
    repeated = [one for one in result.sessions if one.policy == "repeat"]
    assert all(sum(action not in ("skip", "view") for action in decided(one)) <= 1 for one in repeated)


async def test_empty_lists_end_the_session(run: Run) -> None:
    result = await run([FixedPolicy("nothing", run.world[0], empty=True)], n_users=10, max_rounds=20)
    assert {one.ended for one in result.sessions} <= {"out of patience", "gave up after asking"}
    assert max(len(one.rounds) for one in result.sessions) <= 8
    assert {click_rate(one) for one in result.sessions} == {0.0}


# Failures and strangers ----------------------------------------------------------------------------------------------


async def test_failures_are_kept_with_their_reason(run: Run) -> None:
    broken_policy = FixedPolicy("broken", run.world[0], fails_in_turn=1)
    result = await run([broken_policy], n_users=6, config=NEVER_LEAVES)
    assert {(one.ended, one.failed) for one in result.sessions} == {("failed", "OutputError: unreadable")}
    assert {len(one.rounds) for one in result.sessions} == {2}
    engine = await run([RandomPolicy(240)], lm=Taster(fail_on="Category: Western"), n_users=12)
    failed = [one for one in engine.sessions if one.failed]
    assert failed
    assert {one.failed for one in failed} == {"ModelError: the engine broke"}
    assert summarise_run(engine.sessions, run.world[1], seed=0)["random"]["failed"] == len(failed)


async def test_items_that_do_not_exist_are_counted_and_never_shown(run: Run) -> None:
    result = await run(
        [FixedPolicy("inventive", run.world[0], strangers=(240, -1))], n_users=4, max_rounds=2, config=NEVER_LEAVES
    )
    assert summarise_run(result.sessions, run.world[1], seed=0)["inventive"]["out_of_catalogue"] == 4 * 2 * 2
    assert all(len(played.slate) == 3 for one in result.sessions for played in one.rounds)
    honest = await run([RandomPolicy(240)], n_users=4, max_rounds=2)
    assert summarise_run(honest.sessions, run.world[1], seed=0)["random"]["out_of_catalogue"] == 0


async def test_simple_policies_never_repeat_history_or_what_was_shown(run: Run) -> None:
    dataset, split = run.world
    policies = build_policies(["popular", "knn", "random"], dataset, split, Taster(), slate_size=5)
    result = await run(policies, n_users=8, config=NEVER_LEAVES, max_rounds=4)
    for session in result.sessions:
        shown = [item for played in session.rounds for item in played.slate]
        assert len(shown) == len(set(shown)) == 20
        assert not set(shown).intersection(split.train.history(session.user).tolist())


async def test_a_session_remembers_itself(world: World) -> None:
    session = await play(
        _stage(world, max_rounds=2, config=NEVER_LEAVES), FixedPolicy("drama", world[0], ("Drama",)), 0
    )
    assert session.summary.startswith("2 rounds; ")
    assert session.summary.endswith("ended: round limit.")
    assert session.rounds[0].titles[0].startswith("Film ")


# 12. Four cells ------------------------------------------------------------------------------------------------------


async def test_accuracy_and_retention_are_different_axes(run: Run) -> None:
    dataset, split = run.world
    policies = [
        *build_policies(["knn", "random"], dataset, split, Taster(), slate_size=5),
        FixedPolicy("western", dataset, ("Western",)),
    ]
    result = await run(policies, n_users=20, max_rounds=8)
    cells = set()
    for name in ("knn", "random", "western"):
        own = [one for one in result.sessions if one.policy == name]
        ndcg = sum(first_slate_ndcg(one, split) for one in own) / len(own)
        cells.add((ndcg > 0.04, sum(len(one.rounds) for one in own) / len(own) > 4.5))
    assert len(cells) > 1


# Style chat ----------------------------------------------------------------------------------------------------------


async def test_a_chat_model_plays_whole_sessions(run: Run) -> None:
    lm = ChatTaster()
    config = UserConfig(adapter=None, threshold=0.2, second_chance=1.0)
    result = await run([RandomPolicy(240)], lm=lm, config=config, n_users=8, max_rounds=4)
    assert not any(one.failed for one in result.sessions)
    actions = {str(one["action"]) for s in result.sessions for r in s.rounds for one in r.shown}
    assert actions & {"skip", "view"}
    assert actions & {"click", "like", "dislike", "rate"}
    assert any(r.instruction for s in result.sessions for r in s.rounds)
    again = await run([RandomPolicy(240)], lm=ChatTaster(), config=config, n_users=8, max_rounds=4, concurrency=1)
    assert _content(result.sessions) == _content(again.sessions)
    systems = {prompt.split("\nOffered")[0].split("\nChosen")[0] for prompt in lm.prompts}
    own = {text.split("\nThese offers")[0] for text in systems}
    assert len({text for text in own if text.startswith("You are")}) == 8  # one beginning per user, all session long


@pytest.mark.parametrize("lm", [ChatTaster, Taster])
async def test_a_calibration_moves_the_clicks_in_either_style(run: Run, lm: type) -> None:
    def config(offset: float) -> UserConfig:
        return UserConfig(adapter=None, threshold=1.0, click_offset=offset, patience_low=99.0, patience_high=99.0)

    low, high = [
        await run([RandomPolicy(240)], lm=lm(), config=config(offset), n_users=6, max_rounds=2)
        for offset in (-3.0, 3.0)
    ]
    assert sum(map(n_clicks, low.sessions)) < sum(map(n_clicks, high.sessions)) / 2
