"""Reads the conversations of ReDial as offers, the seeker's labels, and replies."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmrec.errors import DataError
from llmrec.roles.user_talk import Said

_MENTION = re.compile(r"@(\d+)")


class Talk(NamedTuple):
    """One message of a recommender that offers something, and what the seeker made of it."""

    dialogue: str
    seeker: str
    said: tuple[Said, ...]
    """Messages up to the one with the offers; "You" is the seeker."""
    offers: tuple[tuple[str, str], ...]
    """(title, label of `TALK_LABELS`)."""
    reply: str
    """The seeker's next message; "" where there is none."""
    last: bool
    """Whether that is the seeker's last message."""


def read_talks(folder: Path) -> list[Talk]:
    """Turns with offers from `dialogues_*.jsonl` or `dialogues_*.jsonl.gz`.

    Dialogues without the seeker's answers give none.

    Raises:
        DataError: there is no such file, or a line of it is not a dialogue.
    """
    files = sorted([*folder.glob("dialogues_*.jsonl"), *folder.glob("dialogues_*.jsonl.gz")])
    if not files:
        raise DataError(f"no dialogues_*.jsonl.gz in {str(folder)!r}; name the folder of ReDial")
    talks = []
    for path in files:
        for number, line in _lines(path):
            try:
                talks += turns(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{path.name}, line {number}: not a dialogue of ReDial ({type(error).__name__}: {error}); "
                    "remove the line or fetch the file again"
                ) from error
    return talks


def seekers(talks: list[Talk]) -> list[str]:
    """Who sought, sorted."""
    return sorted({talk.seeker for talk in talks})


def turns(dialogue: Mapping[str, Any]) -> list[Talk]:
    """The turns of one dialogue in which the recommender offers titles that the seeker labelled as suggested."""
    answers = dialogue["initiator_answers"]
    if not answers:
        return []  # the seeker did not fill in the form; the files then hold an empty list
    titles = {number: " ".join(str(title).split()) for number, title in dialogue["movie_mentions"].items() if title}
    seeker, messages = str(dialogue["initiator"]), dialogue["messages"]
    said: list[Said] = []
    found: list[Talk] = []
    decided: set[str] = set()
    of_seeker = [place for place, one in enumerate(messages) if str(one["sender"]) == seeker]
    for place, message in enumerate(messages):
        own = str(message["sender"]) == seeker
        said.append(Said("You" if own else "They", _plain(str(message["text"]), titles)))
        if own:
            continue
        mentioned = dict.fromkeys(_MENTION.findall(str(message["text"])))
        new = [n for n in mentioned if n in titles and n in answers and answers[n]["suggested"] == 1]
        offers = tuple((titles[n], label(answers[n])) for n in new if n not in decided)
        decided.update(new)
        if offers:
            reply = next((later for later in of_seeker if later > place), None)
            text = "" if reply is None else _plain(str(messages[reply]["text"]), titles)
            last = bool(of_seeker) and reply == of_seeker[-1]
            found.append(Talk(str(dialogue["dialogue_id"]), seeker, tuple(said), offers, text, last))
    return found


def label(answer: Mapping[str, int]) -> str:
    """The seeker's form about one title as a decision (liked: 0 no, 1 yes, 2 not said; seen likewise)."""
    if answer["liked"] == 0:
        return "reject"
    if answer["liked"] == 1:
        return "accept" if answer["seen"] == 0 else "liked"
    return "unsure"


def _plain(text: str, titles: Mapping[str, str]) -> str:
    return _MENTION.sub(lambda match: titles.get(match[1], "a movie"), text)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
            yield from enumerate(stream, start=1)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}; fetch the file again") from error
