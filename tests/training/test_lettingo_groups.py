"""Groups of users: what they say where there are not so many users as were asked for."""

from __future__ import annotations

import pytest

from llmrec.data.dataset import Dataset
from llmrec.errors import DataError
from llmrec.training.lettingo.windows import (
    Groups,
    GroupSettings,
    Histories,
    LabelSettings,
    WindowSettings,
    shortfall,
    user_groups,
)

WINDOWS = WindowSettings(recent=10, older=(30,), at_least=8)


def _groups(films: Dataset, sizes: GroupSettings, windows: WindowSettings = WINDOWS) -> Groups:
    return user_groups(Histories(films, LabelSettings()), films.interactions.n_users, windows, sizes, 0)


def test_sizes_of_groups_too_far_apart_are_the_fault_of_the_sizes(films: Dataset) -> None:
    many = GroupSettings(start=30, align=1_000_000, test=5)
    with pytest.raises(DataError, match=r"users\.start=30, users\.align=1000000, users\.test=5 ask for") as refused:
        _groups(films, many)
    text = str(refused.value)
    assert "ask for 1000035 users, and" in text
    assert f"of {films.interactions.n_users} have the 19 rated events" in text
    assert "users.start and users.test would be left without users: set users.align to less" in text
    assert "windows.at_least" not in text
    assert [len(one) for one in _groups(films, many.model_copy(update={"align": 12}))] == [30, 12, 5]


def test_histories_too_short_for_any_group_are_the_fault_of_the_windows(films: Dataset) -> None:
    with pytest.raises(DataError, match=r"rated events; set windows\.at_least or windows\.older to less"):
        _groups(films, GroupSettings(start=30, align=12, test=5), WindowSettings(older=(5000,)))


def test_groups_made_smaller_are_told_with_their_sizes(films: Dataset) -> None:
    asked = GroupSettings(start=500, align=5000, test=300)
    groups = _groups(films, asked)
    start, align, test = (len(one) for one in groups)
    assert align < 5000
    text = shortfall(groups, asked)
    assert text is not None
    assert (
        f"users.start={start}, users.align={align}, users.test={test}, where users.start=500, users.align=5000" in text
    )
    fewer = GroupSettings(align=12, test=5)
    assert shortfall(_groups(films, fewer), fewer) is None
