"""Malformed inputs through the command line: exit code 2, one clear line, no traceback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from llmrec.cli.main import main


class Case(NamedTuple):
    """A command, files to write first (path under the working folder, content), and what the line must say."""

    arguments: Sequence[str]
    said: str
    files: Sequence[tuple[str, str]] = ()


ITEMS = ("shop/items.csv", "item_id,title\na,Alpha\nb,Beta\nc,Gamma\nd,Delta\n")
EVENTS = ("shop/interactions.csv", "user_id,item_id,timestamp\nu,a,1\nu,b,2\nu,c,3\nu,d,4\n")
CASES = {
    "unknown dataset": Case(["data", "describe", "musik"], "musik"),
    "missing folder": Case(["data", "describe", "movielens:nowhere"], "nowhere"),
    "no path": Case(["evaluate", "--dataset", "table:"], "table"),
    "table without titles": Case(
        ["evaluate", "--dataset", "table:shop"], "title", [("shop/items.csv", "item_id\na\n"), EVENTS]
    ),
    "table without events": Case(["evaluate", "--dataset", "table:shop"], "interactions", [ITEMS]),
    "empty items": Case(["data", "describe", "table:shop"], "items.csv", [("shop/items.csv", ""), EVENTS]),
    "only strangers": Case(
        ["evaluate", "--dataset", "table:shop"],
        "interactions",
        [ITEMS, ("shop/interactions.csv", "user_id,item_id,timestamp\nu,z,1\n")],
    ),
    "strict": Case(
        ["data", "describe", "table:shop", "--strict"],
        "interactions.csv",
        [ITEMS, (EVENTS[0], EVENTS[1] + "u,zzz,5\n")],
    ),
    "unknown model": Case(["evaluate", "--models", "popular,psychic"], "psychic"),
    "calrec without backbone": Case(["evaluate", "--models", "calrec"], "--backbone"),
    "missing backbone": Case(["evaluate", "--models", "calrec", "--backbone", "./nowhere"], "nowhere"),
    "folder without model": Case(["evaluate", "--models", "calrec", "--backbone", "shop"], "config.json", [ITEMS]),
    "broken config": Case(["evaluate", "--models", "calrec", "--backbone", "m"], "tokenizer", [("m/config.json", "{")]),
    "adapter without model": Case(["evaluate", "--models", "popular", "--adapter", "x"], "--adapter"),
    "wrong stage": Case(["evaluate", "--stage", "training"], "training"),
    "wrong cut-offs": Case(["evaluate", "--ks", "ten"], "ten"),
    "no such recipe": Case(["finetune", "poetry"], "poetry"),
    "recipe is no YAML": Case(["finetune", "r.yaml"], "r.yaml", [("r.yaml", "a: [")]),
    "recipe is a list": Case(["finetune", "r.yaml"], "mapping", [("r.yaml", "- a\n")]),
    "recipe with a wrong key": Case(["finetune", "user", "--set", "learning_rat=1"], "learning_rat"),
    "recipe with a wrong value": Case(["finetune", "user", "--set", "epochs=0"], "epochs"),
    "override without value": Case(["finetune", "user", "--set", "epochs"], "key=value"),
    "recipe with a missing backbone": Case(["finetune", "user", "--set", "backbone=./nowhere"], "nowhere"),
    "simulate without backbone": Case(["simulate", "--users", "1"], "--backbone"),
    "unknown policy": Case(["simulate", "--policy", "oracle", "--backbone", "x"], "oracle"),
    "journal that is none": Case(
        ["sessions", "list", "--journal", "j.db"], "j.db", [("j.db", "not a database at all")]
    ),
    "missing journal": Case(["sessions", "show", "r", "--journal", "none.db"], "none.db"),
    "chat without backbone": Case(["chat"], "--backbone"),
    "chat with a missing model": Case(["chat", "--backbone", "./nowhere"], "nowhere"),
    "chat with an unknown provider": Case(["chat", "--backbone", "chat:nobody:model"], "nobody"),
    "chat with an unknown agent": Case(["chat", "--agent", "butler", "--backbone", "x"], "butler"),
    "quickstart with wrong settings": Case(
        ["quickstart", "--config", "q.yaml"], "tokenz", [("q.yaml", "nano: {tokenz: 1}")]
    ),
    "quickstart without settings": Case(["quickstart", "--config", "none.yaml"], "none.yaml"),
    "unknown download": Case(["data", "download", "netflix", "--out", "d"], "netflix"),
    "model folder missing": Case(["models", "show", "nowhere"], "nowhere"),
    "unknown option": Case(["evaluate", "--colour", "red"], "--colour"),
    "unknown command": Case(["dance"], "dance"),
    "negative seed": Case(["data", "describe", "films", "--seed", "-1"], "seed"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_line_and_exit_code_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMREC_BACKBONE", raising=False)
    for path, content in case.files:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(case.arguments)
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error:")]
    assert stopped.value.code == 2, printed.err
    assert len(errors) == 1, printed.err
    assert case.said in errors[0]
    assert "Traceback" not in printed.err
    assert printed.out == ""
