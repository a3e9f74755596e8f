"""nano: seeds, cache, resume, and that it is an ordinary Hugging Face folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split
from llmrec.errors import CacheError
from llmrec.training.callbacks import Progress
from llmrec.training.loop import compile_layers
from llmrec.training.pretrain import NanoRecipe, Pretrained, cache_key, read_report, train_nano

from .conftest import MINI


def test_it_learns(mini: Pretrained) -> None:
    losses = [row["loss"] for row in mini.report["curve"]]
    assert losses[0] > 5  # near ln(1024) = 6.9 for an untrained model
    assert losses[-1] < 0.8 * losses[0]
    assert mini.report["tokens"] == 40_000 // 128 * 128


def test_loads_without_this_package(mini_folder: Path) -> None:
    code = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "t = AutoTokenizer.from_pretrained(sys.argv[1]); m = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "ids = t('Next:\\n', return_tensors='pt', add_special_tokens=False)\n"
        "print(t.decode(m.generate(**ids, max_new_tokens=4, do_sample=False)[0]))\n"
        "assert not [name for name in sys.modules if name.startswith('llmrec')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(mini_folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Next:")


def test_second_time_comes_from_the_cache(mini: Pretrained, films: Dataset, films_split: Split) -> None:
    again = train_nano(films, films_split, MINI, seed=0, cache=mini.path.parent.parent)
    assert again.cached
    assert not mini.cached
    assert again.path == mini.path
    assert again.report == mini.report


def test_key_depends_on_seed_recipe_and_data(films: Dataset, films_split: Split) -> None:
    keys = {
        cache_key(films, films_split, MINI, seed=0),
        cache_key(films, films_split, MINI, seed=1),
        cache_key(films, films_split, MINI.model_copy(update={"tokens": 50_000}), seed=0),
    }
    assert len(keys) == 3


def test_damaged_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "nano.json").write_text("{", encoding="utf-8")
    with pytest.raises(CacheError, match="delete that folder"):
        read_report(tmp_path)


def _small(**changes: Any) -> NanoRecipe:
    return MINI.model_copy(update={"tokens": 12_800, "mix": {"facts": 0.5, "sequences": 0.5}, **changes})


def test_same_seed_same_weights(films: Dataset, films_split: Split, tmp_path: Path) -> None:
    one = train_nano(films, films_split, _small(), seed=3, cache=tmp_path / "one")
    two = train_nano(films, films_split, _small(), seed=3, cache=tmp_path / "two")
    first, second = load_file(one.path / "model.safetensors"), load_file(two.path / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_broken_run_goes_on_to_the_same_weights(
    films: Dataset, films_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _small(tokens=128 * 4 * 50)  # 50 steps, a checkpoint every 20
    whole = train_nano(films, films_split, recipe, seed=4, cache=tmp_path / "whole")
    step_end = Progress.on_step_end

    def broken(self: Progress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step_end(self, args, state, control, **kwargs)
        if state.global_step == 33:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_end", broken)
        with pytest.raises(KeyboardInterrupt):
            train_nano(films, films_split, recipe, seed=4, cache=tmp_path / "broken")
    resumed = train_nano(films, films_split, recipe, seed=4, cache=tmp_path / "broken")
    assert not resumed.cached
    assert resumed.report["curve"][-1]["loss"] == pytest.approx(whole.report["curve"][-1]["loss"], abs=1e-4)
    one, two = (AutoModelForCausalLM.from_pretrained(path) for path in (whole.path, resumed.path))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_chat_template_golden(mini_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    tool = {
        "type": "function",
        "function": {"name": "search", "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}},
    }
    call = {"type": "function", "function": {"name": "search", "arguments": {"query": "sea"}}}
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "A film about the sea?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3 films"},
    ]
    text = tokenizer.apply_chat_template(messages, tools=[tool], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe kind.\nTools: search(query)<|im_end|>\n"
        "<|im_start|>user\nA film about the sea?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "search", "arguments": {"query": "sea"}}\n</tool_call>'
        "<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n3 films\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("text", ["Amélie (2001)", "千と千尋の神隠し", "\x00\n\t  two  spaces", "Sci-Fi, 1/2 price 🎬"])
def test_every_text_survives_the_tokenizer(text: str, mini_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mini_folder)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_compiled_layers_have_room_for_all_their_graphs(mini_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch stops compiling a layer at 8 graphs, in five lines; batches of several sizes and modes need more."""
    import torch._dynamo.config as dynamo

    model = AutoModelForCausalLM.from_pretrained(mini_folder)
    for before, after in ((8, 32), (64, 64)):
        monkeypatch.setattr(dynamo, "recompile_limit", before)
        compile_layers(model)
        assert dynamo.recompile_limit == after
