"""A bank of things users say, each with the request it means: training data for small models, made from any catalogue.

A message is built from a gold request, never read: wishes are drawn around a real item (so they go together), put into
words (`llmrec.roles.wording`) and into the templates of one phrasing family (`llmrec.roles.voices`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from llmrec.data.catalogue import Catalogue
from llmrec.errors import ConfigError
from llmrec.roles import planner, understand, wording
from llmrec.roles.inventory import ALL_VOICES
from llmrec.roles.matching import reader_for, spans
from llmrec.roles.request import Request, merged
from llmrec.roles.voices import TRAIN_FAMILIES, Voice
from llmrec.roles.words import MOODS
from llmrec.tools.wishes import Wish

Intent = Literal[
    "want", "avoid", "like", "like_want", "mixed", "negation", "dislike", "seen", "plot", "vague", "chat", "unservable"
]
FollowUp = Literal["refine", "refine_avoid", "comparative", "refuse", "correct"]
INTENTS: tuple[Intent, ...] = get_args(Intent)[:-1]
"""What is drawn where nobody asks for an intent; what no tool can serve is said only when asked for."""
_WEIGHTS = np.array([6, 2, 3, 3, 4, 2, 1, 1, 2, 1, 1.0])
_FOLLOW_UPS: tuple[FollowUp, ...] = get_args(FollowUp)[:-1]
_LOWER, _TYPO = 0.06, 0.04  # shares of messages all in lower case, and with swapped letters
_RUNTIMES = (90, 100, 110, 120, 150, 180)
_KNOWN = ("seen", "know", "watched", "been through", "acquainted", "saw", "watch those already", "reviewed", "screened")
_COMPARATIVES = {"year": ("newer", "more recent", "older"), "runtime_min": ("shorter", "longer"), "price": ("cheaper",)}


class Utterance(NamedTuple):
    """What a user says and what it means. Unpacks as (message, request)."""

    message: str
    request: Request


class Example(NamedTuple):
    """A user turn with what came before it."""

    message: str
    request: Request
    """Meaning of this message alone."""
    before: Request | None
    """The request so far, without this message."""
    shown: tuple[int, ...]
    """Rows of the last slate."""


def utterance(
    catalogue: Catalogue,
    rng: np.random.Generator,
    *,
    family: str,
    intent: Intent | None = None,
    noun: str = "film",
) -> Utterance:
    """A first message of a dialogue.

    Args:
        family: one of `llmrec.roles.inventory.ALL_VOICES`.
        intent: what kind of message; None draws one.
        noun: what an item is called (`Dataset.item_noun`).

    Raises:
        ConfigError: there is no such family.
    """
    voice = _voice(family)
    kind = intent or INTENTS[int(rng.choice(len(INTENTS), p=_WEIGHTS / _WEIGHTS.sum()))]
    return _Speaker(catalogue, rng, voice, noun).say(kind)


def follow_up(
    catalogue: Catalogue,
    rng: np.random.Generator,
    *,
    family: str,
    shown: Sequence[int],
    kind: FollowUp | None = None,
    noun: str = "film",
) -> Utterance:
    """A later message about the list just shown, such as "something newer" or "not that again"; None draws a kind."""
    speaker = _Speaker(catalogue, rng, _voice(family), noun)
    return speaker.answer(kind or _FOLLOW_UPS[int(rng.integers(len(_FOLLOW_UPS)))], tuple(shown))


def dialogue(
    catalogue: Catalogue, rng: np.random.Generator, *, family: str, turns: int = 2, noun: str = "film"
) -> list[Example]:
    """A first message and follow-ups, each with the request so far and a drawn slate."""
    before: Request | None = None
    shown: tuple[int, ...] = ()
    examples: list[Example] = []
    for turn in range(turns):
        if turn == 0:
            said = utterance(catalogue, rng, family=family, noun=noun)
        else:
            said = follow_up(catalogue, rng, family=family, shown=shown, noun=noun)
        examples.append(Example(said.message, said.request, before, shown))
        before = merged(before, said.request)
        shown = tuple(int(row) for row in rng.choice(len(catalogue), size=min(5, len(catalogue)), replace=False))
    return examples


def training_texts(
    catalogue: Catalogue,
    rng: np.random.Generator,
    n: int,
    *,
    families: Sequence[str] = TRAIN_FAMILIES,
    noun: str = "film",
) -> Iterator[tuple[str, str]]:
    """Prompts and completions of `n` dialogues: every understanding and every tool call in them.

    The same forms are used by the recommender at run time (`llmrec.roles.understand`, `llmrec.roles.planner`).
    """
    for _ in range(n):
        family = wording.pick(rng, families)
        for one in dialogue(catalogue, rng, family=family, turns=1 + int(rng.random() < 0.5), noun=noun):
            yield understand.training_example(one.message, catalogue, one.request, before=one.before, shown=one.shown)
            now = merged(one.before, one.request)
            history = bool(rng.random() < 0.6)
            yield from planner.training_examples(one.message, catalogue, now, history=history)
        if rng.random() < 0.3:  # rounds of a feed have no message: the plan follows from the history
            yield from planner.training_examples("", catalogue, Request(), history=bool(rng.random() < 0.9))


class _Speaker:
    """Builds messages of one voice."""

    def __init__(self, catalogue: Catalogue, rng: np.random.Generator, voice: Voice, noun: str) -> None:
        self.catalogue = catalogue
        self.rng = rng
        self.voice = voice
        self.nouns = {"noun": noun, "nouns": wording.plural(noun)}
        self.noun = noun
        names = catalogue.attribute_names
        self.categories = [name for name in names if catalogue.kind(name) in ("category", "categories")]
        self.texts = [name for name in names if catalogue.kind(name) == "text"]
        self.numbers = [name for name in names if name in ("year", "runtime_min", "price")]

    def say(self, intent: Intent) -> Utterance:
        match intent:
            case "want":
                return self._compose(want=self._wishes(1 + int(self.rng.integers(3))))
            case "avoid":
                return self._compose(avoid=self._refusals(1 + int(self.rng.integers(2))))
            case "like":
                return self._compose(like=self._titles())
            case "like_want":
                return self._compose(like=self._titles(), want=self._wishes(1))
            case "mixed":
                return self._compose(want=self._wishes(1 + int(self.rng.integers(2))), avoid=self._refusals(1))
            case "negation":
                return self._negation()
            case "dislike":
                return self._compose(dislike=self._titles(), want=self._wishes(1))
            case "seen":
                return self._compose(seen=self._titles(), want=self._wishes(1))
            case "plot":
                return self._plot()
            case "vague":
                message = self._fill(self.voice.vague)
                return Utterance(message, Request(turn="open"))
            case "chat":
                return Utterance(self._fill(self.voice.chat), Request(turn="chat"))
            case "unservable":
                return Utterance(self._fill(self.voice.unservable), Request(turn="chat"))

    def answer(self, kind: FollowUp, shown: tuple[int, ...]) -> Utterance:
        match kind:
            case "comparative" if self.numbers:
                return self._comparative(shown)
            case "refuse":
                return self._refuse(shown)
            case "correct":
                return self._correct()
            case "refine_avoid":
                refused = self._refusals(1)
                message = self._fill(
                    self.voice.avoid, refused=wording.refused(refused, self.rng, self.catalogue, self.noun)
                )
                return Utterance(message, Request(turn="refine", avoid=refused))
            case _:
                wishes = self._wishes(1)
                message = self._fill(self.voice.refine, **self._descriptions(wishes))
                return Utterance(message, Request(turn="refine", want=wishes))

    # Whole messages ---------------------------------------------------------------------------------------------------

    def _compose(
        self,
        *,
        want: tuple[Wish, ...] = (),
        avoid: tuple[Wish, ...] = (),
        like: tuple[int, ...] = (),
        dislike: tuple[int, ...] = (),
        seen: tuple[int, ...] = (),
    ) -> Utterance:
        want = tuple(wish for wish in want if wish not in avoid)
        parts: list[str] = []
        if like:
            parts.append(self._fill(self.voice.like, titles=self._named(like)))
        if dislike:
            parts.append(self._fill(self.voice.dislike, titles=self._named(dislike)))
        if seen:
            parts.append(self._fill(self.voice.seen, titles=self._named(seen)))
        if want:
            wanted = self._fill(self.voice.want, **self._descriptions(want))
            parts.insert(int(self.rng.integers(len(parts) + 1)), wanted)
        if avoid:
            refused = wording.refused(avoid, self.rng, self.catalogue, self.noun)
            parts.append(self._fill(self.voice.avoid, refused=refused))
        request = Request(want=want, avoid=avoid, like_titles=like, dislike_titles=dislike, seen_titles=seen)
        return Utterance(self._typed(self._joined(parts)), request)

    def _negation(self) -> Utterance:
        """Positive and negative values in one clause: "horror, but not gory"."""
        want, avoid = self._wishes(1), self._refusals(1)
        want = tuple(wish for wish in want if wish not in avoid) or want
        avoid = tuple(wish for wish in avoid if wish not in want)
        np_text = wording.describe(want, self.rng, self.catalogue, self.noun)
        no_text = wording.refused(avoid, self.rng, self.catalogue, self.noun) if avoid else "sequels"
        link = wording.pick(
            self.rng, (", but not {}", ", but no {}", " without {}", ", just not {}", " with no {}", ", not {}")
        )
        message = self._fill(self.voice.want, np=np_text + link.format(no_text))
        return Utterance(message, Request(want=want, avoid=avoid))

    def _correct(self) -> Utterance:
        """What was said before is taken back: "I meant comedy, not horror"."""
        want, avoid = self._wishes(1), self._refusals(1)
        avoid = tuple(wish for wish in avoid if wish not in want)
        if not avoid:
            return self.answer("refine", ())
        refused = wording.refused(avoid, self.rng, self.catalogue, self.noun)
        message = self._fill(self.voice.correct, refused=refused, **self._descriptions(want))
        return Utterance(self._typed(message), Request(turn="refine", want=want, avoid=avoid))

    def _plot(self) -> Utterance:
        """Words that no attribute explains, taken from the free text of an item; sometimes beside an ordinary wish."""
        row = int(self.rng.integers(len(self.catalogue)))
        values = self.catalogue.values(row, wording.pick(self.rng, self.texts)) if self.texts else ()
        words = str(values[0]).rstrip(".").split() if values else []
        if len(words) < 6:
            return self.say("want")
        n = int(self.rng.integers(1, min(10, len(words)) + 1))
        start = int(self.rng.integers(len(words) - n + 1))
        rest = " ".join(words[start : start + n]).strip(",;")
        wishes = self._wishes(1) if self.rng.random() < 0.3 else ()
        if wishes or n < 4:
            thing = wording.describe(wishes, self.rng, self.catalogue, self.noun)
            message = self._fill(self.voice.want, np=f"{thing} {wording.pick(self.rng, ('about', 'with'))} {rest}")
        else:
            message = self._fill(self.voice.plot, rest=rest)
        found = reader_for(self.catalogue).find(message)
        return Utterance(message, Request(want=wishes, query=_query(spans(message, found), rest)))

    def _comparative(self, shown: tuple[int, ...]) -> Utterance:
        attribute = wording.pick(self.rng, self.numbers)
        word = wording.pick(self.rng, _COMPARATIVES[attribute])
        # TERSE "more {adjective}" would give "more newer"
        templates = tuple(t for t in self.voice.refine if "more {adjective}" not in t)
        message = self._fill(templates, np=f"something {word}", adjective=word)
        ranges = reader_for(self.catalogue).ranges.find(message, shown)
        return Utterance(message, Request(turn="refine", want=tuple(found.wish for found in ranges)))

    def _refuse(self, shown: tuple[int, ...]) -> Utterance:
        message = self._fill(self.voice.refuse)
        known = any(word in message.lower() for word in _KNOWN)
        seen, disliked = (shown, ()) if known else ((), shown)
        return Utterance(message, Request(turn="refine", seen_titles=seen, dislike_titles=disliked))

    # Parts ------------------------------------------------------------------------------------------------------------

    def _wishes(self, n: int) -> tuple[Wish, ...]:
        """Wishes that one real item fulfils, so that they go together."""
        row = int(self.rng.integers(len(self.catalogue)))
        choices = [name for name in (*self.categories, *self.numbers) if self.catalogue.values(row, name)]
        if not choices:
            return ()
        weights = np.array([3.0 if wording.place(name) in ("genre", "topic") else 1.0 for name in choices])
        size = min(n, len(choices))
        names = self.rng.choice(len(choices), size=size, replace=False, p=weights / weights.sum())
        return tuple(self._wish(row, choices[int(index)]) for index in names)

    def _wish(self, row: int, name: str) -> Wish:
        values = self.catalogue.values(row, name)
        if name in self.categories:
            return Wish(attribute=name, value=str(values[int(self.rng.integers(len(values)))]))
        number = float(values[0])
        if name == "year":
            return self._years(number)
        if name == "price":
            return Wish(attribute=name, high=float(max(5, 5 * np.ceil(number / 5))))
        fitting = [minutes for minutes in _RUNTIMES if minutes >= number]
        if fitting and self.rng.random() < 0.75:
            return Wish(attribute=name, high=float(fitting[0]))
        return Wish(attribute=name, low=float(max(60, 30 * (number // 30))))

    def _years(self, year: float) -> Wish:
        decade = 10.0 * (year // 10)
        match int(self.rng.integers(5)):
            case 0:
                return Wish(attribute="year", low=decade)
            case 1:
                return Wish(attribute="year", high=decade + 9)
            case 2:
                return Wish(attribute="year", low=year, high=year)
            case _:
                return Wish(attribute="year", low=decade, high=decade + 9)

    def _refusals(self, n: int) -> tuple[Wish, ...]:
        names = [name for name in self.categories if wording.place(name) in ("genre", "topic")] or self.categories
        drawn: list[Wish] = []
        for _ in range(n):
            row = int(self.rng.integers(len(self.catalogue)))
            present = [name for name in names if self.catalogue.values(row, name)]
            if present:
                drawn.append(self._wish(row, wording.pick(self.rng, present)))
        return tuple(dict.fromkeys(drawn))

    def _titles(self) -> tuple[int, ...]:
        n = 1 + int(self.rng.random() < 0.35)
        return tuple(
            int(row) for row in self.rng.choice(len(self.catalogue), size=min(n, len(self.catalogue)), replace=False)
        )

    def _named(self, rows: Sequence[int]) -> str:
        say = self.catalogue.display if self.rng.random() < 0.25 else self.catalogue.title
        return " and ".join(say(row) for row in rows)

    def _descriptions(self, wishes: tuple[Wish, ...]) -> dict[str, str]:
        np_text = wording.describe(wishes, self.rng, self.catalogue, self.noun)
        first = wishes[0] if wishes else None
        fits = first is not None and first.value is not None and first.value in MOODS
        said = wording.adjective(first, self.rng, self.catalogue) if fits and first else np_text
        return {"np": np_text, "adjective": said if fits else ""}

    def _fill(self, templates: Sequence[str], **values: str) -> str:
        if not values.get("adjective", "x"):
            templates = [template for template in templates if "{adjective}" not in template]
        template = wording.pick(self.rng, templates)
        if self.noun not in ("film", "movie"):
            template = template.replace("watch", "try").replace("tryed", "tried")
        return template.format(**self.nouns, **values)

    def _joined(self, parts: list[str]) -> str:
        ended = [part if part[-1] in ".!?" else f"{part}," for part in parts[:-1]]
        message = " ".join([*ended, *parts[-1:]])
        return message[:1].lower() + message[1:] if self.rng.random() < 0.15 else message

    def _typed(self, message: str) -> str:
        """Now and then all in lower case, or with two letters of a word swapped."""
        draw = float(self.rng.random())
        if draw < _LOWER:
            return message.lower()
        words = list(re.finditer(r"[a-z]{6,}", message))
        if draw > 1 - _TYPO and words:
            word = words[int(self.rng.integers(len(words)))]
            at = word.start() + 1 + int(self.rng.integers(len(word.group()) - 3))
            return f"{message[:at]}{message[at + 1]}{message[at]}{message[at + 2 :]}"
        return message


def _query(offered: Sequence[str], rest: str) -> str:
    """The offered span that shares most words with the free part; "" when none shares any."""
    words = set(rest.lower().split())
    shared = [len(words & set(span.lower().split())) for span in offered]
    return offered[int(np.argmax(shared))] if shared and max(shared) > 0 else ""


def _voice(family: str) -> Voice:
    if family not in ALL_VOICES:
        raise ConfigError(f"no phrasing family {family!r}; the families are {', '.join(ALL_VOICES)}")
    return ALL_VOICES[family]
