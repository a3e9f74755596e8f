"""What a dissatisfied user asks for: a class, words, and where one exists a predicate that a program checks.

The model chooses among candidates that come from the slate it saw and from its own tastes, and says so in its own
words, under a grammar (RecoWorld; the classes here are [D]).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from llmrec.data.catalogue import Catalogue
from llmrec.errors import OutputError
from llmrec.lm.protocol import Constraint
from llmrec.prompting import as_data, render
from llmrec.roles.instruction_words import OPENERS, PHRASES, InstructionClass
from llmrec.roles.item_text import item_text
from llmrec.roles.opinion import SKIP
from llmrec.roles.persona import Persona, Taste, TasteIndex, words

Mode = Literal["any", "none", "above", "below", "unchecked"]
MAX_WORDS = 14
"""Upper bound on the words of an instruction."""
_MAX_CANDIDATES = 8
_MAX_VALUE_WORDS = 4
_COMMON = 0.5  # a topic of more than half of the catalogue ("Beauty" among beauty products) says nothing
_MAX_SHOWN = 6  # newest decisions that the prompt repeats
_LIGHT = ("Comedy", "Family", "Animation", "Children's", "Children", "Musical", "Romance")
_DARK = ("Horror", "Thriller", "Crime", "Film-Noir", "Noir", "War", "Mystery")
TONES: Mapping[str, tuple[str, ...]] = {"lighter": _LIGHT, "darker": _DARK}
"""Topics that count as a tone. [D]"""
COMPARISONS: Mapping[str, tuple[tuple[str, Mode], ...]] = {
    "year": (("newer", "above"), ("older", "below")),
    "runtime_min": (("shorter", "below"), ("longer", "above")),
    "runtime": (("shorter", "below"), ("longer", "above")),
    "price": (("cheaper", "below"),),
}
"""Numeric attributes that can be asked for, by comparison with the slate. [D]"""


class Predicate(BaseModel):
    """A condition on an item, from which the share of a slate that fulfils it follows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode
    """any / none: has one / none of `values`; above / below: a number beyond `bound`; unchecked: nobody can tell."""
    attribute: str = ""
    values: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Values that the item must not have besides."""
    bound: float = 0.0

    def holds(self, catalogue: Catalogue, row: int) -> bool | None:
        """Whether the item fulfils it; None when unchecked. A missing number fulfils nothing."""
        if self.mode == "unchecked":
            return None
        present = catalogue.values(row, self.attribute)
        if self.mode in ("above", "below"):
            numbers = [float(value) for value in present]
            return any(n > self.bound if self.mode == "above" else n < self.bound for n in numbers)
        names = set(map(str, present))
        if names.intersection(self.without):
            return False
        return bool(names.intersection(self.values)) == (self.mode == "any")

    def share(self, slate: Sequence[int], catalogue: Catalogue) -> float | None:
        """Share of the slate that fulfils it; None for an empty slate or an unchecked predicate."""
        if not slate or self.mode == "unchecked":
            return None
        return sum(bool(self.holds(catalogue, row)) for row in slate) / len(slate)


class Candidate(NamedTuple):
    """One thing that a user might ask for."""

    kind: InstructionClass
    attribute: str
    value: str
    predicate: Predicate


class Instruction(BaseModel):
    """What the user asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: InstructionClass
    attribute: str
    value: str
    say: str
    """The user's words; the recommender sees nothing else of this."""
    predicate: Predicate


class Slate(NamedTuple):
    """A slate as its user saw it, counted."""

    shown: tuple[tuple[int, str], ...]
    """(catalogue row, label) in order."""
    attribute: str
    """The topic attribute."""
    topics: Counter[str]
    """Items per topic."""
    skipped: Counter[str]
    """Skipped items per topic."""


def read_slate(index: TasteIndex, shown: Sequence[tuple[int, str]]) -> Slate:
    """Count the topics of a slate."""
    names = {row: [name for name in index.topics(row) if index.topic_share[name] <= _COMMON] for row, _ in shown}
    return Slate(
        shown=tuple(shown),
        attribute=index.topic_attribute,
        topics=Counter(name for row, _ in shown for name in names[row]),
        skipped=Counter(name for row, label in shown if label == SKIP for name in names[row]),
    )


def candidates(index: TasteIndex, persona: Persona, target: Sequence[Taste], slate: Slate) -> list[Candidate]:
    """What this user might ask for after this slate, most specific first; never empty.

    Built from values of the slate and of the persona alone.
    """
    likes = [taste.value for taste in persona.likes if taste.attribute == slate.attribute]
    found = [*_less(slate), *_wanted(slate, persona, target), *_shift(slate, likes)]
    main = tuple(name for name, n in slate.topics.items() if 2 * n >= len(slate.shown))
    if main:
        found.append(Candidate("different", slate.attribute, "different", _has("none", slate.attribute, *main)))
    found += _tones(index.catalogue, slate)
    found += _comparisons(index.catalogue, slate)
    vague = Candidate("vague", "", "interesting", Predicate(mode="unchecked"))
    unique = {(c.kind, c.attribute, c.value): c for c in found if _sayable(c.value)}
    return [*list(unique.values())[: _MAX_CANDIDATES - 1], vague]


def _has(mode: Mode, attribute: str, *values: str, without: tuple[str, ...] = ()) -> Predicate:
    return Predicate(mode=mode, attribute=attribute, values=values, without=without)


def _less(slate: Slate) -> list[Candidate]:
    """The most repeated topics among the skipped items, at least two items each."""
    repeated = sorted((-n, name) for name, n in slate.skipped.items() if n >= 2)
    return [
        Candidate("less_of", slate.attribute, name, _has("none", slate.attribute, name)) for _, name in repeated[:2]
    ]


def _wanted(slate: Slate, persona: Persona, target: Sequence[Taste]) -> list[Candidate]:
    """What the user is after, then other tastes, where the slate has little of it."""
    tastes = dict.fromkeys((*target, *(taste for taste in persona.likes if taste.attribute == slate.attribute)))
    scarce = [t for t in tastes if t.attribute != slate.attribute or 2 * slate.topics[t.value] < len(slate.shown)]
    return [Candidate("more_of", t.attribute, t.value, _has("any", t.attribute, t.value)) for t in scarce[:2]]


def _shift(slate: Slate, likes: Sequence[str]) -> list[Candidate]:
    """From the topic that most of the slate has towards a taste that comes with it less often."""
    if not slate.topics:
        return []
    name, n = min(slate.topics.items(), key=lambda pair: (-pair[1], pair[0]))
    towards = [value for value in likes if value != name]
    if 2 * n < len(slate.shown) or not towards:
        return []
    value = min(towards, key=lambda like: (slate.topics[like], likes.index(like)))
    return [Candidate("shift", slate.attribute, value, _has("any", slate.attribute, value, without=(name,)))]


def _comparisons(catalogue: Catalogue, slate: Slate) -> list[Candidate]:
    """Newer than, older than, ... the middle of the slate."""
    found = []
    for attribute, comparisons in COMPARISONS.items():
        if attribute not in catalogue.attribute_names or catalogue.kind(attribute) != "number":
            continue
        numbers = sorted(float(value) for row, _ in slate.shown for value in catalogue.values(row, attribute))
        if numbers:
            middle = numbers[len(numbers) // 2]
            found += [
                Candidate("attribute", attribute, value, Predicate(mode=mode, attribute=attribute, bound=middle))
                for value, mode in comparisons
            ]
    return found


def _tones(catalogue: Catalogue, slate: Slate) -> list[Candidate]:
    known = catalogue.vocabulary(slate.attribute) if slate.attribute else {}
    tones = {tone: tuple(topic for topic in topics if topic in known) for tone, topics in TONES.items()}
    return [
        Candidate("tone", slate.attribute, tone, _has("any", slate.attribute, *topics))
        for tone, topics in tones.items()
        if topics and 2 * sum(slate.topics[topic] for topic in topics) < len(slate.shown)
    ]


def _sayable(value: str) -> bool:
    """A value that fits an instruction as it stands: printable, no quotes or backslashes, a few words."""
    return (
        value == as_data(value)
        and not re.search(r'["\\]', value)
        and len(value.split()) <= _MAX_VALUE_WORDS
        and len(value) <= 40
    )


# --- the form in which a model writes it


def _escaped(text: str) -> str:
    """Escape for a regular expression in a dialect that Python and llguidance share."""
    return re.sub(r"([\\.+*?()|\[\]{}^$/])", r"\\\1", text)


def pattern(candidate: Candidate, *, free: bool = False) -> str:
    """Regular expression of the answer that chooses this candidate.

    Args:
        free: the model finds its own words: an opener of the class, then the value literally, `MAX_WORDS` at most;
            else it chooses one of `PHRASES`, as a model that cannot spell yet must.
    """
    head = _escaped(answer_head(candidate))
    if not free:
        texts = (text.format(value=candidate.value) for text in PHRASES[candidate.kind])
        return f'{head}({"|".join(map(_escaped, texts))})[.?]?"\\}}'
    openers = OPENERS[candidate.kind]
    fixed = max(len(opener.split()) for opener in openers) + len(candidate.value.split())
    before = (MAX_WORDS - fixed + 1) // 2
    after = MAX_WORDS - fixed - before
    inside, leading = "|".join(map(_escaped, openers)), "|".join(map(_escaped, map(_capital, openers)))
    opening = f"({_FREE_FIRST},? ({_FREE_WORD},? ){{0,{before - 1}}}({inside})|({leading}))"
    return f'{head}{opening} {_escaped(candidate.value)}(,? {_FREE_WORD}){{0,{after}}}[.!?]?"\\}}'


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


_FREE_FIRST, _FREE_WORD = "[A-Z][a-z']{0,11}", "[A-Za-z][a-z']{0,11}"


def answer_head(candidate: Candidate) -> str:
    """The part of the answer before the user's words."""
    fields = {"class": candidate.kind, "attribute": candidate.attribute, "value": candidate.value}
    return " " + json.dumps(fields, ensure_ascii=False)[:-1] + ', "say": "'


def answer(candidate: Candidate, say: str) -> str:
    """The answer that a model should write."""
    return f'{answer_head(candidate)}{say}"}}'


def grammar(choices: Sequence[Candidate], *, free: bool = False) -> Constraint:
    """Lark grammar: one of the candidates, in its form."""
    names = [f"C{place}" for place in range(len(choices))]
    rules = [f"{name}: /{pattern(candidate, free=free)}/" for name, candidate in zip(names, choices, strict=True)]
    return Constraint("lark", "\n".join([f"start: {' | '.join(names)}", *rules]))


def parse(text: str, choices: Sequence[Candidate], *, free: bool = False) -> Instruction:
    """Read a model's answer.

    Raises:
        OutputError: the text has not the form, or chooses no candidate.
    """
    for choice in choices:
        if re.fullmatch(pattern(choice, free=free), text):
            say = str(json.loads(text)["say"])
            return Instruction(
                kind=choice.kind, attribute=choice.attribute, value=choice.value, say=say, predicate=choice.predicate
            )
    raise OutputError(f"the instruction has not the asked form, got {text!r}")


def instruction_prompt(
    catalogue: Catalogue, persona: Persona, target: Sequence[Taste], shown: Sequence[tuple[int, str]]
) -> str:
    """The user's own view of the last slate, up to the cue after which the answer is written."""
    return render(
        "user/instruction",
        person=words(persona.noun).person,
        profile=persona.profile_text,
        likes=persona.likes_text,
        wants=", ".join(as_data(taste.value, max_characters=30) for taste in target),
        shown=[(item_text(catalogue, row), label) for row, label in shown[-_MAX_SHOWN:]],
    )
