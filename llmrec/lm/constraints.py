"""Grammars over tokens, through llguidance: a constrained sample cannot leave its grammar.

Three kinds: a choice among texts, a JSON schema, and a Lark grammar in llguidance's dialect. In Lark, `<tool_call>`
without quotes is the special token of that name; where the tokenizer has no such token it stands for the plain text.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import llguidance
import llguidance.hf
import torch

from llmrec.errors import ConfigError, ModelError
from llmrec.lm.protocol import Constraint
from llmrec.lm.toolcalls import JSON_STYLE

# A quoted text, a regular expression or a comment (left alone), or a bare special token such as <tool_call>.
_LARK_PIECE = re.compile(
    r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|//[^\n]*|%json\s*\{|(?P<special><[|/]?[A-Za-z_][\w|]*>)'
)


class GrammarState:
    """Where one sample stands in its grammar (see `llmrec.lm.decoding.Grammar`)."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ModelError(f"the grammar cannot go on: {self._matcher.get_error()}")

    def forced(self) -> list[int]:
        """Tokens that the grammar forces next, in the tokenizer's own segmentation; the state moves past them."""
        if self.finished:
            return []
        tokens: list[int] = self._matcher.compute_ff_tokens()
        if tokens:
            self._matcher.consume_tokens(tokens)
        self._check()
        return tokens

    def fill(self, allowed: torch.Tensor) -> None:
        """Write the allowed next tokens into a bitmask, shape (vocabulary / 32,), int32, contiguous."""
        self._matcher.unsafe_compute_mask_ptr(allowed.data_ptr(), allowed.numel() * allowed.element_size())
        self._check()

    def accept(self, token: int) -> None:
        """Move past a chosen token."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def finished(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())


class GrammarCompiler:
    """Compiles constraints for one tokenizer; equal constraints are compiled once.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        n_vocabulary: width of the model's logits (may exceed the tokenizer's entries).
        end_tokens: token ids that end a sample.
    """

    def __init__(self, tokenizer: Any, *, n_vocabulary: int, end_tokens: list[int]) -> None:
        self._specials = frozenset(tokenizer.get_added_vocab())
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=n_vocabulary, eos_token=end_tokens)
        self._compiled = lru_cache(maxsize=512)(self._compile)

    def start(self, constraint: Constraint) -> GrammarState:
        """A fresh state for one sample.

        Raises:
            ConfigError: the grammar cannot be compiled.
        """
        matcher = self._compiled(constraint.kind, _canonical(constraint))
        return GrammarState(matcher.deep_copy())

    def _compile(self, kind: str, text: str) -> llguidance.LLMatcher:
        grammar = self._grammar(kind, text)
        complaint = llguidance.LLMatcher.validate_grammar(grammar, self._tokenizer)
        if complaint:
            raise ConfigError(f"the {kind} constraint is not a valid grammar: {complaint}; got {_short(text)}")
        matcher = llguidance.LLMatcher(self._tokenizer, grammar)
        if matcher.is_error():
            raise ConfigError(f"the {kind} constraint cannot be compiled: {matcher.get_error()}; got {_short(text)}")
        return matcher

    def _grammar(self, kind: str, text: str) -> str:
        try:
            if kind == "choice":
                options = " | ".join(json.dumps(option, ensure_ascii=False) for option in json.loads(text))
                return str(llguidance.LLMatcher.grammar_from_lark(f"start: {options}"))
            if kind == "json_schema":
                return str(llguidance.LLMatcher.grammar_from_json_schema(json.loads(text), defaults=dict(JSON_STYLE)))
            return str(llguidance.LLMatcher.grammar_from_lark(self.with_known_specials(text)))
        except ValueError as error:
            raise ConfigError(f"the {kind} constraint cannot be compiled: {error}; got {_short(text)}") from error

    def with_known_specials(self, lark: str) -> str:
        """Quote bare special tokens that this tokenizer does not have."""

        def piece(match: re.Match[str]) -> str:
            special = match["special"]
            return json.dumps(special) if special and special not in self._specials else match[0]

        return "\n".join(
            line if line.lstrip().startswith("%") else _LARK_PIECE.sub(piece, line) for line in lark.splitlines()
        )


def _canonical(constraint: Constraint) -> str:
    """One text for equal constraints.

    Raises:
        ConfigError: the value does not suit the kind.
    """
    kind, value = constraint.kind, constraint.value
    if kind == "choice":
        options = list(value) if not isinstance(value, str) else []
        if not options or not all(isinstance(option, str) and option for option in options):
            raise ConfigError(f"a choice constraint needs a sequence of non-empty texts, got {value!r}")
        return json.dumps(options)
    if kind == "json_schema":
        if not isinstance(value, dict):
            raise ConfigError(f"a json_schema constraint needs a schema object, got {value!r}")
        try:
            return json.dumps(value)  # order of keys is kept: it is the order in which properties are written
        except TypeError as error:
            raise ConfigError(f"a json_schema constraint must be plain JSON, got {value!r}") from error
    if kind == "lark":
        if not isinstance(value, str):
            raise ConfigError(f"a lark constraint needs a grammar text, got {value!r}")
        return value
    raise ConfigError(f"unknown constraint kind, got {kind!r}; use choice, json_schema or lark")


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")
