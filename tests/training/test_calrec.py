"""What CALRec reads: prompts, targets, truncation, domains; and the settings of its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.interactions import Interactions
from llmrec.data.splits import leave_one_out, repeats
from llmrec.errors import ConfigError, DataError
from llmrec.lm.codec import TokenCodec
from llmrec.lm.hardware import choose
from llmrec.lm.pretrained import load_pretrained
from llmrec.retrieval.calrec import CalrecConfig, CalrecRecommender, history_prompt
from llmrec.retrieval.repeat import RepeatRecommender
from llmrec.training.calrec.data import (
    CalrecCollator,
    Domain,
    Form,
    domain_shares,
    make_row,
    sampled_targets,
    training_rows,
    validation_rows,
)
from llmrec.training.calrec.recipe import CalrecRecipe, without_folders
from llmrec.training.calrec.stages import check_prompts
from llmrec.training.listener import Listener
from llmrec.training.pretrain import NanoRecipe, _parts, cache_key, train_nano
from llmrec.training.recipe import find_recipe, load_recipe
from tests.training.conftest import MINI
from tests.training.tiny import PAD


@pytest.fixture(scope="module")
def codec(mini_folder: Path) -> TokenCodec:
    base = load_pretrained(str(mini_folder), choose(dtype="float32"))
    return TokenCodec(base.model, base.tokenizer, n_vocabulary=base.model.config.vocab_size, name=base.name)


@pytest.fixture(scope="module")
def form(codec: TokenCodec) -> Form:
    return Form(codec, history_items=5, max_tokens=512)


@pytest.fixture(scope="module")
def domain(films: Dataset) -> Domain:
    return Domain.of(films)


def _toys(n_users: int, *, events: int = 5, repeated: bool = False) -> Dataset:
    items = Catalogue.from_columns({"item_id": [f"t{i}" for i in range(30)], "title": [f"Toy {i}" for i in range(30)]})
    users = np.repeat(np.arange(n_users), events)
    rows = np.tile(np.arange(events), n_users) + users % 20
    if repeated:
        rows = np.repeat(rows, 2)
        users = np.repeat(users, 2)
    names = [f"u{user}" for user in range(n_users)]
    interactions = Interactions.from_arrays(users, rows, None, user_ids=names, n_items=30)
    return Dataset(name="toys", spec="table:toys", catalogue=items, interactions=interactions)


# ---- rows


async def test_training_prefix_is_the_inference_prompt_byte_for_byte(domain: Domain, form: Form) -> None:
    """Also in tokens, for training and for validation rows."""
    listener = Listener()
    recommender = CalrecRecommender(listener, config=CalrecConfig(history_items=form.history_items))
    recommender.index_catalogue(domain.dataset.catalogue)
    for user, target in sampled_targets(domain, 20, seed=0, key="test"):
        history = domain.split.history(user, "validation")
        row = make_row(domain, history, target, form)
        assert row is not None
        await recommender.complete(history)
        asked = listener.prompts[-1]
        text = form.codec.decode(row.input_ids)
        assert text[: len(asked)].encode() == asked.encode()
        assert text[len(asked) :] == domain.flat[target] + form.codec.tokenizer.eos_token
        assert tuple(row.input_ids[: row.n_prompt]) == form.codec.prompt(asked)


def test_the_check_of_prompts_compares_some(domain: Domain, form: Form) -> None:
    assert check_prompts([domain], form, seed=0)["prompts"] == 4


def test_the_item_tower_reads_the_flat_target_alone(domain: Domain, form: Form) -> None:
    target = int(domain.split.validation[0])
    row = make_row(domain, domain.split.history(int(domain.split.users[0]), "validation"), target, form)
    assert row is not None
    batch = CalrecCollator(PAD)([row])
    assert form.codec.decode(batch["tower_ids"][0].tolist()) == domain.flat[target]
    assert bool(batch["tower_mask"].all())


def test_whole_oldest_items_are_dropped_until_a_row_fits(domain: Domain, codec: TokenCodec) -> None:
    """A limit between the lengths with two and with three items of history leaves two; one below all leaves nothing."""
    user = int(domain.split.users[0])
    history, target = domain.split.history(user, "validation")[-6:], int(domain.split.validation[0])
    lengths = []
    for n in (2, 3):
        row = make_row(domain, history[-n:], target, Form(codec, 5, 4096))
        assert row is not None
        lengths.append(len(row.input_ids))
    cut = make_row(domain, history, target, Form(codec, 5, lengths[1] - 1))
    assert cut is not None
    assert len(cut.input_ids) == lengths[0]
    assert cut.n_items == 2
    text = codec.decode(cut.input_ids[: cut.n_prompt])
    assert text == history_prompt([domain.flat[int(item)] for item in history[-2:]])
    assert make_row(domain, history, target, Form(codec, 5, 8)) is None
    longest = make_row(domain, history, target, Form(codec, 5, 4096))
    assert longest is not None
    assert longest.n_items == 5


def test_held_out_items_are_no_targets_and_no_history_of_training(domain: Domain, form: Form) -> None:
    """Exhaustively: with validation and test items replaced by others, training rows are the same."""
    source = domain.dataset.interactions
    ends = source.offsets[1:][source.lengths() >= 3]
    items = source.items.copy()
    held = np.concatenate([ends - 1, ends - 2])
    while True:  # an item that equals its neighbour would be dropped, and the split would move
        items[held] = (items[held] + 1 + np.arange(len(held)) % 7) % source.n_items
        changed = Interactions(
            offsets=source.offsets,
            items=items,
            timestamps=source.event_times,
            ratings=source.event_ratings,
            user_ids=source.user_ids,
            n_items=source.n_items,
        )
        held = np.flatnonzero(repeats(changed))
        if len(held) == 0:
            break
    other = Domain.of(Dataset(domain.dataset.name, "films", domain.dataset.catalogue, changed))
    assert np.mean(domain.split.test == other.split.test) < 0.01
    drawn = [training_rows([one], 60, form, exponent=0.3, targets="any", seed=1).rows for one in (domain, other)]
    assert drawn[0] == drawn[1]


def test_repeats_in_a_row_are_dropped_so_that_the_last_item_never_comes_again() -> None:
    """Then repeating the last item has a Recall@1 of zero by item."""
    domain = Domain.of(_toys(10, repeated=True))
    assert not repeats(domain.split.source).any()
    assert repeats(_toys(10, repeated=True).interactions).any()
    users, targets = domain.split.targets("test")
    newest = [int(domain.split.history(int(user), "test")[-1]) for user in users]
    assert not np.any(np.array(newest) == targets)


def test_draws_belong_to_the_seed_and_every_user_comes_once_first(domain: Domain, form: Form) -> None:
    def draw(seed: int, targets: Any = "any") -> list[Any]:
        return training_rows([domain], 40, form, exponent=0.3, targets=targets, seed=seed).rows

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    toys = Domain.of(_toys(12, events=6))
    last = training_rows([toys], 12, form, exponent=0.3, targets="last", seed=0).rows
    expected = {toys.flat[int(toys.split.train.history(user)[-1])] for user in range(12)}
    assert {form.codec.decode(row.target_ids) for row in last} == expected
    assert all(row.n_items == 3 for row in last)


def test_validation_rows_ask_for_validation_targets(domain: Domain, form: Form) -> None:
    found = validation_rows([domain, Domain.of(_toys(9))], 10, form, seed=0)
    assert len(found.rows) == 10
    texts = {form.codec.decode(row.target_ids) for row in found.rows}
    assert sum(text.startswith("Title: Toy ") for text in texts) >= 1
    wanted = {domain.flat[target] for _, target in sampled_targets(domain, 5, seed=0, key="loss 0")}
    assert wanted <= texts


def test_rows_that_fit_nowhere_are_counted_or_refused(domain: Domain, codec: TokenCodec) -> None:
    fitting = training_rows([domain], 30, Form(codec, 5, 60), exponent=0.3, targets="any", seed=0)
    assert len(fitting.rows) + fitting.n_longer == 30
    assert fitting.n_shortened > 0
    assert max(len(row.input_ids) for row in fitting.rows) <= 60
    with pytest.raises(DataError, match="max_tokens=8"):
        training_rows([domain], 5, Form(codec, 5, 8), exponent=0.3, targets="any", seed=0)


# ---- domains


def test_golden_domain_shares() -> None:
    """1000 users and 1 user: 1000 ** .3 = 7.943, so 7.94 to 1; exponent 0 is even, 1 by size."""
    shares = domain_shares([1000, 1], exponent=0.3)
    assert shares[0] / shares[1] == pytest.approx(7.943, abs=1e-3)
    assert shares.sum() == pytest.approx(1)
    assert domain_shares([1000, 1], exponent=0).tolist() == [0.5, 0.5]
    assert domain_shares([3, 1], exponent=1).tolist() == [0.75, 0.25]


def test_domains_are_drawn_by_their_shares(form: Form) -> None:
    """1000 users against 10: 100 ** .3 = 3.98 to 1, so .799 of the rows; a standard error is .013 for 1000 rows."""
    large, small = Domain.of(_toys(1000)), Domain.of(_toys(10, events=6))
    rows = training_rows([large, small], 1000, form, exponent=0.3, targets="last", seed=0).rows
    share = np.mean([row.n_items == 2 for row in rows])
    assert share == pytest.approx(0.799, abs=0.04)


def test_a_domain_without_users_is_refused() -> None:
    with pytest.raises(DataError, match="two training events"):
        domain_shares([5, 0], exponent=0.3)


# ---- collator


def test_golden_where_history_and_target_stand() -> None:
    """Two rows by hand, padded on the left and on the right."""
    from tests.training.tiny import END, row

    given = [row([10, 11], [20], key=7), row([12], [21, 22, 23], key=8)]
    left, right = (CalrecCollator(PAD, side=side)(given) for side in ("left", "right"))
    assert left["input_ids"].tolist() == [[0, 10, 11, 20, END], [12, 21, 22, 23, END]]
    assert right["input_ids"].tolist() == [[10, 11, 20, END, 0], [12, 21, 22, 23, END]]
    assert left["labels"].tolist() == [[-100, -100, -100, 20, END], [-100, 21, 22, 23, END]]
    assert left["attention_mask"].tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert left["history_mask"].int().tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert left["target_mask"].int().tolist() == [[0, 0, 0, 1, 0], [0, 1, 1, 1, 0]]
    assert right["target_mask"].int().tolist() == [[0, 0, 1, 0, 0], [0, 1, 1, 1, 0]]
    assert left["tower_ids"].tolist() == [[0, 0, 20], [21, 22, 23]]
    assert left["target_keys"].tolist() == [7, 8]


def test_equal_target_texts_have_equal_keys(domain: Domain, form: Form) -> None:
    rows = training_rows([domain], 60, form, exponent=0.3, targets="any", seed=0).rows
    pairs = {(form.codec.decode(row.target_ids), row.key) for row in rows}
    assert len({text for text, _ in pairs}) == len(pairs) == len({key for _, key in pairs})


# ---- recipe


def test_the_shipped_recipe() -> None:
    recipe = load_recipe(find_recipe(Path("calrec")))
    assert isinstance(recipe, CalrecRecipe)
    assert recipe.role == "recommender"
    assert (recipe.objective.alpha, recipe.objective.beta, recipe.objective.temperature) == (0.125, 0.025, 0.5)
    assert (recipe.objective.axis, recipe.exponent) == ("users", 0.3)
    assert recipe.stage_names == ("II",)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("objective.beta=-0.025", "greater than or equal to 0"),
        ("objective={alpha: 0.9, beta: 0.2}", "leave the next-item loss a share"),
        ("stages=both", "stage I needs domains"),
        ("tuning=domain", "stands on a shared one"),
        ("gradient_accumulation=2", "set micro_batch"),
        ("micro_batch=64", "at most batch_size"),
        ("batch_size=1", "other rows are the negatives"),
        ("batch_size=0", "greater than"),
        ("objective.temperature=0", "greater than 0"),
    ],
)
def test_settings_that_cannot_be_are_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_recipe(find_recipe(Path("calrec")), [override])


def test_full_tuning_names_what_it_cannot() -> None:
    for extra, said in (("start=DIR", "leave start out"), ("quantise=4bit", "four bits")):
        with pytest.raises(ConfigError, match=said):
            load_recipe(find_recipe(Path("calrec")), ["tuning=full", extra])
    with pytest.raises(ConfigError, match="without alpha and beta"):
        load_recipe(find_recipe(Path("calrec")), ["objective={alpha: 0, beta: 0}", "micro_batch=4"])


def test_stages_and_their_data() -> None:
    overrides = ["stages=both", "domains=[films, 'amazon:a/b']", "stage_one_examples=7", "start=/x/stage-I"]
    recipe = load_recipe(find_recipe(Path("calrec")), overrides)
    assert isinstance(recipe, CalrecRecipe)
    assert recipe.stage_names == ("I", "II")
    assert recipe.specs("I") == ("films", "amazon:a/b")
    assert recipe.specs("II") == ("films",)
    assert (recipe.n_examples("I"), recipe.n_examples("II")) == (7, 4000)
    named = without_folders(recipe)
    assert named.domains == ("films", "amazon:b")
    assert named.start == "stage-I"


# ---- repetition as a baseline


async def test_golden_repeated_items_come_newest_first_then_the_filling() -> None:
    """History 3, 5, 3, 4: newest first without doubles is 4, 3, 5."""
    toys = _toys(20)
    split = Domain.of(toys).split
    history = [np.array([3, 5, 3, 4])]
    orders = {}
    for form in ("last", "history", "filled"):
        recommender = RepeatRecommender(form=form)
        recommender.fit(toys, split)
        scores = (await recommender.score(history))[0]
        orders[form] = [int(item) for item in np.argsort(-scores, kind="stable")[: int(np.isfinite(scores).sum())]]
    assert orders["last"] == [4]
    assert orders["history"] == [4, 3, 5]
    assert orders["filled"][:3] == [4, 3, 5]
    assert len(orders["filled"]) == 30


# ---- a backbone over several data sets


def test_one_data_set_is_pretrained_on_as_before_and_others_join_by_their_share(films: Dataset) -> None:
    """Draws of the first are named as without others; shares are by users ** .3 and sum to 1."""
    recipe = NanoRecipe(mix={"facts": 0.4, "sequences": 0.6})
    toys = _toys(40)
    sources = [(one, leave_one_out(one.interactions)) for one in (films, toys)]
    alone, both = _parts(sources[:1], recipe), _parts(sources, recipe)
    assert [(part.key, part.share) for part in alone] == [("facts", 0.4), ("sequences", 0.6)]
    assert [part.key for part in both] == ["facts", "sequences", "facts 1", "sequences 1"]
    assert sum(part.share for part in both) == pytest.approx(1)
    ratio = (films.interactions.n_users / 40) ** 0.3
    assert both[0].share / both[2].share == pytest.approx(ratio)
    keys = {cache_key(*sources[0], recipe, seed=0, others=others) for others in ((), sources[1:], sources[:1])}
    assert len(keys) == 3


def test_a_backbone_over_two_data_sets_knows_the_texts_of_both(films: Dataset, tmp_path: Path) -> None:
    toys = _toys(40)
    sources = [(one, leave_one_out(one.interactions)) for one in (films, toys)]
    recipe = MINI.model_copy(update={"mix": {"facts": 0.4, "sequences": 0.6}, "tokens": 8_000})
    trained = train_nano(*sources[0], recipe, seed=0, others=sources[1:], cache=tmp_path)
    assert trained.report["dataset"] == "films + toys"
    assert set(trained.report["tokens_per_kind"]) == {"facts", "sequences", "facts 1", "sequences 1"}
    base = load_pretrained(str(trained.path), choose(dtype="float32"))
    text = toys.catalogue.flat(3)
    assert base.tokenizer.decode(base.tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert train_nano(*sources[0], recipe, seed=0, others=sources[1:], cache=tmp_path).cached
