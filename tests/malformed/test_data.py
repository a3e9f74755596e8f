"""Every malformed data input gives a clear error, or rejects the bad rows and keeps the good ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrec.data.spec import load
from llmrec.errors import UserError
from tests.malformed.cases_data import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_malformed_data(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = case.write(tmp_path)
    if case.sabotage:
        case.sabotage(monkeypatch, tmp_path)
    if case.error is not None:
        with pytest.raises(UserError) as caught:
            load(spec, cache=tmp_path / "cache")
        assert case.error in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    dataset = load(spec, cache=tmp_path / "cache")
    assert len(dataset.rejected) == len(case.rejected)
    for row, (line, reason) in zip(dataset.rejected, case.rejected, strict=True):
        assert row.line == line
        assert reason in row.reason
        assert len(row.text) <= 120
    assert len(dataset.interactions) >= 1  # the good rows are there
    with pytest.raises(UserError, match=rf"{len(case.rejected)} rows were rejected \(strict\)"):
        load(spec, cache=tmp_path / "cache", strict=True)


def test_the_list_is_long_enough_and_names_are_distinct() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)
