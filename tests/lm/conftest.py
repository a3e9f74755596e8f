"""A tiny random model with chat template and two adapters, saved as ordinary Hugging Face and peft folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from llmrec.lm.local import LocalLM

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools:{% for tool in tools %} {{ tool.function.name }}{% endfor %}<|im_end|>\n"
    "{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "Alien is a film about a ship and its crew. The crew finds a creature.",
    "Heat is a film about a thief and a policeman. Recommend a film, please: something funny, not horror.",
    '{"name": "search", "arguments": {"query": "a film about the sea", "year": 1979}}',
    "0 1 2 3 4 5 6 7 8 9 watched skipped liked 10 20 1990 2001",
]


class Folders(NamedTuple):
    base: Path
    red: Path
    blue: Path


def make_tokenizer(specials: tuple[str, ...] = SPECIALS, size: int = 400) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    return fast


def make_model(tokenizer: Any, *, seed: int = 0, layers: int = 2, hidden: int = 32, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,  # wide, so that positions and adapters make a difference that a test can see
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **changes,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(Qwen3Config(**settings)).eval()


def save_model(folder: Path, **settings: Any) -> Path:
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model(tokenizer, **settings).save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path, *, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM.from_pretrained(base)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
        get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """For matrices this small, waiting for a second thread costs more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("models")
    base = save_model(root / "base")
    return Folders(base, save_adapter(root / "red", base, seed=1), save_adapter(root / "blue", base, seed=2))


@pytest.fixture(scope="session")
def lm(folders: Folders) -> LocalLM:
    adapters = {"red": folders.red, "blue": folders.blue}
    return LocalLM.from_folder(folders.base, adapters=adapters, dtype="float32", device="cpu")
