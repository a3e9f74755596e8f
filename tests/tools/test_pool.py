from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.errors import ToolError
from llmrec.testing.tools import small_dataset
from llmrec.tools.attributes import AttributeIndex
from llmrec.tools.pool import Candidate, CandidatePool, ranked_pool
from llmrec.tools.wishes import Condition, Wish, parse_condition

ROWS = st.lists(st.integers(0, 30), unique=True, max_size=20)


def test_ranked_pool_scores_golden() -> None:
    """Four rows: 1 - 0/4, 1 - 1/4, 1 - 2/4, 1 - 3/4."""
    assert [c.score for c in ranked_pool([7, 3, 5, 1], source="s", reason="r").candidates] == [1.0, 0.75, 0.5, 0.25]


def test_merged_scores_golden() -> None:
    """[7, 3] scores 1, 1/2 and [3, 9] scores 1, 1/2: row 3 gets 1.5, then 7 with 1, then 9 with 1/2."""
    merged = ranked_pool([7, 3], source="a", reason="x").merged(ranked_pool([3, 9], source="b", reason="y"))
    assert [(c.item, c.score, c.source, c.reason) for c in merged.candidates] == [
        (3, 1.5, "a+b", "x; y"),
        (7, 1.0, "a", "x"),
        (9, 0.5, "b", "y"),
    ]


@given(ROWS, ROWS)
def test_merging_is_a_union(first: list[int], second: list[int]) -> None:
    merged = ranked_pool(first, source="a", reason="x").merged(ranked_pool(second, source="b", reason="y"))
    assert merged.items() == {*first, *second}
    scores = [candidate.score for candidate in merged.candidates]
    assert scores == sorted(scores, reverse=True)


@given(ROWS, st.sets(st.integers(0, 30)))
def test_without_keeps_order_and_drops_only_those(rows: list[int], banned: set[int]) -> None:
    kept = ranked_pool(rows, source="a", reason="x").without(banned)
    assert list(kept.rows) == [row for row in rows if row not in banned]


def test_an_item_occurs_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        CandidatePool((Candidate(1, 1.0, "a", "x"), Candidate(1, 0.5, "b", "y")))


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("genres=horror", Condition(Wish(attribute="genres", value="Horror"))),
        ("Genres != Horror", Condition(Wish(attribute="genres", value="Horror"), exclude=True)),
        ("year=1980..1989", Condition(Wish(attribute="year", low=1980, high=1989))),
        ("year=..1989", Condition(Wish(attribute="year", high=1989))),
        ("year!=1994", Condition(Wish(attribute="year", low=1994, high=1994), exclude=True)),
    ],
)
def test_conditions_are_read_and_written_back(text: str, condition: Condition) -> None:
    catalogue = small_dataset().catalogue
    read = parse_condition(text, catalogue)
    assert read == condition
    assert parse_condition(read.text(), catalogue) == condition


def test_the_index_agrees_with_item_by_item_checks() -> None:
    catalogue = small_dataset().catalogue
    index = AttributeIndex(catalogue)
    texts = [
        "genres=Sci-Fi",
        "keywords=police",
        "year=1979..1982",
        "runtime_min=..100",
        "directors=Michael Mann",
        "year=1990..",
    ]
    for text in texts:
        wish = parse_condition(text, catalogue).wish
        assert index.mask(wish).tolist() == [wish.holds(catalogue, row) for row in range(len(catalogue))], text


def test_a_wish_that_few_items_meet_is_rarer() -> None:
    index = AttributeIndex(small_dataset().catalogue)
    assert (
        index.rarity(Wish(attribute="genres", value="Family"))
        > index.rarity(Wish(attribute="genres", value="Sci-Fi"))
        > 0
    )


def test_an_empty_condition_is_an_error() -> None:
    with pytest.raises(ToolError, match="attribute=value"):
        parse_condition("", small_dataset().catalogue)
