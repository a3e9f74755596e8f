"""Refusing and asking words before a condition overrule the model; nothing else does."""

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
    assert wrong == (polarity.Correction(HORROR, "refused"),)
    assert now.avoid == (HORROR,)
    assert HORROR not in now.want
    assert now.turn == "new"


def asked(reader: Reader, message: str) -> list[str]:
    blank = understand.form(message, reader)
    return [one.wish.value or "" for one in polarity.asked(blank.message, blank.found) if one.wish]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("I would like some Comedy", ["Comedy"]),
        ("I'd like to watch a horror film", ["Horror"]),
        ("I feel like a bit of crime tonight", ["Crime"]),
        ("Some comedy would help.", ["Comedy"]),
        ("some horror please", ["Horror"]),
        ("How about some crime instead", ["Crime"]),
        ("please more comedy", ["Comedy"]),
        ("More comedy would be nice", ["Comedy"]),
        ("show me crime or horror", ["Crime", "Horror"]),
        ("I want comedy and some crime, but no horror", ["Comedy", "Crime"]),
        ("No horror. Give me a good comedy", ["Comedy"]),
    ],
)
def test_what_is_asked_for(reader: Reader, message: str, expected: list[str]) -> None:
    assert asked(reader, message) == expected
    assert not set(expected) & set(refused(reader, message))


@pytest.mark.parametrize(
    "message",
    [
        "no more horror",
        "I don't want any horror",
        "I never want to see horror",
        "I want less horror",
        "I want horror out of my list",
        "give me anything other than horror",
        "how about something without horror",
        "I need a break, horror bores me",
        "some horror bores me",
        "I used to want horror",
        "I would like a comedy rather than horror",
        "more horror is not what I need",
        "horror",
        "I want to forget that horror film",
        "can you stop showing me more horror",
        "please exclude horror",
    ],
)
def test_what_is_not_surely_asked_for(reader: Reader, message: str) -> None:
    assert "Horror" not in asked(reader, message)


def test_a_wish_that_was_read_as_a_refusal_is_turned_round(reader: Reader) -> None:
    blank = understand.form("I would like some comedy but no horror", reader)
    read = Request(avoid=(COMEDY, HORROR), turn="open")
    now, wrong = polarity.corrected(read, blank.message, blank.found)
    assert (now.want, now.avoid, now.turn) == ((COMEDY,), (HORROR,), "new")
    assert [one.text() for one in wrong] == ["genres=Comedy read as wanted"]
    left_aside = Request(avoid=(HORROR,))
    assert polarity.corrected(left_aside, blank.message, blank.found) == (left_aside, ())


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
