"""Continuations that share beginnings share the questions about them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence


class TokenTree:
    """Next-token questions whose answers add up to the log-probabilities of some continuations.

    Args:
        continuations: tokens of each; an empty one scores 0.
    """

    def __init__(self, continuations: Sequence[Sequence[int]]) -> None:
        self._continuations = [tuple(tokens) for tokens in continuations]
        self._answers: dict[tuple[int, ...], dict[int, float]] = {}

    def questions(self) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        """(prefix, tokens wanted after it), each prefix once.

        Prefixes come in depth-first order, so that a server finds the beginning of each in its prompt cache.
        """
        wanted: dict[tuple[int, ...], dict[int, None]] = {}
        for tokens in self._continuations:
            for place, token in enumerate(tokens):
                wanted.setdefault(tokens[:place], {})[token] = None
        for prefix in sorted(wanted):
            yield prefix, list(wanted[prefix])

    def answer(self, prefix: tuple[int, ...], logprobs: Mapping[int, float]) -> None:
        """Log-probabilities of the tokens wanted after a prefix."""
        self._answers[prefix] = dict(logprobs)

    def totals(self) -> list[float]:
        """Summed log-probability of each continuation."""
        return [
            math.fsum(self._answers[tokens[:place]][token] for place, token in enumerate(tokens))
            for tokens in self._continuations
        ]
