"""Whether the words of a message refuse a condition ("no X", "without X") or ask for it ("I would like some X").

Small models often take "no horror" for horror, and "some horror" for a refusal. What stands right before a condition
leaves no doubt in the common cases, so there the words overrule the model: what is refused so is never shown, and what
is asked for so is not left out, whatever the model made of it. Only sure cases count: between those words and the
condition may stand nothing but words that connect, and whoever asks says nothing negative in the same clause.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from llmrec.roles.matching import Found
from llmrec.roles.request import Request
from llmrec.tools.wishes import Wish

_NOT_DO = r"(?:do not|don['’]?t|did not|didn['’]?t|would not|wouldn['’]?t|never|not)(?: really| much)?"
_REFUSING = "|".join(
    [
        r"(?:please )?no(?: more| further)?",
        r"not(?: so much| too much| another| again)?",
        r"without",
        r"nothing(?: with| by| from| about| like| in| starring| that is| that has)?",
        r"(?:any|every)thing (?:but|except)",
        rf"{_NOT_DO} (?:want|like|care for|fancy|need|feel like|enjoy|love)(?: to (?:see|watch|have))?",
        r"(?:can['’]?t|cannot|can not|couldn['’]?t) (?:stand|bear|take)",
        r"not in the mood for",
        r"(?:i )?(?:hate|dislike|loathe|despise|detest)",
        r"(?:tired|sick|bored) (?:of|with|by)|fed up with|enough(?: of)?|(?:had|seen) enough(?: of)?",
        r"less|fewer|avoid(?:ing)?|except(?: for)?|excluding|instead of|rather than|minus|leav(?:e|ing) out|spare me",
        r"skip|omit(?:ting)?|drop|zero|be spared|out if there(?: is|['’]?s)|not (?:fond of|keen on|into)",
        r"(?:stay|keep) away from|anything (?:other|else) than|other than|not a fan of|no fan of",
    ]
)
_WANTING = re.compile(
    r"(?:\b(?:(?:nothing|anything) (?:but|except|other than|like)|not (?:only|just|necessarily)|no(?:t a)? problem with"
    r"|why not|not mind)|n['’]?t mind)[^.,;!?]*$",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"(?:\b(?:not|never|nothing|neither|no (?:need|reason|point) to)|n['’]t|\bcannot)"
    r"(?: (?!(?:but|and|or)\b)[\w'’]+){0,2} ?$",
    re.IGNORECASE,
)
"""Before refusing words it turns them round: "I can't get enough of", "don't avoid"."""
_INSTEAD = re.compile(r"\b(?:instead of|rather than)\b", re.IGNORECASE)
_CONNECTING = r"(?:a|an|any|the|all|more|of|too|much|that|those|these|kind|sort|stuff|with|by|from|about|in|starring)"
_REFUSED = re.compile(rf"(?:^|[^\w'’])(?:{_REFUSING})(?:\s+{_CONNECTING})*\s+$", re.IGNORECASE)
_AWAY = re.compile(r"\s*(?:films?|movies?|ones?|items?|products?)?\s*(?:away|out)\b", re.IGNORECASE)
_LISTED = re.compile(r"^\s*(?:films?|movies?|ones?|items?|products?)?\s*,?\s*(?P<word>or|nor|and|,)\s+$", re.IGNORECASE)
_TO_SEE = r"(?: to (?:see|watch|have|try|get|find|buy))?"
_ASKING = "|".join(
    [
        rf"(?:want|need|wish for|prefer|fancy|crave|craving){_TO_SEE}",
        rf"(?:would|['’]d) (?:like|love|prefer|enjoy){_TO_SEE}",
        r"(?:looking|asking|hoping|searching) for|in the mood for|feel(?:ing)? like|up for",
        r"(?:show|give|get|find|recommend|suggest|bring)(?: me| us)?",
        r"how about|what about|more|please|let(?:['’]s| us) (?:see|try|watch|have)",
    ]
)
_SOME = rf"(?:{_CONNECTING}|some|something|anything|good|nice|great|bit|little|few|lot|really|other|another|new)"
_ASKED = re.compile(rf"(?:^|[^\w'’]|(?=['’]d))(?:{_ASKING})(?:\s+{_SOME})*\s+$", re.IGNORECASE)
_SOME_ALONE = re.compile(r"^\s*(?:(?:please|maybe|then|now|and|ok|okay),?\s+)*some\s+$", re.IGNORECASE)
_GOOD = re.compile(
    r"\s*(?:films?|movies?|ones?|items?|products?)?\s*"
    r"(?:$|(?:please|instead|again|tonight|now|today|then|(?:would|might|could) (?:help|do|be|suit))\b)",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(
    r"\b(?:no|non|not|never|nothing|none|nor|neither|without|except|excluding|than|less|fewer|enough|tired|bored|sick|fed"
    r"|hate|dislike|loathe|despise|detest|avoid\w*|skip|omit\w*|drop|minus|spare|stop|away|out|off|zero|hardly|barely|too"
    r"|cannot|cant|dont|wont|already|seen|instead of|over|ban\w*|exclude|remove|used to)\b|n['’]t\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[.,;:!?()]|\bbut\b|\bthough\b", re.IGNORECASE)
_AND = re.compile(
    r"^\s*(?:films?|movies?|ones?|items?|products?)?\s*(?:and|or)(?:\s+(?:a|an|some|more|maybe))*\s+$", re.I
)


def asked(message: str, found: Sequence[Found]) -> tuple[Found, ...]:
    """The attribute values that the words of the message ask for, for sure, in order of appearance.

    A clause that holds anything negative is never sure; a list behind asking words ("some crime or war") is one wish.
    """
    values = [one for one in found if one.wish is not None and one.wish.value is not None]
    sure: set[tuple[int, int]] = set()
    last: tuple[int, int] | None = None
    for start, end in sorted({(one.start, one.end) for one in values}):
        head, tail = _clause(message, start, end)
        listed = last is not None and _AND.match(message[last[1] : start]) is not None
        asking = _ASKED.search(head) or (_SOME_ALONE.match(head) and _GOOD.match(tail))
        last = None
        if (listed or asking) and not _NEGATIVE.search(head) and not _NEGATIVE.search(tail):
            sure.add((start, end))
            last = (start, end)
    return tuple(one for one in values if (one.start, one.end) in sure)


def _clause(message: str, start: int, end: int) -> tuple[str, str]:
    """What stands before and behind a span in its clause."""
    borders = [hit.span() for hit in _CLAUSE.finditer(message)]
    first = max((close for _, close in borders if close <= start), default=0)
    last = min((opened for opened, _ in borders if opened >= end), default=len(message))
    return message[first:start], message[end:last]


def refused(message: str, found: Sequence[Found]) -> tuple[Found, ...]:
    """The attribute values that the words of the message refuse for sure, in order of appearance.

    A list after refusing words is refused as a whole: "no horror or war", "no horror, war or crime".
    """
    values = [one for one in found if one.wish is not None and one.wish.value is not None]
    spans = sorted({(one.start, one.end) for one in values})
    sure: set[tuple[int, int]] = set()
    for place, span in enumerate(spans):
        before = message[: span[0]]
        kept_away = re.search(r"\bkeep(?: the| any)?\s+$", before) and _AWAY.match(message[span[1] :])
        if (_refuses(before) or kept_away) and not _wants(before):
            alone = _INSTEAD.search(before) is not None  # "rather than drama, comedy": what follows is wanted
            sure.update(spans[place : place + 1] if alone else _list_from(message, spans[place:]))
    return tuple(one for one in values if (one.start, one.end) in sure)


def _refuses(before: str) -> bool:
    """Whether the text ends in refusing words that nothing turns round."""
    hit = _REFUSED.search(before)
    if hit is None:
        return False
    start = hit.start() if before[hit.start()].isalpha() else hit.start() + 1
    return _DENIED.search(before[:start].rstrip()) is None


def _wants(before: str) -> bool:
    """Whether words like "nothing but" make the refusing words a wish; "anything but" is a refusal."""
    hit = _WANTING.search(before)
    if hit is None:
        return False
    words = hit[0].lower()
    denied = _DENIED.search(before[: hit.start()].rstrip()) is not None
    return denied if words.startswith("anything") else True


def _list_from(message: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The first span, and those that are listed with it.

    Commas list only where "or" or "nor" ends the list: in "no horror, comedy and romance" the rest is wanted.
    """
    listed = [spans[0]]
    waiting: list[tuple[int, int]] = []
    for span in spans[1:]:
        last = waiting[-1] if waiting else listed[-1]
        match = _LISTED.match(message[last[1] : span[0]])
        if match is None:
            break
        word = match["word"].lower()
        if word == "and" and (waiting or "," in match[0]):
            break
        waiting.append(span)
        if word != ",":
            listed += waiting
            waiting = []
    return listed


def without_refused(message: str, found: Sequence[Found]) -> str:
    """The message without the clauses that refuse something; "" when nothing else is left."""
    spans = [(one.start, one.end) for one in refused(message, found)]
    kept, place = [], 0
    for clause in re.split(r"(?<=[,.;!?])\s+|\s+(?=but\b)", message):
        start = message.index(clause, place)
        place = start + len(clause)
        if not any(start <= span[0] < place for span in spans):
            kept.append(clause)
    return " ".join(kept).strip(" ,;")


class Correction(NamedTuple):
    """A reading that the words of the message overruled."""

    wish: Wish
    meant: Literal["refused", "wanted"]

    def text(self) -> str:
        """For notes and logs."""
        return f"{self.wish.text()} read as {self.meant}"


def corrected(request: Request, message: str, found: Sequence[Found]) -> tuple[Request, tuple[Correction, ...]]:
    """The request with everything avoided that the message refuses, and nothing avoided that it asks for.

    Words with several meanings are refused in the meanings that the model took for wanted, and in the most frequent
    one where it took none. What is asked for and was left aside stays aside: it may be no condition at all.

    Returns:
        The request, and what the words overruled; the request itself where there is nothing.
    """
    wrong: list[Wish] = []
    sure = refused(message, found)
    for wishes in _by_span(sure):
        wanted = [wish for wish in wishes if wish in request.want]
        if not wanted and not any(wish in request.avoid for wish in wishes):
            wanted = wishes[:1]
        wrong += wanted
    places = {(one.start, one.end) for one in sure}
    asking = [one for one in asked(message, found) if (one.start, one.end) not in places]
    turned = [wish for wishes in _by_span(asking) for wish in wishes if wish in request.avoid]
    if not wrong and not turned:
        return request, ()
    want = tuple(dict.fromkeys(wish for wish in (*request.want, *turned) if wish not in wrong))
    avoid = tuple(dict.fromkeys(wish for wish in (*request.avoid, *wrong) if wish not in turned))
    turn = "new" if request.turn in ("open", "chat") else request.turn
    told = (*(Correction(wish, "refused") for wish in wrong), *(Correction(wish, "wanted") for wish in turned))
    return request.model_copy(update={"want": want, "avoid": avoid, "turn": turn}), told


def _by_span(found: Sequence[Found]) -> list[list[Wish]]:
    """The meanings of each place of the message."""
    by_span: dict[tuple[int, int], list[Wish]] = {}
    for one in found:
        assert one.wish is not None
        by_span.setdefault((one.start, one.end), []).append(one.wish)
    return list(by_span.values())
