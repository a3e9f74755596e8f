"""The catalogue: ids, titles, attributes, flattened text."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from llmrec.data.catalogue import Catalogue, infer_kind
from llmrec.errors import DataError


@pytest.fixture
def films() -> Catalogue:
    columns: dict[str, list[Any]] = {
        "item_id": ["a", "b", "ç", "d"],
        "title": ["Alien", None, "Zardoz (1974)", "Princess Bride, The"],
        "year": [1979, None, 1974, 1987],
        "genres": [["Horror", "Sci-Fi"], [], None, ["Action", "Adventure"]],
        "country": ["UK", "UK", "", "USA"],
        "logline": ["One by one, a crew meets something in the dark of space.", None, "", "A tale of true love."],
    }
    return Catalogue.from_columns(columns, flat_fields=("genres",))


def test_golden_flat_text_of_the_method_card(films: Catalogue) -> None:
    assert films.flat(3) == "Title: Princess Bride, The (1987). Category: Action, Adventure"
    assert films.flat(1) == "Title: Unknown. Category: Unknown"


def test_golden_flat_separator_and_labels() -> None:
    columns: dict[str, list[Any]] = {"item_id": ["1"], "title": ["Balm"], "brand": ["Burt"], "price": [3.5]}
    catalogue = Catalogue.from_columns(columns, flat_fields=("brand", "price"), separator=", ")
    assert catalogue.flat(0) == "Title: Balm, Brand: Burt, Price: 3.5"


def test_display_appends_the_year_once(films: Catalogue) -> None:
    assert [films.display(row) for row in range(4)] == [
        "Alien (1979)",
        "Unknown",
        "Zardoz (1974)",
        "Princess Bride, The (1987)",
    ]


def test_rows_and_ids_are_inverse(films: Catalogue) -> None:
    assert [films.row(item_id) for item_id in films.item_ids] == [0, 1, 2, 3]
    assert films.item_ids[-1] == "d"
    assert films.item_ids[1:3] == ["b", "ç"]


def test_id_order_beyond_the_basic_plane() -> None:
    ids = ["\uffff", "\U00010000", "a", "Z", "é", "", "10", "9"]
    catalogue = Catalogue.from_columns({"item_id": ids, "title": ids})
    assert [catalogue.row(item_id) for item_id in ids] == list(range(len(ids)))


def test_unknown_id_names_the_nearest(films: Catalogue) -> None:
    with pytest.raises(DataError, match=r"no item with id 'dd'.*nearest ids: \['d'"):
        films.row("dd")


@pytest.mark.parametrize("row", [-1, 4])
def test_rows_out_of_range_are_refused(films: Catalogue, row: int) -> None:
    for method in (films.title, films.flat, films.describe, films.document):
        with pytest.raises(DataError, match=f"no item in row {row}"):
            method(row)


def test_kinds(films: Catalogue) -> None:
    kinds = {name: films.kind(name) for name in films.attribute_names}
    assert kinds == {"year": "number", "genres": "categories", "country": "text", "logline": "text"}
    assert infer_kind(pa.chunked_array([["red", "blue", "red", "blue", "red"]])) == "category"
    assert infer_kind(pa.chunked_array([[None, None]], pa.string())) == "text"


def test_vocabulary_counts_items_most_frequent_first() -> None:
    catalogue = Catalogue.from_columns({"item_id": ["1", "2"], "title": ["x", "y"], "tags": [["b", "a"], ["b", "c"]]})
    assert list(catalogue.vocabulary("tags").items()) == [("b", 2), ("a", 1), ("c", 1)]


def test_vocabulary_of_numbers_is_refused(films: Catalogue) -> None:
    with pytest.raises(DataError, match="'year' is a number"):
        films.vocabulary("year")


def test_values_are_tuples_and_empty_when_missing(films: Catalogue) -> None:
    assert films.values(0, "genres") == ("Horror", "Sci-Fi")
    assert films.values(0, "year") == (1979,)
    assert films.values(1, "genres") == films.values(2, "genres") == films.values(2, "country") == ()


def test_document_holds_all_text(films: Catalogue) -> None:
    document = films.document(0)
    for word in ("Alien", "1979", "Horror", "Sci-Fi", "UK", "crew"):
        assert word in document


def test_describe_leaves_out_what_is_missing(films: Catalogue) -> None:
    assert films.describe(1) == {"item_id": "b", "title": "Unknown", "country": "UK"}


def test_content_hash_sees_every_column(films: Catalogue) -> None:
    same = Catalogue(films.table)
    other = Catalogue(films.table.set_column(2, "year", pa.array([1979, None, 1974, 1988])))
    assert same.content_hash == films.content_hash != other.content_hash


def test_missing_columns_are_named() -> None:
    with pytest.raises(DataError, match=r"needs the columns item_id and title, got \['item_id'\]"):
        Catalogue.from_columns({"item_id": ["1"]})
    with pytest.raises(DataError, match="no attribute 'genre' for flattened text"):
        Catalogue.from_columns({"item_id": ["1"], "title": ["x"]}, flat_fields=("genre",))


def test_content_hash_ignores_chunks_and_slices_but_not_values() -> None:
    lists = pa.array([["a"], None, ["b", "c"], []])
    table = pa.table(
        {"item_id": ["1", "2", "3", "4"], "title": ["x", None, "", "é"], "n": [1, None, 0, 4], "tags": lists}
    )
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1, 2), table.slice(3)])
    padded = pa.concat_tables([table, table]).slice(4)
    hashes = {Catalogue(t).content_hash for t in (table, chunked, padded)}
    assert len(hashes) == 1
    others = [
        table.set_column(1, "title", pa.array(["x", "", "", "é"])),
        table.set_column(1, "title", pa.array(["", None, "x", "é"])),
        table.set_column(2, "n", pa.array([1, 0, 0, 4])),
        table.set_column(3, "tags", pa.array([["a"], None, ["b"], ["c"]])),
        table.set_column(3, "tags", pa.array([["a"], None, ["bc"], []])),
        table.rename_columns(["item_id", "title", "m", "tags"]),
    ]
    assert len(hashes | {Catalogue(other).content_hash for other in others}) == 7
