"""HTML in exports: what is taken out, what stays, and what the user is told."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from llmrec.data.describe import describe
from llmrec.data.markup import plain_text, without_markup
from llmrec.data.spec import load


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("<b>Fine</b> tea &amp; honey<br/>from <a href='x'>here</a>", "Fine tea & honey from here"),
        ("a<script>x < 1; run()</script>b<!-- c -->d", "a b d"),
        ("&lt;p&gt;twice escaped&lt;/p&gt;", "twice escaped"),
        ("I &hearts; tea", "I ♥ tea"),
        ("<P CLASS='x'>shouting", "shouting"),
        ("1 < 2 > 0 and <3, AT&T, R&D; <heart> <|a_1|>", "1 < 2 > 0 and <3, AT&T, R&D; <heart> <|a_1|>"),
        ("<b></b>", ""),
    ],
)
def test_golden_plain_text(text: str, plain: str) -> None:
    assert plain_text(text) == plain


def test_values_without_markup_keep_their_white_space() -> None:
    notes: list[str] = []
    column = pa.array(["two\n lines", "<i>x</i>  y", None, "<br>"], pa.string())
    assert without_markup(column, "text", notes).to_pylist() == ["two\n lines", "x y", None, None]
    assert notes == ["column text: HTML was taken out of 2 values, first '<i>x</i>  y'"]


def test_own_tables_are_cleaned_and_say_so(tmp_path: Path) -> None:
    rows = ["a,Tea &amp; Co,<p>Warm.</p>,3.5", "b,Cup,Red <3,n/a", "c,Pot,NULL,12", "d&amp;,Jug,,7"]
    (tmp_path / "items.csv").write_text("item_id,title,description,price\n" + "\n".join(rows) + "\n")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1\nu,d&amp;,2\n")
    dataset = load(f"table:{tmp_path}")
    catalogue = dataset.catalogue
    assert catalogue.titles() == ["Tea & Co", "Cup", "Pot", "Jug"]
    assert catalogue.values(0, "description") == ("Warm.",)
    assert catalogue.values(1, "description") == ("Red <3",)
    assert catalogue.values(2, "description") == catalogue.values(1, "price") == ()
    assert describe(dataset)["attributes"]["price"] == {"kind": "number", "missing": 1, "min": 3.5, "max": 12}
    assert catalogue.item_ids[3] == "d&amp;", "ids are names, not texts"
    assert {note for note in dataset.notes if note.startswith("column")} == {
        "column title: HTML was taken out of 1 values, first 'Tea &amp; Co'",
        "column description: HTML was taken out of 1 values, first '<p>Warm.</p>'",
        "column description: 1 values such as 'NULL' are taken as missing",
        "column price: 1 values such as 'n/a' are taken as missing",
    }


def test_a_column_that_is_nearly_numeric_says_why_it_is_not(tmp_path: Path) -> None:
    rows = [f"i{row},t{row},{'on request' if row == 5 else row}" for row in range(10)]
    (tmp_path / "items.csv").write_text("item_id,title,price\n" + "\n".join(rows) + "\n")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,i1,1\nu,i2,2\n")
    dataset = load(f"table:{tmp_path}")
    assert dataset.catalogue.kind("price") != "number"
    assert "column price: read as text: 1 values are not numbers, first 'on request'" in dataset.notes
