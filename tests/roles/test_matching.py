from __future__ import annotations

import pytest

from llmrec.data.films import film_catalogue
from llmrec.roles.matching import Reader, fold, reader_for, spans
from llmrec.roles.ranges import RangeReader
from llmrec.testing.tools import small_dataset
from llmrec.tools.attributes import AttributeIndex


@pytest.fixture(scope="module")
def films() -> Reader:
    return reader_for(film_catalogue())


@pytest.fixture(scope="module")
def ranges() -> RangeReader:
    return RangeReader(AttributeIndex(small_dataset().catalogue))


@pytest.mark.parametrize(
    ("said", "wish"),
    [
        ("something from the 80s", "year=1980..1989"),
        ("from the 1980s", "year=1980..1989"),
        ("a seventies film", "year=1970..1979"),
        ("early 90s", "year=1990..1994"),
        ("late 1960s", "year=1965..1969"),
        ("of 1994", "year=1994"),
        ("before 1990", "year=..1989"),
        ("before the 80s", "year=..1979"),
        ("older than 1990", "year=..1989"),
        ("until 1990", "year=..1990"),
        ("newer than 2000", "year=2001.."),
        ("since 2000", "year=2000.."),
        ("from 2000 onwards", "year=2000.."),
        ("nothing older than 1990", "year=1990.."),
        ("between 1980 and 1990", "year=1980..1990"),
        ("from 1960 to 1975", "year=1960..1975"),
        ("1960-1975", "year=1960..1975"),
        ("under two hours", "runtime_min=..120"),
        ("less than 90 minutes", "runtime_min=..90"),
        ("no longer than an hour and a half", "runtime_min=..90"),
        ("longer than two and a half hours", "runtime_min=150.."),
        ("at most 1 hour 45 minutes", "runtime_min=..105"),
        ("around 100 minutes", "runtime_min=90..110"),
    ],
)
def test_ranges(ranges: RangeReader, said: str, wish: str) -> None:
    assert [found.wish.text() for found in ranges.find(said)] == [wish]


def test_comparatives_take_the_median_of_what_was_shown_golden(ranges: RangeReader) -> None:
    """Rows 0, 1, 2 (117, 137, 109 minutes; 1979, 1986, 1982): medians 117 and 1982."""
    assert [f.wish.text() for f in ranges.find("something shorter", (0, 1, 2))] == ["runtime_min=..116"]
    assert [f.wish.text() for f in ranges.find("newer ones", (0, 1, 2))] == ["year=1983.."]


def test_vague_words_mean_a_quarter_of_the_catalogue_golden(ranges: RangeReader) -> None:
    """Ten years sorted: 1967 72 79 79 80 82 86 95 2004 14; the 0.75 quantile is 1986 + 0.75 * 9 = 1992.75."""
    assert [f.wish.text() for f in ranges.find("something recent")] == ["year=1992.."]


def test_no_number_no_range() -> None:
    from llmrec.data.catalogue import Catalogue

    bare = Catalogue.from_columns({"item_id": ["a", "b"], "title": ["A", "B"]})
    assert RangeReader(AttributeIndex(bare)).find("under two hours from the 80s, something recent under $5") == []


@pytest.mark.parametrize(
    ("message", "labels"),
    [
        ("something funny, no horror please", {"genres=Comedy", "genres=Horror"}),
        (
            "I loved Alien and The Thing, anything similar from the 80s?",
            {"title=Alien (1979)", "title=The Thing (1982)", "year=1980..1989"},
        ),
        ("more by Wong Kar-wai but shorter than two hours", {"directors=Wong Kar-wai", "runtime_min=..120"}),
        ("slow burn ghost stories from Japan", {"keywords=slow-burn", "keywords=ghosts", "countries=Japan"}),
        ("a japanese science fiction movie", {"countries=Japan", "genres=Sci-Fi"}),
        ("i want somthing with robotts and androids", {"keywords=robot"}),
        ("a docmentary", {"genres=Documentary"}),
        ("more Tarkovsky", {"directors=Andrei Tarkovsky"}),
        ("i loved the godfather", {"title=The Godfather (1972)"}),
    ],
)
def test_found_in_the_embedded_films(films: Reader, message: str, labels: set[str]) -> None:
    assert labels <= {found.label for found in films.find(message)}


@pytest.mark.parametrize("message", ["hello there", "what should I watch tonight?", "thank you, that was great", ""])
def test_nothing_to_find(films: Reader, message: str) -> None:
    assert films.find(message) == ()


def test_references_to_the_last_slate(films: Reader) -> None:
    labels = {found.label: found.title for found in films.find("like the second one, not those again", (5, 9, 11))}
    assert labels == {f"title={films.catalogue.display(9)}": 9, "shown=last list": None}
    assert films.find("not those again") == ()


def test_candidates_do_not_overlap_unless_they_share_their_words(films: Reader) -> None:
    found = films.find("westerns by Clint Eastwood from the late 1960s, not The Good, the Bad and the Ugly")
    for one in found:
        for other in found:
            same = (one.start, one.end) == (other.start, other.end)
            assert same or one.end <= other.start or other.end <= one.start


def test_there_are_never_more_than_eight(films: Reader) -> None:
    everything = (
        "comedy horror drama western war crime musical family fantasy mystery thriller romance by Akira Kurosawa"
    )
    assert len(films.find(everything)) == 8


@pytest.mark.parametrize(
    ("text", "folded"),
    [("Slow-Burn", "slow burn"), ("Children's", "children"), ("Amélie", "amelie"), ("comedies", "comedy")],
)
def test_fold(text: str, folded: str) -> None:
    assert fold(text) == folded


def test_spans_hold_what_candidates_do_not_explain(films: Reader) -> None:
    message = "I would like a film about a dog in the snow, no horror"
    assert spans(message, films.find(message)) == ("dog in the snow",)
    explained = "something funny, no horror please"
    assert spans(explained, films.find(explained)) == ()
    assert all(span in message for span in spans(message))
