"""Instructions: predicates, candidates, the grammar, and the examples that teach them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from llmrec.data.catalogue import Catalogue
from llmrec.errors import OutputError
from llmrec.roles.instruction import (
    MAX_WORDS,
    Candidate,
    Predicate,
    answer,
    candidates,
    grammar,
    parse,
    pattern,
    read_slate,
)
from llmrec.roles.instruction_rules import fitting
from llmrec.roles.instruction_words import OPENERS, PHRASES, InstructionClass
from llmrec.roles.persona import Persona, Taste, persona_of, taste_index
from llmrec.roles.user import instruction_examples
from tests.simulate.world import make_world

CATALOGUE = Catalogue.from_columns(
    {
        "item_id": list("abcd"),
        "title": ["Alien", "Heat", "Big", "Up"],
        "year": [1979, 1995, 1988, None],
        "runtime_min": [117, 170, 104, 96],
        "genres": [["Horror", "Sci-Fi"], ["Crime"], ["Comedy"], ["Comedy", "Sci-Fi"]],
    },
    flat_fields=("genres",),
)


@pytest.mark.parametrize(
    ("predicate", "holding"),
    [
        (Predicate(mode="none", attribute="genres", values=("Comedy",)), "ab"),
        (Predicate(mode="any", attribute="genres", values=("Sci-Fi",)), "ad"),
        (Predicate(mode="any", attribute="genres", values=("Sci-Fi",), without=("Horror",)), "d"),
        (Predicate(mode="above", attribute="year", bound=1988), "b"),
        (Predicate(mode="below", attribute="year", bound=1988), "a"),
        (Predicate(mode="below", attribute="runtime_min", bound=117), "cd"),
        (Predicate(mode="any", attribute="genres", values=("Horror", "Crime")), "ab"),
        (Predicate(mode="none", attribute="genres", values=("Horror", "Crime", "Comedy")), ""),
    ],
    ids=["less_of", "more_of", "shift", "newer", "older", "shorter", "tone", "different"],
)
def test_golden_predicates(predicate: Predicate, holding: str) -> None:
    """Read off the four films by hand; an item without the number fulfils no comparison."""
    rows = range(4)
    assert "".join(CATALOGUE.item_ids[row] for row in rows if predicate.holds(CATALOGUE, row)) == holding
    assert predicate.share(list(rows), CATALOGUE) == len(holding) / 4


def test_nothing_to_check() -> None:
    vague = Predicate(mode="unchecked")
    assert vague.share([0, 1], CATALOGUE) is None
    assert vague.holds(CATALOGUE, 0) is None
    assert Predicate(mode="any", attribute="genres", values=("Crime",)).share([], CATALOGUE) is None


def _choices(value: str = "Sci-Fi") -> list[Candidate]:
    predicate = Predicate(mode="unchecked")
    return [Candidate(kind, "genres", value, predicate) for kind in OPENERS]


@pytest.mark.parametrize("value", ["Sci-Fi", "Children's", "Nail (Polish) + Care.", "C/D [x]", "Amélie"])
@pytest.mark.parametrize("kind", list(OPENERS))
def test_every_phrase_fits_its_grammar(kind: InstructionClass, value: str) -> None:
    candidate = Candidate(kind, "genres", value, Predicate(mode="unchecked"))
    for template in PHRASES[kind]:
        for end in ("", ".", "?"):
            text = answer(candidate, template.format(value=value) + end)
            instruction = parse(text, [candidate])
            assert value in instruction.say
            assert len(instruction.say.split()) <= MAX_WORDS
            assert json.loads(text) == {"class": kind, "attribute": "genres", "value": value, "say": instruction.say}


@pytest.mark.parametrize(
    "say",
    [
        "",
        "Please less Horror",
        "Sci-Fi",
        "more Sci-Fi",
        'Less Sci-Fi", "x": "y',
        "Less Sci-Fi <|im_end|>",
        "Please Would now less Sci-Fi",
        "Please " + "please " * 20 + "less Sci-Fi",
        "Less Sci-Fi" + " now" * 20,
        "No, I want less Sci-Fi",
        "Viklana less Sci-Fi",
    ],
)
def test_words_that_do_not_fit_are_refused(say: str) -> None:
    with pytest.raises(OutputError):
        parse(answer(_choices()[0], say), _choices()[:1])


def test_free_words_are_for_models_that_write() -> None:
    own = answer(_choices()[0], "Tonight we want less Sci-Fi")
    assert parse(own, _choices()[:1], free=True).say == "Tonight we want less Sci-Fi"
    with pytest.raises(OutputError):
        parse(own, _choices()[:1])


def _sentence(tokens: list[str]) -> str:
    return " ".join([tokens[0].capitalize(), *tokens[1:]])


def test_no_accepted_text_has_too_many_words() -> None:
    candidate = _choices("Skin Care")[0]
    asked = ["not", "so", "much", "Skin", "Care"]
    accepted = [
        before + len(asked) + after
        for before in range(12)
        for after in range(12)
        if re.fullmatch(
            pattern(candidate, free=True), answer(candidate, _sentence(["please"] * before + asked + ["now"] * after))
        )
    ]
    assert max(accepted) == MAX_WORDS


def test_candidates_come_from_slate_and_persona_and_end_with_the_vague_one() -> None:
    dataset, split = make_world()
    index = taste_index(dataset, split)
    persona = persona_of(dataset, split, 1)
    westerns = [row for row in range(len(dataset.catalogue)) if dataset.catalogue.values(row, "genres") == ("Western",)]
    slate = read_slate(index, [(row, "skip") for row in westerns[:5]])
    choices = candidates(index, persona, (Taste("genres", "Horror"),), slate)
    named = {(one.kind, one.value) for one in choices}
    assert {("less_of", "Western"), ("more_of", "Horror"), ("shift", "Horror"), ("different", "different")} <= named
    assert choices[-1].kind == "vague"
    assert len(grammar(choices).value.splitlines()) == len(choices) + 1


def test_rules_ask_for_less_of_what_was_skipped_and_is_no_taste() -> None:
    dataset, split = make_world()
    index = taste_index(dataset, split)
    westerns = [row for row in range(len(dataset.catalogue)) if dataset.catalogue.values(row, "genres") == ("Western",)]
    persona = Persona(0, likes=(Taste("genres", "Horror"),), noun="film")
    slate = read_slate(index, [(row, "skip") for row in westerns[:5]])
    choices = candidates(index, persona, (), slate)
    weights = fitting(index.catalogue, persona, (), slate, choices)
    assert max(weights, key=lambda one: weights[one])[:3] == ("less_of", "genres", "Western")
    fan = Persona(0, likes=(Taste("genres", "Western"),), noun="film")
    assert "less_of" not in {
        one.kind for one in fitting(index.catalogue, fan, (), slate, candidates(index, fan, (), slate))
    }


def test_examples_follow_their_own_grammar_and_vary() -> None:
    dataset, split = make_world()
    examples = instruction_examples(dataset, split, np.random.default_rng(0), 300)
    assert all(prompt.endswith("\nChange:") for prompt, _ in examples)
    fields = [json.loads(completion) for _, completion in examples]
    assert {"less_of", "more_of"} <= {one["class"] for one in fields}
    assert len({one["say"] for one in fields}) > 50
    assert all(one["value"] in one["say"] for one in fields)


def test_catalogue_without_attributes_can_only_be_vague() -> None:
    catalogue = Catalogue.from_columns({"item_id": ["a", "b"], "title": ["A", "B"]})
    from llmrec.data.interactions import Interactions
    from llmrec.roles.persona import TasteIndex

    events = Interactions.from_arrays([0, 0], [0, 1], None, user_ids=["u"], n_items=2)
    index = TasteIndex(catalogue, events, "item")
    slate = read_slate(index, [(0, "skip"), (1, "skip")])
    assert [one.kind for one in candidates(index, index.persona(0), (), slate)] == ["vague"]
