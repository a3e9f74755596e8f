"""Two views: nothing private of a simulated user reaches a recommender."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmrec.roles.instruction import Instruction, Predicate
from llmrec.roles.mindset import Mindset, UserConfig
from llmrec.roles.observation import Observation, Reply, Shown
from llmrec.roles.persona import Persona, Taste
from llmrec.roles.simulated_user import Interaction, Reaction, UserState
from llmrec.roles.user import Seen
from llmrec.simulate.session import observe
from tests.simulate.conftest import Run
from tests.simulate.world import FixedPolicy

PRIVATE_NAMES = {
    *Mindset.model_fields,
    *UserConfig.model_fields,
    *(one.name for one in fields(UserState)),
    *(one.name for one in fields(Interaction)),
    "likes",
    "wants",
    "reward",
    "predicate",
    "disengagement",
    "compliance",
} - {"item", "action", "turn"}
MARK = 0.7310585786300049  # stands in every private number
SECRET = "Clandestine"  # stands in every private text


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(_keys(one) for one in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(_keys(one) for one in value))
    return set()


@given(
    satisfaction=st.floats(0, 1),
    topics=st.dictionaries(st.text(min_size=1, max_size=5), st.floats(0, 9), max_size=3),
    said=st.booleans(),
    rounds=st.integers(1, 4),
)
def test_an_observation_has_no_path_from_the_mindset(
    satisfaction: float, topics: dict[str, float], said: bool, rounds: int
) -> None:
    predicate = Predicate(mode="any", attribute=SECRET, values=(SECRET,), bound=MARK)
    mindset = Mindset(
        satisfaction=satisfaction,
        patience=MARK,
        patience_start=MARK,
        exposure={f"{SECRET}{name}": value for name, value in topics.items()},
        recent_fatigue=MARK,
        target=(Taste(SECRET, SECRET),),
        asked=predicate,
    )
    persona = Persona(user=0, profile={"age_group": "25-34"}, likes=(Taste(SECRET, SECRET),), noun="film")
    decision = Interaction(0, 0, 5, "skip", "view", MARK, MARK)
    state = UserState(persona, mindset, (Seen(1, 5),), 0, (decision,), (SECRET,))
    instruction = Instruction(
        kind="more_of", attribute=SECRET, value=SECRET, say="Please more of it", predicate=predicate
    )
    reaction = Reaction(state, (Shown(5, "view"),), instruction=instruction if said else None)
    view = Observation(history=(1,), profile=persona.profile)
    for _ in range(rounds):
        view = observe(view, reaction, Reply((5,), (), ""))
    text = json.dumps(asdict(view))
    assert SECRET not in text
    assert str(MARK) not in text
    assert not _keys(asdict(view)) & PRIVATE_NAMES
    assert set(view.messages) == ({"Please more of it"} if said else set())


def test_the_types_of_the_public_side_name_nothing_private() -> None:
    assert is_dataclass(Observation)
    names = {one.name for public in (Observation, Shown) for one in fields(public)}
    assert not names & PRIVATE_NAMES


async def test_captured_observations_of_real_sessions_hold_no_private_field(run: Run) -> None:
    policy = FixedPolicy("western", run.world[0], ("Western",))
    result = await run([policy], n_users=15)
    assert sum(len(one.rounds) for one in result.sessions) == len(policy.seen) > 15
    said = {played.instruction.say for one in result.sessions for played in one.rounds if played.instruction}
    assert said
    for view in policy.seen:
        plain = asdict(view)
        assert not _keys(plain) & PRIVATE_NAMES
        assert set(plain["messages"]) <= said
        assert set(plain["profile"]) == {"age_group", "occupation"}
        assert all(set(one) == {"item", "action", "rating"} for shown in plain["feedback"] for one in shown)
