from pathlib import Path

import pytest

from llmrec.benchmark.contestants import Contestant
from llmrec.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nano=runs/a", Contestant("nano", "runs/a")),
        ("nano=runs/a@user", Contestant("nano", "runs/a", "user")),
        ("gemma=models/g@user=runs/x=y", Contestant("gemma", "models/g", "user", Path("runs/x=y"))),
        ("qwen=endpoint:http://h:1/v1#m", Contestant("qwen", "endpoint:http://h:1/v1#m")),
    ],
)
def test_names_are_read(text: str, expected: Contestant) -> None:
    assert Contestant.parse(text) == expected


@pytest.mark.parametrize("text", ["", "runs/a", "=runs/a", "nano="])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME=BACKBONE"):
        Contestant.parse(text)
