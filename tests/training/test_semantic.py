"""The task mix of a backbone with id tokens: what it holds, what it never reads, and the recipe that trains on it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec.assets import asset, load_file
from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split
from llmrec.errors import ConfigError, DataError, ModelError
from llmrec.lm.loading import load_backbone
from llmrec.retrieval.semantic_lm import SemanticLmConfig, SemanticLmRecommender
from llmrec.retrieval.semantic_prompts import history_prompt, item_prompt, title_prompt
from llmrec.seeding import rng
from llmrec.semid.codes import SemanticIds
from llmrec.semid.tokens import CUES, extend_backbone, token_numbers, trainable_rows
from llmrec.training.callbacks import Progress
from llmrec.training.examples import IGNORED, Encoded, encode, plain_text
from llmrec.training.packed_examples import pack_examples
from llmrec.training.semantic.queries import attribute_phrases, search_query
from llmrec.training.semantic.recipe import SemanticRecipe
from llmrec.training.semantic.start_rows import start_from_texts
from llmrec.training.semantic.tasks import BUILDERS, IdMaterial, build_data, stream, validation_examples

RECIPE = asset("finetune/semantic_ids.yaml")


def _recipe(**changes: Any) -> SemanticRecipe:
    values = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    return SemanticRecipe.model_validate({**values, "examples": 60, "validation_examples": 8, **changes})


@pytest.fixture(scope="session")
def ids(films: Dataset) -> SemanticIds:
    """Codes from the genres and the row."""
    catalogue = films.catalogue
    genres = list(catalogue.vocabulary("genres"))
    first = [genres.index(str((*catalogue.values(row, "genres"), genres[0])[0])) for row in range(len(catalogue))]
    prefixes = np.stack([np.array(first), np.arange(len(catalogue)) % 24], axis=1)
    return SemanticIds.from_prefixes(prefixes, (len(genres), 24), catalogue_hash=catalogue.content_hash)


@pytest.fixture(scope="session")
def material(films: Dataset, films_split: Split, ids: SemanticIds) -> IdMaterial:
    return IdMaterial(films, films_split, ids, history_items=6)


@pytest.fixture(scope="session")
def extended(mini_folder: Path, ids: SemanticIds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("extended") / "backbone"
    extend_backbone(mini_folder, out, ids)
    return out


def _learnt(example: Any) -> str:
    return "".join(segment.text for segment in example if segment.learn)


def test_histories_learn_every_id_from_those_before(material: IdMaterial) -> None:
    train = material.split.train
    row_of = {text: row for row, text in enumerate(material.id_texts)}
    seen = 0
    for example in BUILDERS["histories"](material, rng(0, "test")):
        text = plain_text(example)
        assert text == "<|history|>" + _learnt(example)
        rows = [row_of[text] for text in re.findall(r"(?:<\|[a-z]_\d+\|>){3}", text)]
        assert 1 <= len(rows) <= 7
        assert history_prompt([material.id_texts[row] for row in rows]) == text  # what inference reads
        seen += len(rows)
        if len(rows) == 7:
            assert any(_inside(rows, train.history(user).tolist()) for user in range(train.n_users))
            if seen > 200:
                break


def _inside(part: list[int], whole: list[int]) -> bool:
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1))


def test_titles_in_a_history_carry_no_loss(material: IdMaterial) -> None:
    example = BUILDERS["titled_histories"](material, rng(0, "test"))[0]
    assert re.fullmatch(r"(<\|[a-z]_\d+\|>)+", _learnt(example))
    catalogue = material.dataset.catalogue
    row = material.id_texts.index(re.findall(r"(?:<\|[a-z]_\d+\|>){3}", plain_text(example))[0])
    assert plain_text(example).startswith(f"<|history|>{material.id_texts[row]} {catalogue.display(row)}<|")


def test_text_and_id_name_the_same_item(material: IdMaterial) -> None:
    catalogue = material.dataset.catalogue
    for kind in ("item_ids", "item_titles", "searches"):
        examples = BUILDERS[kind](material, rng(0, "test"))
        assert len(examples) == len(catalogue)
        (prompt, _), (answer, learn) = examples[0]
        assert learn
        if kind == "item_ids":
            assert prompt == item_prompt(catalogue, material.id_texts.index(answer))
        elif kind == "item_titles":
            row = [catalogue.display(row) for row in range(len(catalogue))].index(answer)
            assert prompt == title_prompt(material.id_texts[row])
    found = {answer.text for _, answer in BUILDERS["item_ids"](material, rng(0, "test"))}
    assert found == set(material.id_texts)


def test_queries_are_answered_by_their_item(material: IdMaterial) -> None:
    """Every query is a piece of the title, or names attributes of the item."""
    catalogue = material.dataset.catalogue
    draw = rng(3, "queries")
    kinds = set()
    for row in range(60):
        query = search_query(catalogue, row, draw)
        assert query is not None
        assert set(query.phrases) <= set(attribute_phrases(catalogue, row))
        if query.phrases:
            assert query.text.lower() == " ".join(query.phrases).lower()
        else:
            assert query.text.lower() in catalogue.title(row).lower()
        kinds.add(bool(query.phrases))
    assert kinds == {True, False}
    assert [search_query(catalogue, 5, rng(1, "q")) for _ in range(2)] == [search_query(catalogue, 5, rng(1, "q"))] * 2


def test_held_out_events_change_nothing_that_is_learnt(material: IdMaterial) -> None:
    """Training examples are the same when validation and test targets are others; validation never reads test."""
    split = material.split
    mixed = np.roll(split.test, 1)
    other = replace(material, split=replace(split, test=mixed, validation=mixed, source=split.train))
    for kind in BUILDERS:
        assert BUILDERS[kind](material, rng(0, kind)) == BUILDERS[kind](other, rng(0, kind))
    recipe = _recipe()
    watched = validation_examples(material, recipe)
    assert watched == validation_examples(replace(material, split=replace(split, test=mixed)), recipe)
    assert watched != validation_examples(replace(material, split=replace(split, validation=mixed)), recipe)
    pairs = [set(split.train.history(int(user)).tolist()) for user in split.users[:50]]
    held = [int(item) for item in split.test[:50]]
    assert not any(item in seen for seen, item in zip(pairs, held, strict=True))  # so that the check above can fail


def test_shares_seed_and_order(material: IdMaterial, extended: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(extended)
    recipe = _recipe(examples=100, data={"histories": 0.5, "item_titles": 0.5})
    data = build_data(material, recipe, tokenizer)
    cue = tokenizer.convert_tokens_to_ids(["<|history|>", "<|title|>"])
    firsts = [one.input_ids[0] for one in data.train]
    assert [firsts.count(token) for token in cue] == [50, 50]
    assert firsts != sorted(firsts)
    watched = [one.input_ids[0] for one in data.validation]
    assert [watched.count(token) for token in cue] == [4, 4]  # every task in its share
    for one in [*data.train, *data.validation]:
        ended = one.input_ids[-1] == tokenizer.eos_token_id
        assert ended == (one.input_ids[0] == cue[1])  # titles end by the end token, ids by their length
    assert build_data(material, recipe, tokenizer) == data
    assert build_data(material, recipe.model_copy(update={"seed": 1}), tokenizer).train != data.train


def test_wrong_mixes_are_named(material: IdMaterial, extended: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(extended)
    with pytest.raises(ValueError, match="sum to 1"):
        _recipe(data={"histories": 0.5})
    with pytest.raises(ValueError, match="'stories'"):
        _recipe(data={"stories": 1.0})
    with pytest.raises(DataError, match="max_tokens=2"):
        build_data(material, _recipe(max_tokens=2), tokenizer)
    with pytest.raises(ValueError, match="quantizer"):
        _recipe(ids={"quantizer": "kmeans"})


def test_packed_loss_is_the_loss_one_by_one(extended: Path, material: IdMaterial) -> None:
    """Examples in one row do not see each other: loss of packed rows = loss of the examples alone."""
    tokenizer = AutoTokenizer.from_pretrained(extended)
    model = AutoModelForCausalLM.from_pretrained(extended)
    model.config.use_cache = False
    examples = [encode(next(stream(kind, material, rng(0, kind))), tokenizer) for kind in BUILDERS for _ in range(3)]
    packed = pack_examples(examples, length=128, pad=tokenizer.pad_token_id)
    assert len(packed.input_ids) < len(examples)
    total, n = 0.0, 0
    with torch.inference_mode():
        together = model(**{name: torch.from_numpy(values) for name, values in _named(packed)}).loss
        for one in examples:
            weight = sum(label != IGNORED for label in one.labels[1:])
            ids, labels = torch.tensor([one.input_ids]), torch.tensor([one.labels])
            total += float(model(input_ids=ids, labels=labels).loss) * weight
            n += weight
    assert float(together) == pytest.approx(total / n, abs=1e-4)


def test_golden_codes_start_from_the_words_of_their_items(extended: Path, ids: SemanticIds) -> None:
    """With one word per first code, its row moves towards the word's row, less the mean over all items."""
    tokenizer = AutoTokenizer.from_pretrained(extended)
    model = AutoModelForCausalLM.from_pretrained(extended)
    before = model.get_input_embeddings().weight.detach().clone()
    tokens = token_numbers(tokenizer, ids)
    lora = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", trainable_token_indices=list(tokens))
    wrapped = get_peft_model(model, lora)
    whole = [text for text in map(tokenizer.decode, range(300, tokens[0])) if len(tokenizer(text)["input_ids"]) == 1]
    first = ids.codes[:, 0]
    start_from_texts(wrapped, tokenizer, ids, [whole[code] for code in first.tolist()], tokens)
    moved = wrapped.get_input_embeddings()(torch.tensor(tokens)).detach() - before[tokens]
    n = len(CUES)
    assert not moved[:n].any()  # cues
    assert not moved[-ids.sizes[-1] :].any()  # codes that only number items
    with wrapped.disable_adapter():  # other roles read the backbone's rows
        assert torch.equal(wrapped.get_input_embeddings()(torch.tensor(tokens)), before[tokens])
    old = before[: tokens[0]]
    word_rows = torch.stack([old[tokenizer(text)["input_ids"][0]] for text in whole[: ids.sizes[0]]])
    items = word_rows[first.tolist()] - word_rows[first.tolist()].mean(dim=0)  # one word each, so of weight 1
    for level, offset in ((0, n), (1, n + ids.sizes[0])):
        own = torch.from_numpy(ids.codes[:, level].astype(np.int64))
        used = torch.from_numpy(np.unique(ids.codes[:, level]).astype(np.int64))
        want = torch.stack([items[own == code].mean(dim=0) for code in used.tolist()])
        want *= old.std(dim=0, unbiased=False).mean() / want.std(unbiased=False)
        torch.testing.assert_close(moved[offset:][used], want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("text", ["", "the same words"])
def test_texts_that_tell_nothing_apart_move_no_row(extended: Path, ids: SemanticIds, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(extended)
    model = AutoModelForCausalLM.from_pretrained(extended)
    tokens = token_numbers(tokenizer, ids)
    before = model.get_input_embeddings().weight.detach().clone()[tokens]
    lora = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", trainable_token_indices=list(tokens))
    wrapped = get_peft_model(model, lora)
    start_from_texts(wrapped, tokenizer, ids, [text] * len(ids), tokens)
    assert torch.equal(wrapped.get_input_embeddings()(torch.tensor(tokens)), before)


def test_a_head_of_its_own_starts_from_its_own_rows(extended: Path, ids: SemanticIds, films: Dataset) -> None:
    tokenizer = AutoTokenizer.from_pretrained(extended)
    model = AutoModelForCausalLM.from_pretrained(extended, tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight.copy_(-2 * model.get_input_embeddings().weight)
    tokens = token_numbers(tokenizer, ids)
    trained = trainable_rows(model, tokens)
    assert isinstance(trained, dict)
    lora = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", trainable_token_indices=trained)
    wrapped = get_peft_model(model, lora)
    deltas = [rows for name, rows in wrapped.named_parameters() if "trainable_tokens_delta" in name]
    before = [rows.detach().clone() for rows in deltas]
    texts = [films.catalogue.document(row) for row in range(len(ids))]
    start_from_texts(wrapped, tokenizer, ids, texts, tokens)
    embedding, head = (rows.detach() - old for rows, old in zip(deltas, before, strict=True))
    assert embedding.any()
    torch.testing.assert_close(head, -2 * embedding, atol=1e-5, rtol=1e-4)


def test_a_model_without_token_rows_has_none_to_start(extended: Path, ids: SemanticIds) -> None:
    tokenizer = AutoTokenizer.from_pretrained(extended)
    model = AutoModelForCausalLM.from_pretrained(extended)
    with pytest.raises(ModelError, match="trainable_token_indices"):
        start_from_texts(model, tokenizer, ids, ["text"] * len(ids), token_numbers(tokenizer, ids))


def _named(packed: Any) -> Iterator[tuple[str, np.ndarray]]:
    yield from packed._asdict().items()


def test_rows_hold_every_token_once() -> None:
    sizes = [5, 9, 3, 8, 2, 2, 10]
    examples = [Encoded([100 * k + i for i in range(size)], [IGNORED] * size) for k, size in enumerate(sizes, 1)]
    packed = pack_examples(examples, length=10, pad=0)
    assert len(packed.input_ids) == 4  # 39 tokens: no fewer rows of 10 can hold them
    held = packed.input_ids[packed.input_ids > 0]
    assert sorted(held.tolist()) == sorted(token for one in examples for token in one.input_ids)
    with pytest.raises(ConfigError, match="10 tokens"):
        pack_examples(examples, length=9, pad=0)


@pytest.fixture(scope="session")
def trained(mini_folder: Path, ids: SemanticIds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("semantic")
    ids.save(root / "ids")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMREC_COMPILE", "0")
        patch.setenv("LLMREC_DTYPE", "float32")
        patch.setenv("LLMREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        script = load_file(asset("finetune/semantic_ids.py"), name="semantic_under_test")
        script.run(_run_recipe(mini_folder, root))
    return root


def _run_recipe(backbone: Path, root: Path, **changes: Any) -> SemanticRecipe:
    settings: dict[str, Any] = {
        "evaluations": 2,
        "history_items": 6,
        "max_tokens": 128,
        "examples": 240,
        "learning_rate": 0.01,
    }
    settings |= {"backbone": str(backbone), "output": str(root / "out"), "ids": {"folder": str(root / "ids")}}
    return _recipe(**{**settings, **changes})


def test_the_recipe_learns_and_leaves_the_backbone_alone(trained: Path, mini_folder: Path) -> None:
    record = json.loads((trained / "out" / "training.json").read_text(encoding="utf-8"))
    losses = [row["validation_loss"] for row in record["curve"] if "validation_loss" in row]
    assert losses[-1] < losses[0]
    assert record["n_train"] == 240
    assert set(record["checks"]) == {"gradients", "token_rows", "packing", "frozen", "labels", "saved_rows"}
    assert record["checks"]["frozen"]["compared"]
    old = AutoModelForCausalLM.from_pretrained(mini_folder).state_dict()
    new = AutoModelForCausalLM.from_pretrained(trained / "out" / "backbone").state_dict()
    for name, tensor in old.items():
        assert torch.equal(new[name][: len(tensor)], tensor), name
    card = (trained / "out" / "README.md").read_text(encoding="utf-8")
    assert 'from_pretrained("PATH-OF-THIS-FOLDER/backbone")' in card, "only that backbone has the tokens"
    assert "semantic adapter" in card
    assert str(trained) not in card


async def test_one_folder_is_all_that_inference_needs(trained: Path, films: Dataset, films_split: Split) -> None:
    """The extended backbone names its adapters and holds its ids; nothing illegal comes out, also barely trained."""
    folder = trained / "out" / "backbone"
    recommender = SemanticLmRecommender(
        load_backbone(folder, dtype="float32"), ids=folder, config=SemanticLmConfig(beams=10, history_items=6)
    )
    recommender.fit(films, films_split)
    scores = await recommender.score([films_split.history(user, "test") for user in range(5)])
    assert (np.isfinite(scores).sum(axis=1) == 10).all()
    assert len((await recommender.search("comedy 1990s", 10)).items) == 10


def test_search_is_measured_beside_bm25_and_chance(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_file(asset("eval/semantic_search.py"), name="llmrec_eval_semantic_search")
    backbone = str(trained / "out" / "backbone")
    monkeypatch.setattr(sys, "argv", ["semantic_search.py", "--backbone", backbone, "--queries", "30", "--json"])
    script.main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert list(rows) == ["random", "BM25", "semantic-lm"]
    assert rows["BM25"]["title"]["hit@10"]["value"] > 0.7
    assert rows["random"]["title"]["hit@10"]["value"] < 0.3
    assert sum(row["n"] for row in rows["semantic-lm"].values()) == 30


def test_an_output_of_something_else_is_not_taken_up(trained: Path, mini_folder: Path) -> None:
    script = load_file(asset("finetune/semantic_ids.py"), name="semantic_under_test")
    with pytest.raises(ConfigError, match=r"from another .*seed"):
        script.run(_run_recipe(mini_folder, trained, seed=5))


def test_a_killed_run_goes_on(
    trained: Path, mini_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_file(asset("finetune/semantic_ids.py"), name="semantic_under_test")
    step_end = Progress.on_step_end
    taken: list[int] = []

    def counted(self: Progress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step_end(self, args, state, control, **kwargs)
        taken.append(state.global_step)

    def broken(self: Progress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step_end(self, args, state, control, **kwargs)
        if state.global_step == 24:  # of 32; the first checkpoint stands at 16
            raise KeyboardInterrupt

    recipe = _run_recipe(mini_folder, trained, output=str(tmp_path / "broken"))
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_end", broken)
        with pytest.raises(KeyboardInterrupt):
            script.run(recipe)
    assert list((tmp_path / "broken" / "checkpoints").rglob("adapter_model.safetensors"))
    monkeypatch.setattr(Progress, "on_step_end", counted)
    resumed = script.run(recipe)
    assert taken[0] == 17, "it began anew"
    whole = json.loads((trained / "out" / "training.json").read_text(encoding="utf-8"))
    assert resumed["best"] == pytest.approx(whole["best"], abs=1e-4)
