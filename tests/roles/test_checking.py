from __future__ import annotations

from llmrec.data.films import film_catalogue
from llmrec.retrieval.grounding import Grounder
from llmrec.roles.checking import Faults, count_out_of_catalogue, faults
from llmrec.roles.matching import reader_for
from llmrec.roles.observation import Reply

CATALOGUE = film_catalogue()
GROUNDER: Grounder = reader_for(CATALOGUE).grounder


def row(title: str) -> int:
    return GROUNDER.ground(title)[0].row


ALIEN, HEAT, BRAZIL = row("Alien (1979)"), row("Heat (1995)"), row("Brazil (1985)")


def test_clean_prose() -> None:
    assert not faults([ALIEN], "I would start with Alien (1979).", GROUNDER)


def test_planted_faults_are_counted() -> None:
    """An invented title, an invented item and a repeated one are caught: the zero of a report is a real zero."""
    reply = Reply(
        (ALIEN, len(CATALOGUE), ALIEN), ("", "", ""), 'You must see "The Moonlit Accountant" (2003) and Alien (1979).'
    )
    assert count_out_of_catalogue(reply, CATALOGUE) == 3
    found = faults(reply.slate, reply.prose, GROUNDER)
    assert found.invalid_items == (len(CATALOGUE), ALIEN)
    assert len(found.unknown_titles) == 1
    assert count_out_of_catalogue(Reply((ALIEN,), ("",), "Try Alien (1979)."), CATALOGUE) == 0


def test_titles_in_reasons_count_too() -> None:
    reply = Reply((ALIEN,), ("similar to The Moonlit Accountant (2003)",), "Try Alien (1979).")
    assert count_out_of_catalogue(reply, CATALOGUE) == 1


def test_a_real_film_that_is_not_on_the_slate_is_a_fault_but_exists() -> None:
    found = faults([ALIEN], "Alien (1979) is fine, but watch Heat (1995).", GROUNDER)
    assert found == Faults(off_slate=(HEAT,))
    assert found.out_of_catalogue == 0
    assert not faults([ALIEN], "Alien (1979) for you who liked Heat (1995).", GROUNDER, dialogue=[HEAT])


def test_attribute_values_that_are_also_titles_may_be_said() -> None:
    prose = "Here are films from Brazil. My first pick is Alien (1979)."
    assert faults([ALIEN], prose, GROUNDER).off_slate == (BRAZIL,)
    assert not faults([ALIEN], prose, GROUNDER, said=["Brazil"])
