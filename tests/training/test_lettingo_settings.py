"""Settings of `finetune/lettingo.yaml` that make no sense."""

from __future__ import annotations

import pytest

from llmrec.assets import asset
from llmrec.errors import ConfigError
from llmrec.training.recipe import load_recipe


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("windows.older=[]", "windows.older"),
        ("users.start=-1", "users.start"),
        ("start.learning_rate=.inf", "start.learning_rate"),
        ("start.styles={full: .inf}", "start.styles"),
        ("start.blank=.nan", "start.blank"),
        ("dpo.beta=.inf", "dpo.beta"),
        ("dpo.sft_weight=.inf", "dpo.sft_weight"),
        ("curriculum_settings.tie=.inf", "curriculum_settings.tie"),
        ("writers=[{name: own, adapter: start, temperature: .inf}]", "temperature"),
        ("labels={dislike_up_to: -.inf}", "labels.dislike_up_to"),
        ("labels={like_from: .inf}", "labels.like_from"),
    ],
)
def test_settings_without_sense_are_refused(change: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"not valid: .*{key}.*(finite|at least 1 item|greater than)"):
        load_recipe(asset("finetune/lettingo.yaml"), [change])
