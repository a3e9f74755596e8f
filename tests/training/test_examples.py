"""What carries loss, and that training and inference see the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split
from llmrec.retrieval.calrec import flat_items, history_prompt
from llmrec.roles.user import decision_examples
from llmrec.seeding import rng
from llmrec.training.corpus import BUILDERS, Material, _learnt_inside, build
from llmrec.training.examples import IGNORED, Segment, completion_example, encode, fits, plain_text, supervised_tokens


@pytest.fixture(scope="session")
def tokenizer(mini_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(mini_folder)


def test_only_the_completion_and_the_end_carry_loss(tokenizer: Any) -> None:
    one = encode(completion_example("Next:\n", "Title: Alien (1979)"), tokenizer)
    learnt = [label for label in one.labels if label != IGNORED]
    assert tokenizer.decode(learnt) == "Title: Alien (1979)<|im_end|>"
    assert [i for i, label in zip(one.input_ids, one.labels, strict=True) if label != IGNORED] == learnt


def test_a_begin_token_is_read_as_the_engine_reads_it_and_not_learnt(mini_folder: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    with_begin = AutoTokenizer.from_pretrained(mini_folder)
    begin = with_begin.pad_token_id
    with_begin.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", int(begin))]
    )
    example = completion_example("Next:\n", "Title: Alien (1979)")
    one, plain = encode(example, with_begin), encode(example, AutoTokenizer.from_pretrained(mini_folder))
    assert one.input_ids == [begin, *plain.input_ids]
    assert one.labels == [IGNORED, *plain.labels]
    written = encode((Segment(with_begin.decode([begin]), False), *example), with_begin)
    assert written == one  # by a chat template: not twice


def test_a_last_segment_without_loss_ends_without_loss(tokenizer: Any) -> None:
    one = encode((Segment("a", True), Segment("b", False)), tokenizer)
    assert one.labels[-1] == IGNORED
    assert one.labels[0] != IGNORED


def test_learn_all_supervises_every_token(tokenizer: Any) -> None:
    one = encode(completion_example("a b c", " d"), tokenizer, learn_all=True)
    assert one.labels == one.input_ids
    assert supervised_tokens([one]) == len(one.input_ids)


def test_long_examples_are_counted_not_cut(tokenizer: Any) -> None:
    short, long = encode(completion_example("a", "b"), tokenizer), encode(completion_example("a " * 50, "b"), tokenizer)
    kept, longer = fits([short, long], max_tokens=20)
    assert kept == [short]
    assert longer == 1


def test_golden_prompt_text() -> None:
    assert history_prompt(["Title: A. Category: X", "Title: B. Category: Y"]) == (
        "One user's items, oldest first. First: Title: A. Category: X\nNext: Title: B. Category: Y\nNext:\n"
    )


def test_prompt_parity_of_training_and_inference(films: Dataset, films_split: Split, tokenizer: Any) -> None:
    """The training prefix up to the target is the inference prompt, in bytes and in tokens."""
    for example in build("next_items", Material(films, films_split, 15), rng(0, "parity"))[:200]:
        prompt = example[0].text
        items = (
            prompt.removeprefix("One user's items, oldest first. First: ").removesuffix("\nNext:\n").split("\nNext: ")
        )
        assert history_prompt(items) == prompt
        trained = encode(example, tokenizer)
        served = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert trained.input_ids[: len(served)] == served
        assert all(label == IGNORED for label in trained.labels[: len(served)])


def test_histories_are_a_prompt_and_its_target_with_every_item_but_the_first_learnt(
    films: Dataset, films_split: Split, tokenizer: Any
) -> None:
    for example in build("histories", Material(films, films_split, 6), rng(0, "histories"))[:200]:
        text, learnt = plain_text(example), [segment.text for segment in example if segment.learn]
        first, *items = (
            text.removeprefix("One user's items, oldest first. First: ").replace("Next:\n", "Next: ").split("\nNext: ")
        )
        assert learnt == [*(item.removeprefix("Title:") for item in items[:-1]), items[-1]]
        assert history_prompt([first, *items[:-1]]) + items[-1] == text
        assert encode(example, tokenizer).input_ids[:-1] == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_histories_learn_the_item_that_is_meant() -> None:
    """A repeated item, and one whose text begins as the one before it."""
    for items in (["Title: Soap", "Title: Soap", "Title: Brush"], ["Title: Soap Bar", "Title: Soap", "Title: Brush"]):
        segments = [*_learnt_inside(history_prompt(items), items)]
        assert "".join(segment.text for segment in segments) == history_prompt(items)
        assert [segment.text for segment in segments if segment.learn] == [" Soap", " Brush"]
        assert segments[0].text.endswith(f"First: {items[0]}\nNext: Title:")


def test_decision_prompts_are_prefixes_in_tokens(films: Dataset, films_split: Split, tokenizer: Any) -> None:
    for document in decision_examples(films, films_split, rng(0, "decisions"), 50):
        example = tuple(Segment(text, learn) for text, learn in document)
        trained = encode(example, tokenizer)
        first = next(place for place, label in enumerate(trained.labels) if label != IGNORED)
        served = tokenizer(document[0][0], add_special_tokens=False)["input_ids"]
        assert trained.input_ids[:first] == served
        whole = tokenizer(plain_text(example), add_special_tokens=False)["input_ids"]
        assert trained.input_ids[:-1] == whole


@pytest.mark.parametrize("kind", ["sequences", "next_items", "histories", "profiles"])
def test_no_training_text_reads_a_held_out_event(kind: str, marked: tuple[Dataset, Split]) -> None:
    """Held-out items of the marked data have titles that occur nowhere else."""
    texts = [plain_text(example) for example in build(kind, Material(*marked, 15), rng(0, kind))]
    assert texts
    assert not [text for text in texts if "Heldout" in text]


def test_held_out_items_are_at_most_skipped_by_chance(marked: tuple[Dataset, Split]) -> None:
    for example in build("decisions", Material(*marked, 15), rng(0, "decisions")):
        for line in plain_text(example).splitlines():
            if "Heldout" in line:
                assert line.startswith("Shown:")
                assert line.endswith(" skip")


def test_every_kind_builds_from_films(films: Dataset, films_split: Split) -> None:
    for kind in BUILDERS:
        examples = build(kind, Material(films, films_split, 15), rng(1, kind))
        assert len(examples) >= 100, kind
        assert all(any(segment.learn for segment in example) for example in examples[:200]), kind


@pytest.fixture(scope="session")
def marked() -> tuple[Dataset, Split]:
    from llmrec.data.catalogue import Catalogue
    from llmrec.data.interactions import Interactions
    from llmrec.data.splits import leave_one_out

    n_users, length = 40, 8
    titles = [f"Common {i}" for i in range(30)] + [f"Heldout {u}-{k}" for u in range(n_users) for k in range(2)]
    catalogue = Catalogue.from_columns(
        {
            "item_id": [str(i) for i in range(len(titles))],
            "title": titles,
            "genres": [["Drama"] if i % 2 else ["Comedy"] for i in range(len(titles))],
        },
        flat_fields=("genres",),
    )
    draw = np.random.default_rng(0)
    users, items = [], []
    for user in range(n_users):
        users += [user] * length
        items += [*draw.choice(30, size=length - 2, replace=False).tolist(), 30 + 2 * user, 31 + 2 * user]
    interactions = Interactions.from_arrays(
        np.array(users),
        np.array(items),
        np.tile(np.arange(length), n_users),
        ratings=np.full(len(users), 4.0, dtype=np.float32),
        user_ids=[str(user) for user in range(n_users)],
        n_items=len(titles),
    )
    dataset = Dataset("marked", "table:marked", catalogue, interactions, item_noun="film")
    return dataset, leave_one_out(interactions)


def test_flat_items_are_data(films: Dataset) -> None:
    assert all(
        "\n" not in text and "<|" not in text for text in flat_items(films.catalogue, range(len(films.catalogue)))
    )
