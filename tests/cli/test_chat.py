"""``llmrec chat`` fed with lines, as a script would."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from llmrec.cli.main import main
from llmrec.data.films import film_catalogue
from llmrec.lm.adapters import stamp
from llmrec.testing.models import save_tiny_model


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalogue = film_catalogue()
    texts = [catalogue.document(row) for row in range(200)]
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", texts=texts)


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Done]:
    """Run the command on lines of standard input, with a cache of its own."""
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LLMREC_BACKBONE", raising=False)

    def run(lines: str, *options: str) -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        with pytest.raises(SystemExit) as left:
            main(["chat", *options])
        printed = capsys.readouterr()
        return Done(int(left.value.code or 0), printed.out, printed.err)

    return run


def test_a_session_as_json_goes_on_later(backbone: Path, chat: Callable[..., Done]) -> None:
    options = ["--backbone", str(backbone), "--session", "evening", "--json", "--seed", "3"]
    item_id = film_catalogue().item_ids[0]
    first = chat("no horror please\n/why\n/nonsense\n\n", *options, "--history", item_id)
    assert first.code == 0, first.err
    answer = json.loads(first.out)
    assert (answer["session"], answer["dataset"], answer["seed"]) == ("evening", "films", 3)
    turn = answer["turns"][0]
    assert turn["message"] == "no horror please"
    assert {*turn["slate"][0]} == {"item_id", "title", "reason"}
    assert item_id not in [item["item_id"] for item in turn["slate"]]
    assert "understood:" in first.err
    assert "no command /nonsense" in first.err
    second = chat("more\n/undo\n/quit\nnever read\n", *options)
    assert second.code == 0, second.err
    assert "going on after 1 turns" in second.err
    assert "forgotten: more" in second.err
    assert json.loads(second.out)["turns"] == answer["turns"]
    third = chat("Exit\nnever read\n", *options)
    assert json.loads(third.out)["turns"] == answer["turns"], "a word that ends programs ends this one too"


def test_an_adapter_of_the_recipe_is_used_by_its_folder(
    backbone: Path, chat: Callable[..., Done], tmp_path: Path
) -> None:
    """`finetune agent` writes a folder that no adapters.json names."""
    adapter = tmp_path / "runs" / "my agent"
    bare = AutoModelForCausalLM.from_pretrained(backbone)
    get_peft_model(bare, LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(adapter)
    stamp(adapter, backbone)
    options = ["--backbone", str(backbone), "--adapter", str(adapter), "--json"]
    done = chat("no horror please\n", *options)
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["backbone"].endswith("/agent"), "the adapter reads and plans"
    assert answer["turns"][0]["record"]
    (adapter / "backbone.json").write_text(json.dumps({"base_content_hash": "0" * 64}), encoding="utf-8")
    refused = chat("hello\n", *options)
    assert refused.code == 2
    assert "trained on another backbone" in refused.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "LLMREC_BACKBONE"),
        (["--backbone", "/no/such/model"], "/no/such/model"),
        (["--backbone", "{backbone}", "--history", "nobody-knows"], "no item with id 'nobody-knows'"),
        (["--backbone", "{backbone}", "--adapter", "missing"], "no adapter 'missing'"),
        (["--backbone", "{backbone}", "--adapter", "missing"], "name one of them, or the folder of one"),
        (["--backbone", "{backbone}", "--adapter", "{backbone}/missing"], "/missing'; its adapters are: none"),
        (["--backbone", "{backbone}", "--agent", "butler"], "no agent 'butler'"),
        (["--backbone", "{backbone}", "--store", "{backbone}/config.json"], "cannot be read or written"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    backbone: Path, chat: Callable[..., Done], options: list[str], message: str
) -> None:
    done = chat("hello\n", *(option.format(backbone=backbone) for option in options))
    assert done.code == 2, done.err
    assert message in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.err
    assert done.out == ""
