"""nano: a Qwen3-architecture model of about one million parameters and its tokenizer.

nano goes through the very code that a 7B model goes through: it is an ordinary Hugging Face folder (config, weights,
tokenizer, chat template) that `AutoModelForCausalLM` and `AutoTokenizer` load without this package. This file knows its
shape and its tokenizer; what it reads is `llmrec.training.corpus`, how it is trained `llmrec.training.pretrain`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, PositiveInt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

END = "<|endoftext|>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END, IM_START, IM_END, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

# Like GPT-2's split, except that " (1979)" and " Sci-Fi" are one piece each: titles end with a year.
_SPLIT = r"'(?:[sdmt]|ll|ve|re)| \(\d{4}\)| ?\p{L}+(?:-\p{L}+)*| ?\p{N}{1,4}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class NanoShape(BaseModel):
    """Width and depth of a nano, and the size of its vocabulary."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocabulary_size: PositiveInt = 3072
    """Byte-level BPE entries, special tokens included."""
    embedding_size: PositiveInt = 128
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    key_value_heads: PositiveInt = 2
    head_size: PositiveInt = 32
    intermediate_size: PositiveInt = 384
    context: PositiveInt = 1024
    """Longest sequence in tokens."""


def train_tokenizer(
    texts: Iterable[str], *, vocabulary_size: int, phrases: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer.

    Args:
        texts: training text; every byte sequence stays encodable whatever it is.
        vocabulary_size: entries, special tokens and `phrases` included.
        phrases: texts that become one token each (cues and attribute labels, which stand before every item).

    Returns:
        A tokenizer with nano's chat template, ready for `save_pretrained`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    added = [AddedToken(phrase, normalized=False, special=False) for phrase in dict.fromkeys(phrases)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(added),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(added)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=IM_END,
        pad_token=END,
        padding_side="left",
        model_max_length=1 << 20,
        clean_up_tokenization_spaces=False,
    )
    template = Path(__file__).with_name("nano_template") / "chat_template.jinja"
    fast.chat_template = template.read_text(encoding="utf-8")
    return fast


def build_model(shape: NanoShape, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> PreTrainedModel:
    """A freshly initialised model of this shape; equal seeds give equal weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config: Any = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.embedding_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_size,
        max_position_embeddings=shape.context,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = Qwen3ForCausalLM(config)
    return model
