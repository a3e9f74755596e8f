"""Backbone specs and the store of adapters."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmrec.errors import ConfigError, ModelNotFoundError, StorageError
from llmrec.lm.adapters import STAMP_FILE, STORE_FILE, AdapterStore, content_hash, read_stamp
from llmrec.lm.hardware import choose
from llmrec.lm.loading import chosen_adapter, load_backbone
from llmrec.lm.pretrained import load_pretrained
from tests.lm.conftest import Folders


@pytest.fixture
def own(folders: Folders, tmp_path: Path) -> Folders:
    """Copies that a test may change."""
    for name in ("base", "red", "blue"):
        shutil.copytree(getattr(folders, name), tmp_path / name)
    return Folders(tmp_path / "base", tmp_path / "red", tmp_path / "blue")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown kind of backbone 'magic'"):
        load_backbone("magic:thing")


def test_an_unreachable_hub_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError) as caught:
        load_backbone("nobody/no-such-model", dtype="float32")
    assert "nobody/no-such-model" in str(caught.value)
    assert "hub" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_store_is_saved_beside_the_backbone_and_loaded_with_it(own: Folders, tmp_path: Path) -> None:
    store = AdapterStore(own.base)
    store.add("recommender", own.red)
    store.add("user", own.blue)
    store.save()
    again = AdapterStore.load(own.base)
    assert list(again) == ["recommender", "user"]
    assert len(again) == 2
    assert again.folders()["user"] == own.blue.resolve()
    again.check()
    assert read_stamp(own.red) == content_hash(own.base)
    assert load_backbone(own.base, dtype="float32").capabilities.adapters == ("recommender", "user")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for folder in own:
        shutil.move(folder, moved / folder.name)
    assert load_backbone(moved / "base", dtype="float32").capabilities.adapters == ("recommender", "user")


def test_adapters_of_a_changed_backbone_are_refused(own: Folders) -> None:
    store = AdapterStore(own.base)
    store.add("recommender", own.red)
    store.save()
    weights = own.base / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ConfigError, match="trained on another backbone"):
        AdapterStore.load(own.base).check()
    with pytest.raises(ConfigError, match="trained on another backbone"):
        load_backbone(own.base, dtype="float32")


def test_a_named_adapter_that_is_gone_says_who_names_it_and_what_to_do(own: Folders) -> None:
    store = AdapterStore(own.base)
    store.add("user", own.red)
    store.add("tools", own.blue)
    store.save()
    shutil.rmtree(own.blue)
    with pytest.raises(ModelNotFoundError) as caught:
        load_backbone(own.base, dtype="float32")
    message = str(caught.value)
    assert "no folder for adapter 'tools'" in message
    assert str(own.base / STORE_FILE) in message
    assert "train it again" in message
    assert "take the entry 'tools' out" in message
    lm = load_backbone(own.base, adapters={"tools": own.red}, dtype="float32")
    assert lm.capabilities.adapters == ("user", "tools"), "another folder in its place is no fault"


def test_an_adapter_is_chosen_by_name_or_by_folder(own: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    store = AdapterStore(own.base)
    store.add("user", own.red)
    store.save()
    assert chosen_adapter(own.base, None, role="agent").name is None
    named = chosen_adapter(own.base, "user", role="agent")
    assert (named.name, named.folder, dict(named.folders)) == ("user", own.red.resolve(), {})
    given = chosen_adapter(own.base, str(own.blue), role="agent")
    assert (given.name, dict(given.folders)) == ("agent", {"agent": own.blue})
    assert load_backbone(own.base, adapters=given.folders, dtype="float32").capabilities.adapters == ("user", "agent")
    beside = chosen_adapter(own.base, str(own.blue), role="user")
    assert beside.name != "user", "the registered adapter stays what its name says"
    for nothing in ("nobody", str(own.base), "/no/such/folder"):
        assert chosen_adapter(own.base, nothing, role="agent") == (nothing, None, True)
    monkeypatch.chdir(own.blue.parent)
    own.blue.rename("user")
    assert chosen_adapter(own.base, "user", role="agent").registered, "a name comes before a folder"
    assert dict(chosen_adapter(own.base, "./user", role="agent").folders) == {"agent": Path("user")}


def test_a_role_can_be_removed(own: Folders) -> None:
    store = AdapterStore(own.base)
    store.add("user", own.red)
    store.remove("user")
    assert not list(store)
    with pytest.raises(ConfigError, match="'user'"):
        store.remove("user")


def test_wrong_names_and_folders_are_refused(own: Folders, tmp_path: Path) -> None:
    store = AdapterStore(own.base)
    with pytest.raises(ConfigError, match="letters"):
        store.add("a.b", own.red)
    with pytest.raises(ModelNotFoundError):
        store.add("user", tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError, match="no model folder"):
        AdapterStore(tmp_path / "nowhere")
    (own.red / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="no weights"):
        store.add("user", own.red)


@pytest.mark.parametrize("content", ["{", "[]", '{"adapters": ["red"]}', '{"adapters": {"red": 1}}'])
def test_a_damaged_store_is_refused(own: Folders, content: str) -> None:
    (own.base / STORE_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"adapters\.json"):
        AdapterStore.load(own.base)


def test_a_damaged_stamp_is_refused(own: Folders) -> None:
    (own.red / STAMP_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="base_content_hash"):
        AdapterStore(own.base).add("user", own.red)


def test_a_full_disk_is_reported(own: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    store = AdapterStore(own.base)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match="No space left"):
        store.save()


def test_the_output_layer_gets_states_side_by_side(folders: Folders) -> None:
    """Torch would copy it for every row otherwise; the logits are the same."""
    ids = torch.tensor([[5, 6, 7, 8], [8, 7, 6, 5]])
    seen: dict[str, bool] = {}
    plain = AutoModelForCausalLM.from_pretrained(folders.base, dtype=torch.float32)
    ours = load_pretrained(str(folders.base), choose(device="cpu", dtype="float32")).model
    logits = []
    for name, model in (("plain", plain), ("ours", ours)):

        def watch(_: Any, states: tuple[torch.Tensor], name: str = name) -> None:
            seen[name] = states[0].is_contiguous()

        model.get_output_embeddings().register_forward_pre_hook(watch)
        with torch.inference_mode():
            logits.append(model(ids, logits_to_keep=2).logits)
    assert seen == {"plain": False, "ours": True}
    assert torch.allclose(logits[0], logits[1], atol=1e-6)
