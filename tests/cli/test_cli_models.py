"""``llmrec models`` over real folders: a tiny random Qwen3 with adapters, and what can be wrong with them."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from typer.testing import CliRunner, Result

from llmrec.assets import cache_dir
from llmrec.cli.models import app
from llmrec.lm.adapters import AdapterStore, content_hash

PARAMETERS = 257 * 16 + 2 * 16 * 8 * 2 + 2 * 16 * 8 + 2 * 8 + 3 * 16 * 32 + 2 * 16 + 16
"""Tied embeddings; q and o (16 x 16); k and v (16 x 8); two head norms; gate, up, down; two layer norms; last norm."""


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone with the adapters "recommender" and "user"."""
    root = tmp_path_factory.mktemp("models-cli")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.add_special_tokens(["<|end|>"])
    PreTrainedTokenizerFast(tokenizer_object=byte_level, eos_token="<|end|>", pad_token="<|end|>").save_pretrained(
        root / "base"
    )
    config = Qwen3Config(
        vocab_size=257, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=256, pad_token_id=256,
    )  # fmt: skip
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # peft calls what transformers has deprecated
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(root / "base")
        for role in ("recommender", "user"):
            base = Qwen3ForCausalLM.from_pretrained(root / "base")
            get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).save_pretrained(root / role)
    store = AdapterStore(root / "base")
    for role in ("recommender", "user"):
        store.add(role, root / role)
    store.save()
    record = {"dataset": "films", "n_train": 12, "n_validation": 3, "best": 1.25, "seconds": 2.0, "curve": []}
    (root / "user" / "training.json").write_text(json.dumps(record))
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(prepared, tmp_path / "models"))


@pytest.fixture
def cached(root: Path) -> Path:
    """The backbone in the cache, as if it had been trained there."""
    folder = cache_dir() / "nano" / "0123456789abcdef0123"
    shutil.rmtree(cache_dir(), ignore_errors=True)
    shutil.copytree(root / "base", folder)
    (folder / "adapters.json").unlink()
    report = {
        "parameters": PARAMETERS, "tokens": 4096, "seconds": 1.5, "hardware": "cpu", "seed": 3, "dataset": "films",
        "curve": [{"step": 1.0, "loss": 5.5}, {"step": 2.0, "loss": 4.25}],
    }  # fmt: skip
    (folder / "nano.json").write_text(json.dumps(report))
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def test_an_empty_cache_lists_nothing_and_says_what_to_do() -> None:
    shutil.rmtree(cache_dir(), ignore_errors=True)
    assert answer("list")["models"] == []
    assert "llmrec quickstart" in run("list").stdout


def test_list_shows_ready_unfinished_and_damaged_models(cached: Path) -> None:
    (cached.parent / "feed.partial").mkdir()
    broken = Path(shutil.copytree(cached, cached.parent / "aaaa"))
    (broken / "nano.json").write_text('{"parameters": 1')
    older = Path(shutil.copytree(cached, cached.parent / "bbbb"))
    (older / "nano.json").write_text('{"parameters": 1, "curve": []}')
    found = {row["name"]: row for row in answer("list")["models"]}
    assert list(found) == [cached.name, "aaaa", "bbbb", "feed.partial"]
    assert found["feed.partial"]["state"] == "unfinished"
    assert found["aaaa"]["state"] == "damaged"
    assert "is damaged" in found["aaaa"]["fault"]
    assert "lacks 'dataset'" in found["bbbb"]["fault"]
    ready = found[cached.name]
    assert (ready["state"], ready["parameters"], ready["tokens"]) == ("ready", PARAMETERS, 4096)
    assert (ready["dataset"], ready["trained_with_seed"], ready["adapters"]) == ("films", 3, [])
    shown = run("list").stdout
    assert cached.name in shown
    assert "aaaa: " in shown


def test_show_golden_counts_parameters_and_names_the_training(cached: Path) -> None:
    shown = answer("show", cached)
    assert shown["parameters"] == PARAMETERS
    assert shown["content_hash"] == content_hash(cached)
    assert shown["config"]["model_type"] == "qwen3"
    assert shown["training"]["last_loss"] == 4.25
    assert "curve" not in shown["training"]
    assert "trained on films, seed 3: 4,096 tokens" in run("show", cached).stdout


def test_show_tells_whether_adapters_fit(root: Path) -> None:
    adapters = answer("show", root / "base")["adapters"]
    assert {role: one["fits"] for role, one in adapters.items()} == {"recommender": True, "user": True}
    assert adapters["user"]["best"] == 1.25
    config = root / "base" / "generation_config.json"
    assert config.exists()
    changed = json.loads((root / "base" / "config.json").read_text()) | {"rms_norm_eps": 1e-5}
    (root / "base" / "config.json").write_text(json.dumps(changed))
    assert answer("show", root / "base")["adapters"]["user"]["fits"] is False
    assert "MADE FOR ANOTHER BACKBONE" in run("show", root / "base").stdout


def test_show_reports_an_adapter_whose_folder_is_gone(root: Path) -> None:
    shutil.rmtree(root / "user")
    assert answer("show", root / "base")["adapters"]["user"]["exists"] is False
    assert "ITS FOLDER IS MISSING" in run("show", root / "base").stdout


def test_check_uses_the_backbone_and_every_adapter(root: Path) -> None:
    checked = answer("check", root / "base", "--device", "cpu")["checked"]
    assert list(checked) == ["backbone", "recommender", "user"]
    assert all(one["tokens"] >= 1 and one["logprob"] < 0 for one in checked.values())
    assert "user: fine" in run("check", root / "base", "--device", "cpu").stdout


def _poison(root: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = root / "base" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    (root / "base" / "adapters.json").unlink()  # else the changed hash is the first fault


def _truncate(root: Path) -> None:
    path = root / "base" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


DAMAGES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "no such folder": (lambda root: shutil.rmtree(root / "base"), 2, "no model folder"),
    "truncated weights": (_truncate, 2, "damaged"),
    "unreadable config": (lambda root: (root / "base" / "config.json").write_text("{"), 2, "config.json"),
    "adapter folder gone": (lambda root: shutil.rmtree(root / "user"), 2, "no folder for adapter 'user'"),
    "broken adapters.json": (lambda root: (root / "base" / "adapters.json").write_text("[]"), 2, "adapters.json"),
    "broken training.json": (lambda root: (root / "user" / "training.json").write_text("[]"), 2, "training.json"),
    "weights that are not numbers": (_poison, 1, "damaged"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_check_ends_with_one_line_for_a_damaged_model(root: Path, name: str) -> None:
    damage, code, reason = DAMAGES[name]
    damage(root)
    result = run("check", root / "base", "--device", "cpu", "--json")
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert reason in last
