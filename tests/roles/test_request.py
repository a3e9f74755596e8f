from __future__ import annotations

from llmrec.roles.request import Request, merged
from llmrec.testing.tools import small_dataset
from llmrec.tools.wishes import Wish

COMEDY, HORROR = Wish(attribute="genres", value="Comedy"), Wish(attribute="genres", value="Horror")
EIGHTIES, NINETIES = Wish(attribute="year", low=1980, high=1989), Wish(attribute="year", low=1990, high=1999)


def test_a_refinement_adds_and_the_latest_word_wins() -> None:
    before = Request(want=(COMEDY, EIGHTIES), avoid=(HORROR,), like_titles=(1, 2), query="bears")
    now = merged(before, Request(turn="refine", want=(HORROR, NINETIES), dislike_titles=(2,)))
    assert now.want == (COMEDY, HORROR, NINETIES)
    assert now.avoid == ()
    assert now.like_titles == (1,)
    assert now.dislike_titles == (2,)
    assert now.query == "bears"


def test_a_new_request_keeps_only_refusals_and_judged_titles() -> None:
    before = Request(want=(COMEDY,), avoid=(HORROR,), like_titles=(1,), dislike_titles=(3,), query="bears")
    now = merged(before, Request(want=(EIGHTIES,)))
    assert now == Request(want=(EIGHTIES,), avoid=(HORROR,), dislike_titles=(3,))


def test_small_talk_leaves_the_request_standing() -> None:
    before = Request(want=(COMEDY,))
    assert merged(before, Request(turn="chat")) == Request(turn="chat", want=(COMEDY,))


def test_years_are_read_off_the_wishes() -> None:
    request = Request(want=(EIGHTIES, Wish(attribute="year", low=1985)))
    assert (request.year_min, request.year_max) == (1985, 1989)
    assert (Request().year_min, Request().year_max) == (None, None)


def test_allows() -> None:
    catalogue = small_dataset().catalogue
    request = Request(avoid=(HORROR,), like_titles=(1,))
    assert [row for row in range(len(catalogue)) if request.allows(catalogue, row)] == [3, 4, 5, 6, 7, 8, 9, 10]
