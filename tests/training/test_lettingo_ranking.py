"""What a profile in front of its prompt adds to a recommender's ranking: the measure, with an engine that is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmrec.assets import asset
from llmrec.data.dataset import Dataset
from llmrec.lm.scripted import ScriptedLM
from llmrec.prompting import as_data
from llmrec.training.lettingo.call_log import CallLog
from llmrec.training.lettingo.engines import Engine, Player
from llmrec.training.lettingo.ranking import CANDIDATES, ranking_gain
from llmrec.training.lettingo.recipe import LettingoRecipe
from llmrec.training.lettingo.windows import (
    GroupSettings,
    Histories,
    LabelSettings,
    Window,
    WindowSettings,
    user_groups,
)
from llmrec.training.recipe import load_recipe

WINDOWS = WindowSettings(recent=3, older=(8,), at_least=8)


@pytest.fixture
def windows(films: Dataset) -> list[Window]:
    histories = Histories(films, LabelSettings())
    return user_groups(histories, films.interactions.n_users, WINDOWS, GroupSettings(align=1, test=4), 0).test


class _Recommender:
    """Puts so many candidates above the target, and so many beside it, as the profile in its prompt says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.players: list[Player] = []
        monkeypatch.setattr("llmrec.training.lettingo.ranking.open_engines", self._open)

    def _open(self, players: Mapping[str, Player], **_: Any) -> dict[str, Engine]:
        self.players += players.values()
        lm = ScriptedLM(score=self._score, name="told", adapters=["recommender"])
        return {name: Engine(lm, player.adapter, "told") for name, player in players.items()}

    def _score(self, prompt: Any, continuations: Sequence[str], adapter: str | None) -> list[float]:
        self.asked.append((prompt, list(continuations)))
        above, beside = 2, 0  # without a profile
        for told in ("0 above", "9 above", "10 above", "1 beside"):
            if f"Profile: {told}" in prompt:
                number = int(told.split()[0])
                above, beside = (number, 0) if told.endswith("above") else (0, number)
        rest = len(continuations) - 1 - above - beside
        return [-2.0, *[-1.0] * above, *[-2.0] * beside, *[-3.0] * rest]


def _recipe(*overrides: str) -> LettingoRecipe:
    recipe = load_recipe(asset("finetune/lettingo.yaml"), overrides)
    assert isinstance(recipe, LettingoRecipe)
    return recipe


async def test_golden_gain_in_ndcg(
    films: Dataset, windows: list[Window], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NDCG@10 of one target at rank r is 1 / log2(r + 1), and 0 behind rank 10.

    Two above: rank 3, 1/2. None above: rank 1, 1. Nine above: rank 10, 1/log2(11) = 0.2891. Ten above: 0. One beside
    the target counts as above it: rank 2, 1/log2(3) = 0.6309.
    """
    _Recommender(monkeypatch)
    arms = {"none": "", "first": "0 above", "tenth": "9 above", "eleventh": "10 above", "tied": "1 beside"}
    profiles = {arm: [text] * len(windows) for arm, text in arms.items()}
    text = await ranking_gain(_recipe(), films, windows, profiles, CallLog(tmp_path / "log"), n_users=4)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert rows["none"] == "| none | 0.5000 [0.5000, 0.5000] |  |"
    assert rows["first"] == "| first | 1.0000 [1.0000, 1.0000] | +0.5000 [+0.5000, +0.5000] |"
    assert rows["tenth"] == "| tenth | 0.2891 [0.2891, 0.2891] | -0.2109 [-0.2109, -0.2109] |"
    assert rows["eleventh"] == "| eleventh | 0.0000 [0.0000, 0.0000] | -0.5000 [-0.5000, -0.5000] |"
    assert rows["tied"] == "| tied | 0.6309 [0.6309, 0.6309] | +0.1309 [+0.1309, +0.1309] |"
    assert text.startswith("4 users, 50 drawn candidates")


async def test_every_arm_ranks_the_same_candidates_which_the_user_does_not_have(
    films: Dataset, windows: list[Window], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _Recommender(monkeypatch)
    profiles = {"none": [""] * 4, "dpo": [f"{place} words" for place in range(4)]}
    log = tmp_path / "log.jsonl"
    text = await ranking_gain(_recipe(), films, windows, profiles, CallLog(log), n_users=3)
    assert len(told.asked) == 2 * 3  # the first three users
    assert {player.adapter for player in told.players} == {"recommender"}
    for place, window in enumerate(windows[:3]):
        (plain, first), (profiled, second) = told.asked[place], told.asked[3 + place]
        assert first == second
        assert len(set(first)) == CANDIDATES
        assert first[0] == as_data(films.catalogue.flat(window.targets[0].item))
        had = {as_data(films.catalogue.flat(int(item))) for item in films.interactions.history(window.user)}
        assert not had & set(first[1:])
        assert profiled.endswith(plain)
        assert f"Profile: {place} words\n" in profiled
        assert first[0] not in plain  # the history ends before the target
    again = await ranking_gain(_recipe(), films, windows, profiles, CallLog(log), n_users=3)
    assert again == text
    assert len(told.asked) == 2 * 3  # answered from the log
