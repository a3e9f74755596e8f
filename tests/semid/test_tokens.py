"""Id tokens in a backbone: what the tokenizer reads, what the rows hold, and how an adapter takes them along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

from llmrec.errors import ConfigError, ModelNotFoundError
from llmrec.lm.adapters import AdapterStore, check_adapter, content_hash, read_stamp, stamp
from llmrec.lm.loading import load_backbone
from llmrec.lm.local import LocalLM
from llmrec.prompting import as_data
from llmrec.semid.codes import SemanticIds
from llmrec.semid.tokens import (
    CUES,
    IDS_FOLDER,
    add_id_tokens,
    bake_rows,
    extend_backbone,
    grow_embeddings,
    id_paths,
    new_token_texts,
    read_record,
    token_numbers,
    trainable_rows,
)
from llmrec.testing.models import save_tiny_model

LINEAR = ["q_proj", "v_proj", "o_proj", "up_proj"]


def _ids(n: int = 20) -> SemanticIds:
    rows = np.arange(n)
    prefixes = np.stack([rows % 3, rows // 6], axis=1)
    return SemanticIds.from_prefixes(prefixes, (4, 5), catalogue_hash="tiny")


@pytest.fixture(scope="module")
def ids() -> SemanticIds:
    return _ids()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone with one ordinary adapter, called user."""
    folder = save_tiny_model(tmp_path_factory.mktemp("plain") / "backbone", texts=["Alien (1979)", "a history"])
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=4, target_modules=LINEAR, task_type="CAUSAL_LM")
    )
    _shake(model)
    adapter = folder.parent / "user"
    model.save_pretrained(str(adapter))
    stamp(adapter, folder)
    store = AdapterStore(folder)
    store.add("user", adapter)
    store.save()
    return folder


@pytest.fixture(scope="module")
def extended(plain: Path, ids: SemanticIds) -> Path:
    out = plain.parent / "extended"
    extend_backbone(plain, out, ids, seed=7)
    return out


@pytest.fixture(scope="module")
def semantic(extended: Path, ids: SemanticIds) -> Path:
    """An adapter with LoRA weights and token rows, as far from the backbone as training would bring it."""
    model = AutoModelForCausalLM.from_pretrained(extended)
    tokens = token_numbers(AutoTokenizer.from_pretrained(extended), ids)
    lora = LoraConfig(
        r=4, target_modules=LINEAR, task_type="CAUSAL_LM", trainable_token_indices=trainable_rows(model, tokens)
    )
    wrapped = get_peft_model(model, lora)
    _shake(wrapped)
    folder = extended.parent / "semantic"
    wrapped.save_pretrained(str(folder))
    return folder


def _shake(model: Any) -> None:
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=draw)


def _logits(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.as_tensor(model.eval()(input_ids=torch.tensor([tokens])).logits[0]).clone()


def test_each_code_and_cue_is_one_token_whatever_stands_around_it(extended: Path, ids: SemanticIds) -> None:
    tokenizer = AutoTokenizer.from_pretrained(extended)
    text = f"Alien{ids.text_of(3)}1979{CUES[0]}"
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    numbers = dict(zip(new_token_texts(ids), token_numbers(tokenizer, ids), strict=True))
    paths = id_paths(tokenizer, ids)
    assert paths.shape == (20, 3)
    place = tokens.index(paths[3, 0])
    assert tokens[place : place + 3] == paths[3].tolist()
    assert tokens[-1] == numbers[CUES[0]]
    assert tokenizer.decode(tokens) == text
    assert len({tuple(path) for path in paths.tolist()}) == 20


def test_old_text_is_read_as_before(plain: Path, extended: Path) -> None:
    text = "Alien (1979) <a_1> <|a_1 |> a history<|im_end|>"
    before, after = (AutoTokenizer.from_pretrained(folder)(text)["input_ids"] for folder in (plain, extended))
    assert before == after


def test_item_text_cannot_spell_an_id(ids: SemanticIds) -> None:
    for text in new_token_texts(ids):
        assert as_data(f"x {text} y") == "x y"


def test_old_logits_stay_bit_for_bit_and_new_rows_are_unlikely(plain: Path, extended: Path, ids: SemanticIds) -> None:
    before = AutoModelForCausalLM.from_pretrained(plain)
    after = AutoModelForCausalLM.from_pretrained(extended)
    tokens = AutoTokenizer.from_pretrained(plain)("Alien (1979) a history")["input_ids"]
    old, new = _logits(before, tokens), _logits(after, tokens)
    n_old = old.shape[1]
    assert new.shape[1] == n_old + len(new_token_texts(ids))
    assert torch.equal(new[:, :n_old], old)
    share = new.softmax(dim=1)[:, n_old:].sum(dim=1)  # well below an even share
    assert float(share.max()) < (new.shape[1] - n_old) / new.shape[1]
    assert after.get_input_embeddings().weight is after.get_output_embeddings().weight


def test_equal_seeds_give_equal_folders(plain: Path, extended: Path, ids: SemanticIds, tmp_path: Path) -> None:
    torch.manual_seed(99)  # global state must not matter, nor change
    state = torch.random.get_rng_state()
    extend_backbone(plain, tmp_path / "again", ids, seed=7)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert content_hash(tmp_path / "again") == content_hash(extended)
    extend_backbone(plain, tmp_path / "other", ids, seed=8)
    assert content_hash(tmp_path / "other") != content_hash(extended)


def test_adapter_and_rows_reload_exactly(extended: Path, semantic: Path) -> None:
    config = json.loads((semantic / "adapter_config.json").read_text(encoding="utf-8"))
    tokens = [*config["trainable_token_indices"][:9], 5, 6]
    first, second = (
        _logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(extended), semantic), tokens)
        for _ in range(2)
    )
    assert torch.equal(first, second)
    assert float((first - _logits(AutoModelForCausalLM.from_pretrained(extended), tokens)).abs().max()) > 0.1
    size = (semantic / "adapter_model.safetensors").stat().st_size
    assert size < 0.5 * (extended / "model.safetensors").stat().st_size  # the rows alone, not the embedding


@pytest.mark.parametrize("merge_below", [64_000_000, 0])  # small backbones swap merged weights, large ones do not
def test_roles_and_id_adapter_stand_side_by_side(
    extended: Path, semantic: Path, merge_below: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each adapter gives what it gives alone, in any order of use, and the bare backbone comes back."""
    monkeypatch.setattr("llmrec.lm.local.MERGE_BELOW", merge_below)
    rows = token_numbers(AutoTokenizer.from_pretrained(extended), _ids())
    tokens = [3, 4, 5, *rows, 6]
    want: dict[str | None, torch.Tensor] = {None: _logits(AutoModelForCausalLM.from_pretrained(extended), tokens)}
    folders = {"user": extended / "adapters" / "user", "semantic": semantic}
    for name, folder in folders.items():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(extended), folder)
        want[name] = _logits(model, tokens)
    lm = LocalLM.from_folder(extended, adapters=folders, dtype="float32")
    for used in ("semantic", "user", None, "semantic", None, "user"):
        with lm.opened(adapter=used) as opened:
            torch.testing.assert_close(_logits(opened.model, tokens), want[used], atol=1e-4, rtol=1e-4)


def test_the_store_of_an_extended_backbone_loads_old_roles_first(
    extended: Path, semantic: Path, tmp_path: Path
) -> None:
    """peft cannot add an adapter without token rows to a model that has one with them."""
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(extended, folder)
    store = AdapterStore.load(folder)
    store.check()
    assert list(store) == ["user"]
    store.add("semantic", semantic)
    store.save()
    lm = load_backbone(folder, dtype="float32")
    assert lm.capabilities.adapters == ("user", "semantic")


def test_copied_adapters_are_bound_to_the_extension(plain: Path, extended: Path) -> None:
    copy = extended / "adapters" / "user"
    assert read_stamp(copy) == content_hash(extended)
    with pytest.raises(ConfigError, match="trained on another backbone"):
        check_adapter("user", plain.parent / "user", base_content_hash=content_hash(extended))


def test_untied_heads_get_rows_of_their_own(plain: Path, ids: SemanticIds, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(plain)
    config = AutoModelForCausalLM.from_pretrained(plain).config
    config.tie_word_embeddings = False
    model = Qwen3ForCausalLM(config)
    tokens = add_id_tokens(tokenizer, ids)
    grow_embeddings(model, tokens, seed=0)
    model.save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    rows = trainable_rows(model, tokens)
    assert rows == {"model.embed_tokens": tokens, "lm_head": tokens}
    lora = LoraConfig(r=2, target_modules=LINEAR, task_type="CAUSAL_LM", trainable_token_indices=rows)
    wrapped = get_peft_model(model, lora)
    _shake(wrapped)
    wrapped.save_pretrained(str(tmp_path / "adapter"))
    want = _logits(wrapped, [tokens[0], 5, tokens[9]])
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert torch.equal(_logits(PeftModel.from_pretrained(base, tmp_path / "adapter"), [tokens[0], 5, tokens[9]]), want)


def test_spare_rows_are_used_and_none_is_lost(plain: Path, ids: SemanticIds) -> None:
    """A vocabulary that was rounded up to 600 rows keeps its size; the rows of the new tokens are written over."""
    tokenizer = AutoTokenizer.from_pretrained(plain)
    model = AutoModelForCausalLM.from_pretrained(plain)
    model.resize_token_embeddings(600, mean_resizing=False)
    tokens = add_id_tokens(tokenizer, ids)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokens[0] :] = 1e3
    grow_embeddings(model, tokens, seed=0)
    weight = model.get_input_embeddings().weight.detach()
    assert weight.shape[0] == 600
    assert float(weight[tokens].abs().max()) < 10
    assert float(weight[tokens[-1] + 1 :].min()) == 1e3


def test_baked_rows_leave_an_ordinary_lora_adapter(
    extended: Path, semantic: Path, ids: SemanticIds, tmp_path: Path
) -> None:
    """For engines that take LoRA alone: rows in the backbone and the rest in the adapter give the same logits."""
    bake_rows(extended, semantic, tmp_path / "baked", role="semantic")
    tokens = [3, *token_numbers(AutoTokenizer.from_pretrained(extended), ids), 4]
    want = _logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(extended), semantic), tokens)
    adapter = tmp_path / "baked" / "adapters" / "semantic"
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["trainable_token_indices"] is None
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "baked")
    torch.testing.assert_close(_logits(PeftModel.from_pretrained(base, adapter), tokens), want, atol=1e-5, rtol=1e-5)
    lm = load_backbone(tmp_path / "baked", dtype="float32")
    assert lm.capabilities.adapters == ("user", "semantic")
    with pytest.raises(ConfigError, match="trains no token rows"):
        bake_rows(extended, extended / "adapters" / "user", tmp_path / "none", role="user")


def test_record_and_ids_travel_with_the_folder(extended: Path, plain: Path, ids: SemanticIds) -> None:
    record = read_record(extended)
    assert record["ids_fingerprint"] == ids.fingerprint
    assert record["extends"] == content_hash(plain)
    assert record["tokens"] - record["tokens_before"] == len(CUES) + ids.n_tokens
    assert SemanticIds.load(extended / IDS_FOLDER).fingerprint == ids.fingerprint


def test_wrong_input_is_named(plain: Path, extended: Path, ids: SemanticIds, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has the token '<|history|>' already".replace("|", r"\|")):
        extend_backbone(extended, tmp_path / "twice", ids)
    assert not (tmp_path / "twice").exists()
    with pytest.raises(ConfigError, match="exists"):
        extend_backbone(plain, extended, ids)
    with pytest.raises(ModelNotFoundError, match="no model folder"):
        extend_backbone(tmp_path / "absent", tmp_path / "out", ids)
    with pytest.raises(ModelNotFoundError, match="id tokens"):
        read_record(plain)
    with pytest.raises(ConfigError, match="extended with these ids"):
        id_paths(AutoTokenizer.from_pretrained(plain), ids)
    wider = SemanticIds.from_prefixes(ids.codes[:, :2], (9, 5), catalogue_hash="tiny")  # another artifact, more codes
    with pytest.raises(ConfigError, match=r"a_4\|>' \(.* missing"):
        id_paths(AutoTokenizer.from_pretrained(extended), wider)
