"""eval/semantic_search.py: what counts as an answer to a query, and what the table makes of lists."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmrec.assets import asset, load_file
from llmrec.data.dataset import Dataset
from llmrec.data.spec import load


@pytest.fixture(scope="module")
def script() -> Any:
    return load_file(asset("eval/semantic_search.py"), name="llmrec_eval_semantic_search")


def test_queries_of_both_kinds_are_answered_by_the_item_they_come_from(films: Dataset, script: Any) -> None:
    catalogue = films.catalogue
    queries = script.draw_queries(catalogue, 80, 3)
    assert {query.kind for query in queries} == {"title", "attributes"}
    for query in queries:
        assert query.answers[query.item], query.text
        for row in np.flatnonzero(query.answers)[:5].tolist():
            if query.kind == "title":
                assert query.text.casefold() in catalogue.title(row).casefold()
    assert [query.text for query in queries] == [query.text for query in script.draw_queries(catalogue, 80, 3)]
    assert [query.text for query in queries] != [query.text for query in script.draw_queries(catalogue, 80, 4)]


def test_golden_answers_have_every_attribute_asked_for(tmp_path: Path, script: Any) -> None:
    """ "war" is no attribute of an item of "world war"; two attributes together leave the one item that has both."""
    (tmp_path / "items.csv").write_text("item_id,title,topic\na,Alpha,war|drama\nb,Beta,drama\nc,Gamma,world war\n")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1\nu,b,2\n")
    queries = script.draw_queries(load(f"table:{tmp_path}").catalogue, 200, 0)
    want = {"war": "a", "drama": "ab", "war drama": "a", "drama war": "a", "world war": "c"}
    found = {
        query.text.lower(): "".join("abc"[row] for row in np.flatnonzero(query.answers))
        for query in queries
        if query.kind == "attributes"
    }
    assert found == want
    assert {query.text.lower() for query in queries if query.kind == "title"} == {"alpha", "beta", "gamma"}


def test_golden_hits_and_answers(script: Any) -> None:
    """Two title queries of which one is found, 3 and 1 of ten places answer; one attribute query without a hit."""
    answers = np.arange(40) < 3
    queries = [
        script.Query("a", "title", 0, answers),
        script.Query("b", "title", 1, answers),
        script.Query("c", "attributes", 2, answers),
    ]
    lists = [[0, 1, 2, *range(10, 17)], [2, *range(10, 19)], list(range(10, 20))]
    found = script.measured(lists, queries)
    assert found["title"]["hit@10"]["value"] == 0.5
    assert found["title"]["answers@10"]["value"] == pytest.approx(0.2)
    assert found["attributes"]["hit@10"]["value"] == found["attributes"]["answers@10"]["value"] == 0
    assert (found["title"]["n"], found["attributes"]["n"]) == (2, 1)
    assert list(script.measured(lists[:2], queries[:2])) == ["title"], "a catalogue may have no attributes"


def test_a_folder_without_a_model_is_one_line(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["semantic_search.py", "--backbone", str(tmp_path), "--queries", "3"])
    with pytest.raises(SystemExit):
        script.main()
    assert str(tmp_path) in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setattr(sys, "argv", ["semantic_search.py", "--backbone", str(tmp_path), "--queries", "0"])
    with pytest.raises(SystemExit):
        script.main()
    assert "--queries must be at least 1, got 0" in capsys.readouterr().err
