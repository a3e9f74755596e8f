"""Which tokens carry loss in the two templates of tool calling (DualTune, arXiv 2510.00229)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmrec.errors import DataError
from llmrec.training.examples import IGNORED, Encoded, encode
from llmrec.training.tools.masks import (
    argument_adapters,
    argument_example,
    call_counts,
    selection_example,
    with_loss,
)
from llmrec.training.tools.trajectories import Conversation, Step

SEARCH, RANK = '{"where": ["genres=Comedy", "year=..1989"]}', '{"by": "match"}'
OPEN = "### Act\nHistory: no\nCall:\n"
AFTER = "Result: 31 candidates\nCall:\n"
THREE: Conversation = (
    Step("search", SEARCH, OPEN, OPEN),
    Step("rank", RANK, f"{OPEN}search\n{SEARCH}\n{AFTER}", f"{OPEN}search\n{AFTER}"),
    Step(
        "answer",
        "",
        f"{OPEN}search\n{SEARCH}\n{AFTER}rank\n{RANK}\n{AFTER}",
        f"{OPEN}search\n{AFTER}rank\n{AFTER}",
    ),
)
"""A conversation of three assistant turns: search, rank, answer."""


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    """One token for each word between blanks, so that tokens can be counted by eye."""
    every = dict.fromkeys(" ".join([step.before for step in THREE] + ["answer"]).split())
    vocabulary = {word: number for number, word in enumerate(["<end>", *every])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


def _learnt(encoded: Encoded, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [
        tokenizer.convert_ids_to_tokens(token)
        for token, label in zip(encoded.input_ids, encoded.labels, strict=True)
        if label != IGNORED
    ]


def test_the_choice_learns_three_names_golden(words: PreTrainedTokenizerFast) -> None:
    """Five words open; search; "Result: 31 candidates Call:" is four; rank; four; answer: 16 tokens, three learnt."""
    encoded = encode(selection_example(THREE), words, end=False)
    assert len(encoded.input_ids) == 5 + 1 + 4 + 1 + 4 + 1
    assert _learnt(encoded, words) == ["search", "rank", "answer"]


def test_all_arguments_learn_whole_calls_golden(words: PreTrainedTokenizerFast) -> None:
    """search with its three words, rank with its two: seven of 21 tokens; the joint adapter learns `answer` too."""
    both = encode(argument_example(THREE, ("search", "rank")), words, end=False)
    assert len(both.input_ids) == 5 + (1 + 3) + 4 + (1 + 2) + 4 + 1
    assert _learnt(both, words) == ["search", *SEARCH.split(), "rank", *RANK.split()]
    joint = encode(argument_example(THREE, None), words, end=False)
    assert joint.input_ids == both.input_ids
    assert len(_learnt(joint, words)) == 4 + 3 + 1


def test_one_tools_arguments_leave_the_other_calls_alone_golden(words: PreTrainedTokenizerFast) -> None:
    encoded = encode(argument_example(THREE, ("rank",)), words, end=False)
    assert _learnt(encoded, words) == ["rank", *RANK.split()]
    assert with_loss([argument_example(THREE, ("similar",))]) == []


def test_what_follows_the_last_loss_is_cut(words: PreTrainedTokenizerFast) -> None:
    (cut,) = with_loss([argument_example(THREE, ("search",))])
    assert len(encode(cut, words, end=False).input_ids) == 5 + 4
    assert _learnt(encode(cut, words, end=False), words) == ["search", *SEARCH.split()]


def test_with_a_real_tokenizer_exactly_the_names_are_learnt(mini_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    encoded = encode(selection_example(THREE), tokenizer, end=False)
    learnt = [label for label in encoded.labels if label != IGNORED]
    assert tokenizer.decode(learnt) == "searchrankanswer"
    whole = "".join(segment.text for segment in selection_example(THREE))
    assert tokenizer.decode(encoded.input_ids) == whole == THREE[-1].before_names + "answer\n"


def test_a_conversation_that_does_not_go_on_is_refused() -> None:
    torn = (THREE[0], THREE[2]._replace(before="### Act\nHistory: yes\n", before_names="### Act\nHistory: yes\n"))
    with pytest.raises(DataError, match="beginning of the next prompt"):
        selection_example(torn)


def test_rare_tools_get_no_adapter_of_their_own() -> None:
    counts = Counter({"search": 300, "rank": 200, "popular": 3, "filter": 1})
    assert argument_adapters(counts, per_tool=True, minimum=200) == {
        "tool_rank": ("rank",),
        "tool_search": ("search",),
        "tool_args": ("filter", "popular"),
    }
    assert argument_adapters(counts, per_tool=False, minimum=200) == {
        "tool_args": ("filter", "popular", "rank", "search")
    }
    assert call_counts([THREE, THREE]) == {"search": 2, "rank": 2}
