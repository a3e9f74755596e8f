"""The private state: what tires, what pleases, and that it survives save and load."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmrec.errors import ConfigError
from llmrec.roles.instruction import Predicate
from llmrec.roles.mindset import Look, Mindset, UserConfig, after_asking, after_nothing, shift, start, update
from llmrec.roles.opinion import Opinion, labels, log_odds, sigmoid
from llmrec.roles.persona import Taste

CONFIG = UserConfig()
SHARE = {"Western": 0.1, "Drama": 0.4, "Sci-Fi": 0.1}
TOPICS = st.lists(st.sampled_from(["Western", "Drama", "Sci-Fi"]), max_size=3, unique=True).map(tuple)


def fresh() -> Mindset:
    return Mindset(satisfaction=0.6, patience=12.0, patience_start=12.0)


def after(topics: list[tuple[str, ...]], label: str = "skip", mindset: Mindset | None = None) -> Mindset:
    state = mindset or fresh()
    for one in topics:
        state = update(state, Look(topics=one), label, SHARE, CONFIG)
    return state


def test_golden_first_skip() -> None:
    """One skipped Western: exposure 0.9, below the free exposure of 1, so no fatigue.

    Satisfaction 0.85 * 0.6 + 0.15 * 0.3 = 0.555; patience 11 of 12; d = 0.35 * 0.445 + 0.3 / 12 = 0.18075.
    """
    state = after([("Western",)])
    assert state.exposure == {"Western": pytest.approx(0.9)}
    assert state.satisfaction == pytest.approx(0.555)
    assert state.patience == 11.0
    assert state.disengagement(CONFIG) == pytest.approx(0.18075)


def test_golden_fatigue_after_three_of_a_kind() -> None:
    """Exposure 0.9, then 0.85 * 0.9 + 0.9 = 1.665, then 0.85 * 1.665 + 0.9 = 2.31525: fatigue 1 - exp(-1.31525 / 2)."""
    state = after([("Western",)] * 3)
    assert state.fatigue(("Western",), CONFIG) == pytest.approx(1 - math.exp(-1.31525 / 2))
    assert state.fatigue(("Sci-Fi",), CONFIG) == 0.0


def test_repeated_topics_raise_disengagement_monotonically() -> None:
    signal = [after([("Western",)] * n).disengagement(CONFIG) for n in range(12)]
    assert signal == sorted(signal)
    assert signal[-1] > 0.7


def test_a_varied_stream_disengages_less_than_a_single_topic() -> None:
    varied = after([("Western",), ("Drama",), ("Sci-Fi",)] * 3)
    assert varied.disengagement(CONFIG) < after([("Western",)] * 9).disengagement(CONFIG)


@pytest.mark.parametrize("label", ["4", "5", "yes"])
def test_a_fresh_relevant_item_lowers_disengagement(label: str) -> None:
    tired = after([("Western",)] * 5)
    assert after([("Sci-Fi",)], label, tired).disengagement(CONFIG) < tired.disengagement(CONFIG)


def test_fatigue_comes_from_topics_and_not_from_clicks() -> None:
    skipped, clicked = after([("Western",)] * 5), after([("Western",)] * 5, "5")
    assert skipped.recent_fatigue == clicked.recent_fatigue
    assert clicked.disengagement(CONFIG) < skipped.disengagement(CONFIG)
    varied_clicks = after([("Western",), ("Drama",), ("Sci-Fi",)], "5")
    assert varied_clicks.disengagement(CONFIG) < fresh().disengagement(CONFIG)


@given(st.lists(st.tuples(TOPICS, st.sampled_from([*labels(True), "yes"])), max_size=40))
def test_state_stays_in_range_and_survives_save_and_load(stream: list[tuple[tuple[str, ...], str]]) -> None:
    state = fresh()
    for topics, label in stream:
        state = update(state, Look(topics=topics, as_asked=len(topics) > 1), label, SHARE, CONFIG)
        assert 0.0 <= state.disengagement(CONFIG) < 1.0
        assert 0.0 <= state.patience <= state.patience_start
        assert 0.0 <= state.satisfaction <= 1.0
    loaded = Mindset.model_validate_json(state.model_dump_json())
    assert loaded == state


def test_save_and_load_keeps_target_and_question() -> None:
    state = fresh().model_copy(
        update={
            "target": (Taste("genres", "War"),),
            "asked": Predicate(mode="any", attribute="genres", values=("War",)),
        }
    )
    assert Mindset.model_validate_json(state.model_dump_json()) == state


def test_patience_runs_out_and_regret_costs_more() -> None:
    assert after([()] * 12).out_of_patience
    assert not after([()] * 11).out_of_patience
    assert after([()], "1").patience == 12.0 - CONFIG.regret_cost
    assert after([()], "5", after([()])).patience == 11.75


def test_an_empty_slate_costs() -> None:
    state = after_nothing(fresh(), CONFIG)
    assert state.patience == 7.0
    assert state.disengagement(CONFIG) > fresh().disengagement(CONFIG)


def test_asking_buys_patience_for_one_more_list() -> None:
    worn = fresh().model_copy(update={"patience": 0.5})
    asked = after_asking(worn, Predicate(mode="unchecked"), CONFIG)
    assert asked.patience == CONFIG.second_chance_patience
    assert after_asking(fresh(), Predicate(mode="unchecked"), CONFIG).patience == 12.0


def test_thresholds_of_zero_and_one_mean_always_and_never() -> None:
    state = after([("Western",)] * 12)
    assert fresh().speaks_up(UserConfig(threshold=0.0))
    assert not state.speaks_up(UserConfig(threshold=1.0))


def test_golden_prior() -> None:
    """An opinion of one half becomes the prior itself where the mindset is neutral."""
    assert sigmoid(log_odds(0.5) + shift(fresh(), Look(), CONFIG)) == pytest.approx(CONFIG.click_prior)


def test_mindset_moves_the_odds() -> None:
    plain = shift(fresh(), Look(), CONFIG)
    assert shift(fresh(), Look(on_target=True), CONFIG) == pytest.approx(plain + CONFIG.target_weight)
    assert shift(fresh(), Look(as_asked=True), CONFIG) == pytest.approx(plain + CONFIG.asked_weight)
    assert shift(fresh(), Look(as_asked=False), CONFIG) == pytest.approx(plain - CONFIG.asked_weight)
    tired = after([("Western",)] * 6).model_copy(update={"satisfaction": 0.6})
    assert shift(tired, Look(topics=("Western",)), CONFIG) < plain
    assert shift(tired, Look(topics=("Sci-Fi",)), CONFIG) == pytest.approx(plain)


def test_start_draws_patience_in_range() -> None:
    drawn = [start((), np.random.default_rng(seed), CONFIG).patience for seed in range(50)]
    assert all(8.0 <= patience <= 20.0 for patience in drawn)
    assert len(set(drawn)) == 50


def test_golden_draws() -> None:
    opinion = Opinion(labels(True), (0.5, 0.05, 0.05, 0.1, 0.2, 0.1))
    assert opinion.click == 0.5
    assert opinion.draw(0.5, 0.6, 0.0) == "skip"
    assert opinion.draw(0.5, 0.4, 0.0) == "1"
    assert opinion.draw(0.5, 0.4, 0.35) == "3"
    assert opinion.draw(0.5, 0.4, 0.999) == "5"
    assert opinion.expected_stars == pytest.approx((0.05 + 0.1 + 0.3 + 0.8 + 0.5) / 0.5)
    assert Opinion(labels(False), (0.25, 0.75)).draw(0.75, 0.7, 0.9) == "yes"
    assert Opinion(labels(False), (0.25, 0.75)).expected_stars is None


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sum to 1, got 1\.1"):
        UserConfig(weight_fatigue=0.45)
    with pytest.raises(ConfigError, match="patience_high"):
        UserConfig(patience_high=3)
    with pytest.raises(ValidationError, match="tiredness"):
        UserConfig.model_validate({"tiredness": 1})
