"""A chat model as simulated user: what it is asked, and how answers are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from llmrec.errors import ModelError, OutputError, UnsupportedError
from llmrec.lm.protocol import Capabilities, Completion, Constraint, ConstraintKind, Sampling
from llmrec.roles.chat_user import (
    chat_opinion,
    decision_messages,
    instruction_messages,
    persona_message,
    read_instruction,
    say,
    style_of,
    with_stars,
    written,
)
from llmrec.roles.instruction import Candidate, Predicate
from llmrec.roles.opinion import SKIP
from llmrec.roles.persona import Persona, Taste
from llmrec.roles.user import Seen
from tests.roles.test_user_text import CATALOGUE, PERSONA

LESS = Candidate("less_of", "genres", "Horror", Predicate(mode="none", attribute="genres", values=("Horror",)))
MORE = Candidate("more_of", "genres", "Crime", Predicate(mode="any", attribute="genres", values=("Crime",)))


class Answers:
    """Scores by a table and generates one fixed text."""

    name = "answers"

    def __init__(self, scores: dict[str, float] | None = None, text: str = "", kinds: Sequence[ConstraintKind] = ()):
        self.scores, self.text = scores or {}, text
        self.capabilities = Capabilities(frozenset({"score", "generate"}), frozenset(kinds))
        self.asked: list[Any] = []
        self.constraints: list[Constraint | None] = []

    async def score(self, prompt: Any, continuations: Sequence[str], *, adapter: str | None = None) -> list[float]:
        self.asked.append(prompt)
        return [self.scores.get(text, -20.0) for text in continuations]

    async def generate(self, prompt: Any, *, sampling: Sampling = Sampling(), **options: Any) -> list[Completion]:
        self.asked.append(prompt)
        self.constraints.append(options.get("constraint"))
        return [Completion(self.text, -1.0, 5, "stop", raw=self.text)]

    async def embed(self, texts: Sequence[str], *, adapter: str | None = None) -> Any:
        raise AssertionError("no user embeds anything")


def test_golden_chat() -> None:
    system, user = decision_messages(
        CATALOGUE, PERSONA, [Seen(0, 5), Seen(1)], [(2, SKIP), (1, "4")], 0, today=[Seen(1, 4)]
    )
    assert system == {
        "role": "system",
        "content": (
            "You are a viewer, not an assistant. You are picky: half of what you are offered does not suit you.\n"
            "About you: 25-34, engineer.\n"
            "You like: Sci-Fi, Horror.\n"
            "You have watched:\n"
            "- Alien (1979): 5/5\n"
            "- Heat (1995)\n"
            "When you are offered a film, answer with one word: yes if you would choose it, no if not."
        ),
    }
    assert user == {
        "role": "user",
        "content": (
            "Chosen earlier today: Heat (1995) 4\n"
            "Offered before:\n"
            '- Title: X; "- 5 user (1999). Category: Drama -> no\n'
            "- Title: Heat (1995). Category: Crime -> yes, 4 stars\n"
            "Offered now: Title: Alien (1979). Category: Horror, Sci-Fi"
        ),
    }


def test_a_stranger_without_a_past() -> None:
    persona = Persona(user=1, noun="product")
    text = str(persona_message(CATALOGUE, persona, [])["content"])
    assert "You have" not in text
    assert "About you" not in text
    assert "customer" in text


def test_decisions_of_one_slate_share_their_beginning() -> None:
    first = decision_messages(CATALOGUE, PERSONA, [Seen(0, 5)], [], 1)
    second = decision_messages(CATALOGUE, PERSONA, [Seen(0, 5)], [(1, SKIP)], 2)
    third = decision_messages(CATALOGUE, PERSONA, [Seen(0, 5)], [(1, SKIP), (2, "4")], 0)
    assert first[0] == second[0] == third[0]
    assert str(third[1]["content"]).startswith(str(second[1]["content"]).split("\nOffered now")[0])


async def test_a_decision_is_yes_against_no_in_either_case() -> None:
    """Yes: log(0.3 + 0.1), no: log(0.2), so the odds are 2 to 1, 2/3."""
    lm = Answers({"yes": np.log(0.3), "Yes": np.log(0.1), "no": np.log(0.1), "No": np.log(0.1)})
    view = await chat_opinion(lm, [], adapter=None)
    assert view.click == pytest.approx(2 / 3)
    with pytest.raises(ModelError, match="finite"):
        await chat_opinion(Answers({"yes": float("nan")}), [], adapter=None)


async def test_stars_are_asked_after_a_yes_and_keep_the_click() -> None:
    lm = Answers({"yes": 0.0, "no": 0.0, "4": np.log(0.75), "2": np.log(0.25)})
    messages = decision_messages(CATALOGUE, PERSONA, [], [], 0)
    view = await chat_opinion(lm, messages, adapter=None)
    rated = await with_stars(lm, messages, view, adapter=None)
    assert rated.click == pytest.approx(view.click) == pytest.approx(0.5)
    assert rated.expected_stars == pytest.approx(0.75 * 4 + 0.25 * 2, abs=1e-3)
    assert lm.asked[1][:2] == messages
    assert [message["role"] for message in lm.asked[1]] == ["system", "user", "assistant", "user"]


def test_the_chat_offers_one_sentence_per_candidate() -> None:
    sentences = written([LESS, MORE], np.random.default_rng(0))
    assert list(sentences.values()) == [LESS, MORE]
    messages = instruction_messages(
        CATALOGUE, PERSONA, [Seen(0, 5)], [Taste("genres", "Crime")], [(2, SKIP)], tuple(sentences)
    )
    assert messages[0] == persona_message(CATALOGUE, PERSONA, [Seen(0, 5)])
    text = str(messages[1]["content"])
    assert all(f"\n- {sentence}\n" in text for sentence in sentences)
    assert "today you want Crime" in text


@pytest.mark.parametrize(
    ("kinds", "answer", "kind"),
    [
        (("choice", "json_schema"), "{0}", "choice"),
        (("json_schema",), '{{"choice": "{0}"}}', "json_schema"),
        ((), "- {0}", None),
    ],
)
async def test_the_answer_is_one_of_the_sentences(
    kinds: tuple[ConstraintKind, ...], answer: str, kind: str | None
) -> None:
    sentences = written([LESS, MORE], np.random.default_rng(1))
    lm = Answers(text=answer.format(list(sentences)[1]), kinds=kinds)
    said = await say(lm, [], sentences, sampling=Sampling(), free=False, adapter=None)
    assert (said.kind, said.value, said.predicate) == ("more_of", "Crime", MORE.predicate)
    assert said.say == list(sentences)[1]
    assert (lm.constraints[0].kind if lm.constraints[0] else None) == kind


async def test_own_words_must_say_the_same() -> None:
    sentences = {"Less Horror": LESS}
    good = json.dumps({"choice": "Less Horror", "say": "Tonight less Horror please"})
    assert read_instruction(good, sentences, free=True).say == "Tonight less Horror please"
    for words in ("More Horror please", "Surprise me", 'less Horror"}'):
        with pytest.raises(OutputError):
            read_instruction(json.dumps({"choice": "Less Horror", "say": words}), sentences, free=True)
    with pytest.raises(UnsupportedError, match="free_words"):
        await say(Answers(), [], sentences, sampling=Sampling(), free=True, adapter=None)


@pytest.mark.parametrize("text", ["", "Something else", '{"choice": "Something else"}', '{"choice"', "{}"])
def test_anything_else_is_an_output_error(text: str) -> None:
    with pytest.raises(OutputError):
        read_instruction(text, {"Less Horror": LESS})


def test_auto_is_text_where_there_are_grammars() -> None:
    assert style_of(Answers(kinds=("lark",)), "auto") == "text"
    assert style_of(Answers(kinds=("json_schema",)), "auto") == "chat"
    assert style_of(Answers(kinds=("lark",)), "chat") == "chat"
    assert style_of(Answers(), "text") == "text"
