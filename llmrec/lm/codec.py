"""Text to tokens and back, for one model: prompts, chat templates and end tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError, ModelError
from llmrec.lm.protocol import Message

_END_NAMES = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>")


class TokenCodec:
    """A model's tokenizer and what this package needs of it.

    Args:
        model: the causal language model (its configuration names end tokens).
        tokenizer: its fast tokenizer.
        n_vocabulary: width of the model's logits (may exceed the tokenizer's entries).
        name: name of the model, for messages.

    Raises:
        ConfigError: model and tokenizer do not belong together.
    """

    def __init__(self, model: Any, tokenizer: Any, *, n_vocabulary: int, name: str) -> None:
        if len(tokenizer) > n_vocabulary:
            raise ConfigError(
                f"the tokenizer of {name!r} has {len(tokenizer)} entries and the model {n_vocabulary}: "
                "they do not belong together"
            )
        self.tokenizer = tokenizer
        self._name, self._n_vocabulary = name, n_vocabulary
        self.end_tokens = _end_tokens(model, tokenizer)
        self._start = start_tokens(tokenizer)
        self._specials = tuple(tokenizer.all_special_tokens)
        self._texts: list[str] = []
        self.encode = lru_cache(maxsize=1 << 16)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of these tokens, special tokens included."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def answer(self, tokens: Sequence[int], stops: Sequence[str]) -> str:
        """Text of an answer with its markup, without a final end token, cut before the first stop text."""
        if len(tokens) and tokens[-1] in self.end_tokens:
            tokens = tokens[:-1]
        raw = self.decode(tokens)
        cuts = [place for stop in stops if (place := raw.find(stop)) >= 0]
        return raw[: min(cuts)] if cuts else raw

    def texts_of_tokens(self) -> Sequence[str]:
        """Text of every token alone, shape (n_vocabulary,); computed once."""
        if not self._texts:
            known = [self.decode([token]) for token in range(len(self.tokenizer))]
            self._texts = known + [""] * (self._n_vocabulary - len(known))
        return self._texts

    def without_specials(self, text: str) -> str:
        """The text without special tokens."""
        for special in self._specials:
            if special in text:
                text = text.replace(special, "")
        return text

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Chat messages as the prompt text that the model reads.

        Raises:
            ModelError: the tokenizer has no chat template, or the template refuses the messages.
        """
        if not self.tokenizer.chat_template:
            raise ModelError(f"the tokenizer of {self._name!r} has no chat template: pass a text prompt")
        import jinja2

        try:
            text: str = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                add_generation_prompt=True,
                tokenize=False,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise ModelError(f"the chat template of {self._name!r} refuses the messages: {error}") from error
        return text

    def prompt(self, prompt: str | Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        """Tokens of a text prompt (with the model's begin token, if it has one) or of chat messages.

        Raises:
            ConfigError: tools with a text prompt.
            ModelError: the prompt is empty.
        """
        if isinstance(prompt, str):
            if tools:
                raise ConfigError("tools are shown through the chat template: pass messages, not a text prompt")
            tokens = self._start + self.encode(prompt)
        else:
            tokens = self.encode(self.render(prompt, tools))
        if not tokens:
            raise ModelError("the prompt is empty: there is nothing to continue")
        return tokens


def _end_tokens(model: Any, tokenizer: Any) -> npt.NDArray[np.int64]:
    """Ids of the tokens that end an answer: the model's, the tokenizer's, and the usual chat markers it knows."""
    ends: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        ends.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    known = tokenizer.get_added_vocab()
    ends.update(known[name] for name in _END_NAMES if name in known)
    if not ends:
        raise ConfigError("neither the model nor its tokenizer names an end token (eos_token)")
    return np.array(sorted(ends), dtype=np.int64)


@lru_cache(maxsize=16)
def start_tokens(tokenizer: Any) -> tuple[int, ...]:
    """What this tokenizer puts before every text (Llama's and Gemma's begin token; nothing for Qwen)."""
    with_specials = tokenizer("a")["input_ids"]
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    for start in range(len(with_specials) - len(plain) + 1):
        if with_specials[start : start + len(plain)] == plain:
            return tuple(with_specials[:start])
    return ()
