"""What every trainer here reads: text in segments, of which some carry loss.

One form serves all roles: a CALRec prompt and its target, a viewer's document in which only the decisions are learnt, a
request and its parsed form. Segments are tokenised one by one, so the ids before a supervised segment are the ids that
inference sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from llmrec.lm.codec import start_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token without loss (PyTorch's convention)."""


class Segment(NamedTuple):
    """A piece of text; `learn` says whether its tokens carry loss."""

    text: str
    learn: bool


Example = tuple[Segment, ...]


class Encoded(NamedTuple):
    """Token ids and labels, both of shape (length,)."""

    input_ids: list[int]
    labels: list[int]


def completion_example(prompt: str, completion: str) -> Example:
    """A prompt without loss, then a completion with loss."""
    return (Segment(prompt, False), Segment(completion, True))


def plain_text(example: Example) -> str:
    """The text of all segments."""
    return "".join(segment.text for segment in example)


def encode(
    example: Example, tokenizer: PreTrainedTokenizerBase, *, end: bool = True, learn_all: bool = False
) -> Encoded:
    """Token ids and labels of one example, behind the begin token that the engine reads too, where a model has one.

    Args:
        example: segments in order.
        tokenizer: the backbone's tokenizer.
        end: append the end-of-turn token; it carries loss when the last segment does.
        learn_all: every token carries loss (pre-training).
    """
    ids: list[int] = []
    labels: list[int] = []
    for segment in example:
        piece = list(tokenizer(segment.text, add_special_tokens=False)["input_ids"])
        ids += piece
        labels += piece if segment.learn or learn_all else [IGNORED] * len(piece)
    begin = list(start_tokens(tokenizer))
    if ids[: len(begin)] != begin:  # a chat template may have written it
        ids, labels = begin + ids, [IGNORED] * len(begin) + labels
    if end:
        eos = int(tokenizer.eos_token_id)
        ids.append(eos)
        labels.append(eos if learn_all or example[-1].learn else IGNORED)
    return Encoded(ids, labels)


def fits(encoded: Iterable[Encoded], *, max_tokens: int) -> tuple[list[Encoded], int]:
    """Examples of at most `max_tokens`, and how many were longer (reported, never cut silently)."""
    kept: list[Encoded] = []
    longer = 0
    for one in encoded:
        if len(one.input_ids) <= max_tokens:
            kept.append(one)
        else:
            longer += 1
    return kept, longer


def supervised_tokens(encoded: Sequence[Encoded]) -> int:
    """Number of tokens that carry loss."""
    return sum(label != IGNORED for one in encoded for label in one.labels)
