"""A simulated user played by a chat model that was not trained for it: what it is asked, and how answers are read.

A decision is the model's log-odds of "yes" against "no" after a chat: who the user is (system part, the same for every
question), then the session's decisions, then the item.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from llmrec.data.catalogue import Catalogue
from llmrec.errors import ModelError, OutputError, UnsupportedError
from llmrec.lm.protocol import Constraint, LanguageModel, Message, Sampling
from llmrec.prompting import as_data, render
from llmrec.roles.instruction import Candidate, Instruction, answer, parse
from llmrec.roles.instruction_rules import phrase
from llmrec.roles.item_text import item_text, past_text
from llmrec.roles.opinion import SKIP, STARS, YES, Opinion, labels, sigmoid
from llmrec.roles.persona import Persona, Taste, words
from llmrec.roles.user import HISTORY_LENGTH, SHOWN_LENGTH, Seen

Style = Literal["auto", "text", "chat"]
"""How the simulated user is asked. text: one raw text, the form that user adapters are trained on; chat: messages."""
_YES, _NO = ("yes", "Yes"), ("no", "No")  # chat models write either, whatever they are told
_SAID = {SKIP: "no", YES: "yes"}
_STARS_QUESTION = "How many stars do you give it afterwards, 1 to 5? Answer with one digit."


def style_of(lm: LanguageModel, style: Style) -> Literal["text", "chat"]:
    """The style that ``auto`` means: text where the engine takes Lark grammars (as local models do), else chat."""
    if style == "auto":
        return "text" if "lark" in lm.capabilities.constraints else "chat"
    return style


def persona_message(catalogue: Catalogue, persona: Persona, history: Sequence[Seen]) -> Message:
    """The system part: who the user is.

    Args:
        history: taken before, oldest first; the newest `HISTORY_LENGTH` are written.
    """
    wording = words(persona.noun)
    text = render(
        "user/chat_persona",
        person=wording.person.lower(),
        consumed=wording.consumed.lower(),
        noun=persona.noun,
        profile=persona.profile_text,
        likes=persona.likes_text,
        history=[(past_text(catalogue, item), stars) for item, stars in history[-HISTORY_LENGTH:]],
    )
    return {"role": "system", "content": text.strip()}


def decision_messages(
    catalogue: Catalogue,
    persona: Persona,
    history: Sequence[Seen],
    shown: Sequence[tuple[int, str]],
    item: int,
    *,
    today: Sequence[Seen] = (),
) -> list[Message]:
    """The chat whose next word is the decision on `item`.

    Args:
        history: taken before the session, oldest first.
        shown: (catalogue row, label) decided on in this round; the newest `SHOWN_LENGTH` - 1 are written.
        today: taken in earlier rounds of the session; apart from `history`, so that the system part stays the same.
    """
    text = render(
        "user/chat_decision",
        today=[past_text(catalogue, *seen) for seen in today[-HISTORY_LENGTH:]],
        shown=_shown(catalogue, shown[-(SHOWN_LENGTH - 1) :]),
        item=item_text(catalogue, item),
    )
    return [persona_message(catalogue, persona, history), {"role": "user", "content": text.strip()}]


async def chat_opinion(lm: LanguageModel, messages: Sequence[Message], *, adapter: str | None) -> Opinion:
    """Ask the model about the item: one `score` call, over yes and no.

    Returns:
        An opinion without stars; `with_stars` adds them.

    Raises:
        ModelError: the model gave no finite log-probability.
    """
    scores = await _scores(lm, messages, (*_YES, *_NO), adapter)
    click = sigmoid(_either(scores[: len(_YES)]) - _either(scores[len(_YES) :]))
    return Opinion(labels(False), (1.0 - click, click))


async def with_stars(lm: LanguageModel, messages: Sequence[Message], view: Opinion, *, adapter: str | None) -> Opinion:
    """The opinion with the clicks spread over 1 to 5 stars, by a second question after a "yes": one `score` call.

    Costs a call, so it is asked for clicks only.
    """
    asked = [*messages, {"role": "assistant", "content": "yes"}, {"role": "user", "content": _STARS_QUESTION}]
    scores = await _scores(lm, asked, STARS, adapter)
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    return Opinion(labels(True), (1.0 - view.click, *(view.click * weight / sum(weights) for weight in weights)))


def _either(scores: Sequence[float]) -> float:
    """Log-probability of one or the other."""
    highest = max(scores)
    return highest + math.log(sum(math.exp(score - highest) for score in scores))


async def _scores(
    lm: LanguageModel, messages: Sequence[Message], answers: Sequence[str], adapter: str | None
) -> list[float]:
    scores = await lm.score(messages, answers, adapter=adapter)
    if not all(math.isfinite(score) for score in scores):
        raise ModelError(f"the model {lm.name!r} gave answers no finite log-probability, got {scores!r}")
    return scores


# --- what should change


def written(choices: Sequence[Candidate], draws: np.random.Generator) -> dict[str, Candidate]:
    """One sentence per candidate, drawn among its phrases."""
    return {phrase(choice, draws): choice for choice in choices}


def instruction_messages(
    catalogue: Catalogue,
    persona: Persona,
    history: Sequence[Seen],
    target: Sequence[Taste],
    shown: Sequence[tuple[int, str]],
    sentences: Sequence[str],
    *,
    free: bool = False,
) -> list[Message]:
    """The chat in which a dissatisfied user chooses one of the sentences."""
    text = render(
        "user/chat_instruction",
        wants=", ".join(as_data(taste.value, max_characters=30) for taste in target),
        shown=_shown(catalogue, shown[-SHOWN_LENGTH:]),
        sentences=list(sentences),
        free=free,
    )
    return [persona_message(catalogue, persona, history), {"role": "user", "content": text.strip()}]


async def say(
    lm: LanguageModel,
    messages: Sequence[Message],
    sentences: dict[str, Candidate],
    *,
    sampling: Sampling,
    free: bool,
    adapter: str | None,
) -> Instruction:
    """Ask for the instruction and read it.

    Raises:
        OutputError: the answer is none of the sentences.
        UnsupportedError: own words were asked for, and the engine has no JSON schemas.
    """
    form = _constraint(lm, tuple(sentences), free)
    completions = await lm.generate(messages, sampling=sampling, constraint=form, adapter=adapter)
    return read_instruction(completions[0].text, sentences, free=free)


def _constraint(lm: LanguageModel, sentences: tuple[str, ...], free: bool) -> Constraint | None:
    kinds = lm.capabilities.constraints
    if free and "json_schema" not in kinds:
        raise UnsupportedError(f"{lm.name!r} has no JSON schemas; set free_words to false in the user's settings")
    if not free and "choice" in kinds:
        return Constraint("choice", sentences)
    if "json_schema" not in kinds:
        return None  # a model that follows no grammar may still answer with a sentence; anything else is an OutputError
    fields: dict[str, Any] = {"choice": {"enum": list(sentences)}}
    if free:
        fields["say"] = {"type": "string", "maxLength": 120}
    schema = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return Constraint("json_schema", schema)


def read_instruction(text: str, sentences: dict[str, Candidate], *, free: bool = False) -> Instruction:
    """The instruction in a model's answer: a sentence, or a JSON object with it.

    Raises:
        OutputError: it is none of the sentences, or the own words do not say what the sentence says.
    """
    said = chosen = text.strip().strip('"').removeprefix("- ")
    if text.lstrip().startswith("{"):
        try:
            fields = json.loads(text)
            chosen, said = str(fields["choice"]), str(fields.get("say", fields["choice"]))
        except (ValueError, KeyError, AttributeError) as error:
            raise OutputError(f"the instruction has not the asked form, got {text[:200]!r}") from error
    if chosen not in sentences:
        raise OutputError(f"the instruction is none of the sentences, got {text[:200]!r}")
    return parse(answer(sentences[chosen], said if free else chosen), [sentences[chosen]], free=free)


def _shown(catalogue: Catalogue, shown: Sequence[tuple[int, str]]) -> list[tuple[str, str]]:
    return [(item_text(catalogue, row), _SAID.get(label, f"yes, {label} stars")) for row, label in shown]
