"""Text to items: forms of titles, misspellings, mentions in prose, and titles that the catalogue lacks."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.data.catalogue import Catalogue
from llmrec.retrieval import titles
from llmrec.retrieval.grounding import CONFIDENT, Grounder
from tests.retrieval.conftest import FILMS

ROW = {title: row for row, (title, _, _) in enumerate(FILMS)}


@pytest.fixture(scope="module")
def grounder(catalogue: Catalogue) -> Grounder:
    return Grounder(catalogue)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Alien", "Alien"),
        ("ALIEN (1979)", "Alien"),
        ("Title: Alien (1979). Category: Horror, Sci-Fi", "Alien"),
        ("The Princess Bride", "Princess Bride, The"),
        ("princess bride", "Princess Bride, The"),
        ("Princess Bride, The (1987)", "Princess Bride, The"),
        ("Amelie", "Amélie"),
        ("Thing", "Thing, The"),
        ("La Cité des enfants perdus", "City of Lost Children, The (Cité des enfants perdus, La)"),
        ("The City of Lost Children (1995)", "City of Lost Children, The (Cité des enfants perdus, La)"),
        ("dr strangelove", "Dr. Strangelove"),
        ("Star Wars", "Star Wars: Episode IV - A New Hope"),
        ("Toy Story 2", "Toy Story 2"),
    ],
)
def test_golden_exact_titles_in_any_form(grounder: Grounder, text: str, title: str) -> None:
    (found,) = grounder.ground(text)
    assert (found.row, found.score) == (ROW[title], 1.0)


def test_every_title_of_the_catalogue_finds_itself(grounder: Grounder, catalogue: Catalogue) -> None:
    for row, (title, _, _) in enumerate(FILMS):
        if title is not None:
            assert grounder.ground(catalogue.display(row))[0][:2] == (row, 1.0)


def test_year_tells_equal_titles_apart(grounder: Grounder) -> None:
    assert [f.row for f in grounder.ground("Solaris (2002)", n=1)] == [10]
    assert [(f.row, f.score) for f in grounder.ground("Solaris", n=2)] == [(9, 0.95), (10, 0.95)]


def test_wrong_year_lowers_the_score_below_confidence(grounder: Grounder) -> None:
    (found,) = grounder.ground("Alien (1999)")
    assert found.row == ROW["Alien"]
    assert found.score < CONFIDENT


def test_misspelt_title_is_found_and_another_number_is_not_trusted(grounder: Grounder) -> None:
    assert grounder.ground("Princes Bride")[0].row == ROW["Princess Bride, The"]
    assert CONFIDENT <= grounder.ground("Princes Bride")[0].score < 1
    assert grounder.ground("Toy Story 3")[0].score < CONFIDENT


def test_description_falls_back_to_all_item_text_with_a_low_score(grounder: Grounder) -> None:
    (found,) = grounder.ground("a good musical")
    assert found.row == ROW["Hello, Dolly!"]
    assert 0 < found.score <= 0.5


@pytest.mark.parametrize("text", ["", "   ", "?!", "zzqx", "()"])
def test_text_without_any_match_finds_nothing(grounder: Grounder, text: str) -> None:
    assert grounder.ground(text) == []


def test_missing_title_is_never_matched_by_the_word_unknown(grounder: Grounder) -> None:
    assert all(found.score <= 0.5 for found in grounder.ground("Unknown", n=5))
    assert not grounder.names_item("Unknown")


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=40), n=st.integers(1, 5))
def test_scores_are_in_range_sorted_and_rows_distinct(grounder: Grounder, text: str, n: int) -> None:
    found = grounder.ground(text, n)
    assert len(found) <= n
    assert len({f.row for f in found}) == len(found)
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)
    assert all(0 < f.score <= 1 for f in found)


def mentioned(grounder: Grounder, text: str, min_score: float = 0.5) -> list[tuple[str, str]]:
    found = grounder.find_mentions(text, min_score=min_score)
    return [(text[m.start : m.end], str(FILMS[m.row][0])) for m in found]


def test_golden_mentions_in_prose(grounder: Grounder) -> None:
    text = 'I loved Taxi Driver, "heat" and the princess bride; then Solaris (2002). What about Dr. Strangelove?'
    assert mentioned(grounder, text) == [
        ("Taxi Driver", "Taxi Driver"),
        ("heat", "Heat"),
        ("princess bride", "Princess Bride, The"),
        ("Solaris (2002)", "Solaris"),
        ("Dr. Strangelove", "Dr. Strangelove"),
    ]
    assert grounder.find_mentions(text)[3].row == 10


def test_longest_title_wins_and_mentions_do_not_overlap(grounder: Grounder) -> None:
    assert mentioned(grounder, "We watched Toy Story 2 and Aliens.") == [
        ("Toy Story 2", "Toy Story 2"),
        ("Aliens", "Aliens"),
    ]


def test_common_words_in_lower_case_are_no_mentions_unless_asked(grounder: Grounder) -> None:
    text = "i like the heat of an alien thing"
    assert mentioned(grounder, text) == []
    assert ("alien", "Alien") in mentioned(grounder, text, min_score=0.3)
    assert mentioned(grounder, "i liked the godfather", min_score=0.45) == [("godfather", "Godfather, The")]


def test_misspelt_title_in_quotes_is_a_mention(grounder: Grounder) -> None:
    assert mentioned(grounder, "Have you seen “Princes Bride”?") == [("Princes Bride", "Princess Bride, The")]


def test_words_across_a_sentence_end_are_no_title(grounder: Grounder) -> None:
    assert mentioned(grounder, "It was a taxi. Driver unknown.", min_score=0.8) == []


KNOWN = [
    'Try "Alien" (1979), then *Heat* and **Solaris (1972)**.',
    "I recommend Alien (1979), The Thing (1982) and Hello, Dolly! (1969).",
    "Since you liked Taxi Driver and Heat (1995), see Crouching Tiger, Hidden Dragon (2000).",
    "“The Princess Bride” is as funny as 'Amelie' or «Toy Story».",
    'You asked for "something with robots", and I don\'t know "it" or the 1990s (1995 was great).',
    "A Star Wars (1977) night, or Princes Bride (1987)?",
    "Films from that year (1995) are rare.",
    "",
]


@pytest.mark.parametrize("prose", KNOWN)
def test_prose_about_the_catalogue_has_no_unknown_title(grounder: Grounder, prose: str) -> None:
    assert grounder.unknown_titles(prose) == []


@pytest.mark.parametrize(
    ("prose", "expected"),
    [
        ('Try "Moon Base Zero" tonight.', ["Moon Base Zero"]),
        ("Try Moon Base Zero (2031) tonight.", ["Moon Base Zero (2031)"]),
        ("Watch *The Glass Harbour* (1998).", ["The Glass Harbour (1998)"]),
        ("I recommend Alien (2024) and Alien (1979).", ["Alien (2024)"]),
        ("Start with Heat and Fake Alien (1979).", ["Fake Alien (1979)"]),
        ('After "Toy Story 2" comes "Toy Story 3".', ["Toy Story 3"]),
        ("“Solaris” (1999) is new.", ["Solaris (1999)"]),
        ("Heat Wave (1990), Alien (1979), Dune (2021)!", ["Heat Wave (1990)", "Dune (2021)"]),
        ("'The Fake Movie' and The Fake Movie (2001)", ["The Fake Movie", "The Fake Movie (2001)"]),
    ],
)
def test_golden_planted_unknown_titles_are_found(grounder: Grounder, prose: str, expected: list[str]) -> None:
    assert grounder.unknown_titles(prose) == expected


def test_a_known_title_inside_an_unknown_one_is_no_mention(grounder: Grounder) -> None:
    assert mentioned(grounder, "Try Heat Wave (1990).") == []


@settings(max_examples=80, deadline=None)
@given(text=st.text(alphabet="Alien (1979) \"'“”*_.,!?THe Heat\n", max_size=60))
def test_any_text_is_read_without_failing_and_spans_are_valid(grounder: Grounder, text: str) -> None:
    found = grounder.find_mentions(text, min_score=0.0)
    assert all(0 <= a.start < a.end <= len(text) for a in found)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    grounder.unknown_titles(text)


def test_golden_normalised_titles() -> None:
    assert titles.key("Princess Bride, The (1987)") == titles.key("the princess bride") == ("princess", "bride")
    assert titles.key("Schindler's List") == ("schindlers", "list")
    assert titles.key("Fast & Furious") == ("fast", "and", "furious")
    assert titles.key("The") == ("the",)
    assert titles.split_year("Alien (1979)") == ("Alien", 1979)
    assert titles.split_year("1984") == ("1984", None)
    assert titles.numerals(("rocky", "ii")) == ("2",)
    assert titles.variants("Seven (a.k.a. Se7en) (1995)") == ["Seven (a.k.a. Se7en)", "Seven", "Se7en"]


def test_movielens_titles_find_themselves(real_data: Path) -> None:
    """All but a few of 3,416 real titles are found exactly; the rest share title and year, or have no words."""
    from llmrec.data.spec import load

    catalogue = load(f"movielens:{real_data / 'movielens-1m'}").catalogue
    grounder = Grounder(catalogue)
    right = [row in [f.row for f in grounder.exact(catalogue.display(row))] for row in range(len(catalogue))]
    assert sum(right) >= 0.999 * len(catalogue)
    prose = " ".join(f'"{catalogue.display(row)}"' for row in range(0, len(catalogue), 40))
    assert grounder.unknown_titles(prose) == []


def test_asterisks_inside_a_title_are_no_emphasis() -> None:
    catalogue = Catalogue.from_columns({"item_id": ["1", "2"], "title": ["M*A*S*H", "Heat"], "year": [1970, 1995]})
    grounder = Grounder(catalogue)
    prose = "I would start with M*A*S*H (1970): fits what you took before."
    assert grounder.unknown_titles(prose) == []
    assert [mention.row for mention in grounder.find_mentions(prose)] == [0]
    assert grounder.unknown_titles("Watch *The Glass Harbour* after M*A*S*H (1970).") == ["The Glass Harbour"]
