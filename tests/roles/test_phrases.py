from __future__ import annotations

import itertools

import pytest

from llmrec.data.catalogue import Catalogue
from llmrec.data.films import film_catalogue
from llmrec.errors import ConfigError
from llmrec.roles import phrases, understand
from llmrec.roles.matching import reader_for
from llmrec.roles.voices import HELD_OUT_FAMILIES, TRAIN_FAMILIES, VOICES
from llmrec.seeding import rng
from llmrec.testing.tools import small_dataset


@pytest.fixture(scope="module")
def films() -> Catalogue:
    return film_catalogue()


def test_families_are_apart() -> None:
    assert set(TRAIN_FAMILIES) | set(HELD_OUT_FAMILIES) == set(VOICES)
    assert not set(TRAIN_FAMILIES) & set(HELD_OUT_FAMILIES)
    for first, second in itertools.combinations(VOICES.values(), 2):
        for kind in ("want", "avoid", "like", "dislike", "seen", "plot", "refine", "refuse"):
            assert not set(getattr(first, kind)) & set(getattr(second, kind)), kind


def test_a_seed_gives_the_same_messages(films: Catalogue) -> None:
    first, second = [[phrases.utterance(films, rng(4, i), family="chatty") for i in range(20)] for _ in range(2)]
    assert first == second
    assert len({one.message for one in first}) > 15


@pytest.mark.parametrize("intent", phrases.INTENTS)
def test_every_intent_in_every_family(films: Catalogue, intent: phrases.Intent) -> None:
    for family in VOICES:
        message, request = phrases.utterance(films, rng(1, family), family=family, intent=intent)
        assert message.strip()
        assert "{" not in message
        assert (request.turn == "chat") == (intent == "chat")


def test_what_a_message_means_is_found_in_it(films: Catalogue) -> None:
    """The model chooses among candidates, so what matching misses cannot be learnt: at most one wish in fifty."""
    missed = total = 0
    for index in range(400):
        family = list(VOICES)[index % len(VOICES)]
        for one in phrases.dialogue(films, rng(2, index), family=family):
            blank = understand.form(one.message, reader_for(films), before=one.before, shown=one.shown)
            wishes = {found.wish for found in blank.found}
            missed += sum(wish not in wishes for wish in (*one.request.want, *one.request.avoid))
            total += len(one.request.want) + len(one.request.avoid)
            read = understand.parse(blank, understand.completion(blank, one.request))
            assert set(read.want) <= set(one.request.want)
            assert set(read.avoid) <= set(one.request.avoid)
    assert total > 500
    assert missed / total < 0.02


def test_training_texts_are_short_and_complete(films: Catalogue) -> None:
    texts = list(phrases.training_texts(films, rng(3), 60))
    heads = {prompt.split("\n", 1)[0] for prompt, _ in texts}
    assert heads == {"### Understand", "### Plan"}
    assert all(prompt.endswith("JSON:\n") and answer.startswith("{") for prompt, answer in texts)
    assert max(len(prompt) + len(answer) for prompt, answer in texts) < 1200
    assert sum(len(prompt) + len(answer) for prompt, answer in texts) / len(texts) < 320  # about 100 tokens


def test_any_catalogue_will_do() -> None:
    for catalogue in (
        small_dataset().catalogue,
        Catalogue.from_columns({"item_id": ["a", "b", "c"], "title": ["Soap", "Comb", "Brush"]}),
        Catalogue.from_columns(
            {
                "item_id": list("abcd"),
                "title": ["Soap One", "Comb Two", "Brush Three", "Soap Four"],
                "brand": ["Acme", "Acme", "Bolt", "Bolt"],
                "price": [3.5, 8.0, None, 120.0],
            }
        ),
    ):
        texts = list(phrases.training_texts(catalogue, rng(0), 40, noun="product"))
        assert len(texts) > 80


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ConfigError, match="'shouting'"):
        phrases.utterance(small_dataset().catalogue, rng(0), family="shouting")
