"""Refusing words before a condition overrule the model; nothing else does."""

from __future__ import annotations

import pytest

from llmrec.roles import polarity, understand
from llmrec.roles.matching import Reader
from llmrec.roles.request import Request
from llmrec.tools.resources import Resources
from llmrec.tools.wishes import Wish

COMEDY, HORROR, CRIME = (Wish(attribute="genres", value=value) for value in ("Comedy", "Horror", "Crime"))


@pytest.fixture(scope="module")
def reader(resources: Resources) -> Reader:
    return Reader(resources.dataset.catalogue)


def refused(reader: Reader, message: str) -> list[str]:
    blank = understand.form(message, reader)
    return [one.wish.value or "" for one in polarity.refused(blank.message, blank.found) if one.wish]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("No horror please", ["Horror"]),
        ("a comedy without any crime", ["Crime"]),
        ("something funny, nothing with horror in it", ["Horror"]),
        ("I hate horror movies", ["Horror"]),
        ("I don't want to see a horror film", ["Horror"]),
        ("I am tired of crime, more comedy", ["Crime"]),
        ("Less horror, more comedy", ["Horror"]),
        ("Not so much horror this time", ["Horror"]),
        ("no horror or crime, a comedy", ["Horror", "Crime"]),
        ("no horror, crime or comedy", ["Horror", "Crime", "Comedy"]),
        ("no horror, comedy please", ["Horror"]),
        ("no horror and a comedy", ["Horror"]),
        ("anything but horror", ["Horror"]),
        ("keep horror away from me", ["Horror"]),
        ("a comedy, not a horror film", ["Horror"]),
        ("rather than horror, crime or comedy", ["Horror"]),
        ("no horror, comedy and crime please", ["Horror"]),
        ("without crime, and comedy please", ["Crime"]),
        ("why not a comedy, but no horror please", ["Horror"]),
        ("not only comedy, but nothing with horror", ["Horror"]),
        ("I can't stand horror", ["Horror"]),
        ("anything except horror", ["Horror"]),
    ],
)
def test_refusals(reader: Reader, message: str, expected: list[str]) -> None:
    assert refused(reader, message) == expected


@pytest.mark.parametrize(
    "message",
    [
        "a horror film",
        "nothing but horror",
        "I would not mind some horror",
        "not only horror",
        "why not horror",
        "no problem with horror",
        "no idea, maybe horror",
        "I have no time, a short horror film",
        "I hate waiting; horror please",
        "there is no film I love like a good horror",
        "I can't get enough of horror",
        "there is not enough horror",
        "I don't hate horror",
        "I'm not tired of comedy yet",
        "please don't leave out horror",
        "no reason to skip horror",
        "I don't want anything but horror",
        "nothing except horror",
        "there is nothing like horror",
        "I don't mind horror",
    ],
)
def test_no_refusals(reader: Reader, message: str) -> None:
    assert refused(reader, message) == []


@pytest.mark.parametrize("read", [Request(want=(COMEDY, HORROR)), Request(want=(COMEDY,)), Request(turn="open")])
def test_the_words_overrule_the_model(reader: Reader, read: Request) -> None:
    blank = understand.form("a comedy but no horror", reader)
    now, wrong = polarity.corrected(read, blank.message, blank.found)
    assert wrong == (HORROR,)
    assert now.avoid == (HORROR,)
    assert HORROR not in now.want
    assert now.turn == "new"


def test_a_right_reading_stays(reader: Reader) -> None:
    blank = understand.form("a comedy but no horror", reader)
    read = Request(want=(COMEDY,), avoid=(HORROR,))
    assert polarity.corrected(read, blank.message, blank.found) == (read, ())
    assert polarity.corrected(Request(want=(CRIME,)), "crime", ()) == (Request(want=(CRIME,)), ())


def test_a_message_that_could_not_be_read_is_searched_for_without_what_it_refuses(reader: Reader) -> None:
    blank = understand.form("a comedy please, but no horror. Soon.", reader)
    assert polarity.without_refused(blank.message, blank.found) == "a comedy please, Soon."
    alone = understand.form("no horror please", reader)
    assert polarity.without_refused(alone.message, alone.found) == ""
