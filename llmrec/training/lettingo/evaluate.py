"""Evaluation: a fixed predictor says with each profile what a user thinks of held-out items (LettinGo, section 3.2).

Nothing is sampled: the predictor gives the log-probability of the three labels, and the likeliest is its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmrec.lm.protocol import LanguageModel
from llmrec.training.lettingo.call_log import CallLog, answer_all, call_key
from llmrec.training.lettingo.prompts import ProfilePrompts, Prompt, Style, label_texts
from llmrec.training.lettingo.windows import LABELS, Label, Rated

AT_ONCE = 512
"""Cases between two writes of the log."""
TIE = 1e-3
"""Nats. Batches change scores in the fifth digit, so two labels this close are scored once more, alone."""


class Case(NamedTuple):
    """One question to the predictor."""

    recent: tuple[Rated, ...]
    profile: str
    """Empty for none."""
    target: Rated


class Verdict(NamedTuple):
    """The predictor's answer."""

    label: Label
    true: Label
    log_probabilities: tuple[float, float, float]
    """Of `LABELS`, normalised over the three."""

    @property
    def correct(self) -> bool:
        """Whether the answer is right."""
        return self.label == self.true

    @property
    def true_log_probability(self) -> float:
        """Log-probability of the right label, in nats."""
        return self.log_probabilities[LABELS.index(self.true)]


class Predictor:
    """Asks one language model, always in the same form.

    Args:
        lm: needs the verb score.
        adapter: LoRA adapter of the predictor; None asks the bare model.
        identity: stands for the weights in the log.
        style: raw or chat.
        prompts: of the dataset.
        at_once: cases between two writes of the log.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        adapter: str | None,
        identity: str,
        style: Style,
        prompts: ProfilePrompts,
        at_once: int = AT_ONCE,
    ) -> None:
        self._lm, self._adapter, self._identity = lm, adapter, identity
        self._style, self._prompts, self._at_once = style, prompts, at_once

    async def judge(self, cases: Sequence[Case], log: CallLog) -> list[Verdict]:
        """The answer to every case; equal cases, and those in the log, are asked once.

        Raises:
            UnsupportedError: the engine cannot score.
        """
        asked = [self._prompts.predict(c.recent, c.profile, c.target.item, style=self._style) for c in cases]
        texts = label_texts(self._style)
        keys = [call_key("predict", self._identity, prompt, texts) for prompt in asked]

        async def ask(places: Sequence[int]) -> list[list[float]]:
            together = await asyncio.gather(*(self._score(asked[place], texts) for place in places))
            return [
                await self._score(asked[place], texts) if _is_tied(scores) else scores
                for place, scores in zip(places, together, strict=True)
            ]

        answers = await answer_all(log, keys, ask, at_once=self._at_once)
        return [verdict(scores, case.target.label) for scores, case in zip(answers, cases, strict=True)]

    async def _score(self, prompt: Prompt, texts: Sequence[str]) -> list[float]:
        return await self._lm.score(prompt, texts, adapter=self._adapter)


def verdict(scores: Sequence[float], true: Label) -> Verdict:
    """The likeliest label; equal scores take the first in the order of `LABELS`.

    Args:
        scores: summed log-probabilities of `LABELS`.
        true: the label that the user gave.
    """
    values = np.asarray(scores, dtype=np.float64)
    normalised = values - np.logaddexp.reduce(values)  # (3,)
    low, middle, high = (float(value) for value in normalised)
    return Verdict(LABELS[int(values.argmax())], true, (low, middle, high))


def _is_tied(scores: Sequence[float]) -> bool:
    first, second = sorted(scores, reverse=True)[:2]
    return first - second < TIE
