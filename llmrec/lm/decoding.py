"""The batched decode loop: sampling by inverse CDF, grammars, stop texts and early stopping.

Each sample has its own uniform numbers, drawn before the loop from (seed, sample index). Token t of a sample is the
inverse CDF of the model's distribution at uniform t. So a draw never depends on which other samples share the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from llmrec.errors import ModelError
from llmrec.lm.rows import IntArray, Rows
from llmrec.seeding import rng

FloatArray = npt.NDArray[np.float64]

_UNKNOWN = -1  # successor of a token whose next token is still to be drawn


class Grammar(Protocol):
    """State of one sample in its grammar."""

    def forced(self) -> list[int]:
        """Tokens that the grammar forces next (the state moves past them); empty when there is a choice."""
        ...

    def fill(self, allowed: torch.Tensor) -> None:
        """Write the allowed next tokens into a bitmask, shape (vocabulary / 32,), int32."""
        ...

    def accept(self, token: int) -> None:
        """Move past a chosen token."""
        ...

    @property
    def finished(self) -> bool:
        """Whether nothing may follow."""
        ...


@dataclass(frozen=True)
class Request:
    """One prompt to continue."""

    prompt: Sequence[int]
    """Token ids."""
    n: int
    max_tokens: int
    temperature: float
    seed: int
    stop: tuple[str, ...] = ()
    grammars: tuple[Grammar, ...] = ()
    """One for each sample, or none."""


class _Feed(NamedTuple):
    """Tokens for one forward pass, each of shape (n_tokens,)."""

    sample: IntArray
    token: IntArray
    position: IntArray
    successor: IntArray
    """The token that follows, where it was forced; else _UNKNOWN."""


@dataclass
class Draw:
    """One sample so far."""

    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finish_reason: Literal["stop", "length"] | None = None
    error: Exception | None = None


class StopTexts:
    """Finds stop texts in growing token sequences.

    Args:
        decode: token ids to text.
        texts_of_tokens: text of every token of the vocabulary (computed once by the caller, when first needed).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], texts_of_tokens: Callable[[], Sequence[str]]) -> None:
        self._decode = decode
        self._texts = texts_of_tokens
        self._enders: dict[str, npt.NDArray[np.bool_]] = {}

    def can_end(self, stop: str) -> npt.NDArray[np.bool_]:
        """Tokens that can complete this stop text, shape (vocabulary,): only after these is the sample decoded."""
        last = stop[-1]
        if last not in self._enders:
            # A character outside ASCII may be split over tokens, so any token may complete it.
            self._enders[last] = np.array([not last.isascii() or last in text for text in self._texts()])
        return self._enders[last]

    def found(self, tokens: Sequence[int], stops: tuple[str, ...]) -> bool:
        """Whether a stop text stands near the end of these tokens."""
        tail = max(map(len, stops)) * 4 + 8  # a character takes at most four byte tokens
        text = self._decode(tokens[-tail:])
        return any(stop in text for stop in stops)


def inverse_cdf(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Token whose interval of the cumulative distribution holds the uniform number; one vectorised pick.

    Args:
        logits: shape (n, vocabulary); -inf for forbidden tokens.
        uniform: numbers in [0, 1), shape (n,).

    Returns:
        Token ids, shape (n,). A token of probability zero is never picked. The last one where the logits are no
        numbers, so that a pick is always a token.
    """
    cdf = torch.softmax(logits, dim=-1).cumsum(dim=-1)  # (n, vocabulary)
    total = cdf[:, -1]
    below = torch.nextafter(total, torch.zeros_like(total))  # u * total may round up to total
    threshold = torch.minimum(uniform * total, below)
    return torch.searchsorted(cdf, threshold[:, None], right=True).squeeze(1).clamp_(max=logits.shape[1] - 1)


class Decoder:
    """Decodes one batch of requests.

    Args:
        requests: the batch; samples are numbered request by request.
        rows: their prompts, already read.
        end_tokens: token ids that end a sample, shape (n_end,).
        stop_texts: finder of stop texts.
        who: the model, for messages.
    """

    def __init__(
        self, requests: Sequence[Request], rows: Rows, *, end_tokens: IntArray, stop_texts: StopTexts, who: str
    ) -> None:
        self._rows, self._stop_texts, self._who = rows, stop_texts, who
        self._requests = requests
        self._row_of = np.repeat(np.arange(len(requests)), [request.n for request in requests])
        self.draws = [Draw() for _ in self._row_of]
        n_vocabulary = rows.first_logits.shape[1]
        self._ends = np.zeros(n_vocabulary, dtype=np.bool_)
        self._ends[end_tokens] = True
        spread = [(request, index) for request in requests for index in range(request.n)]
        self._limit = np.array([request.max_tokens for request, _ in spread])
        self._temperature = np.array([request.temperature for request, _ in spread])
        self._prompt_length = np.array([len(request.prompt) for request, _ in spread])
        self._stops = [request.stop for request, _ in spread]
        self._may_stop = self._stop_tables()
        self._grammars = [request.grammars[index] if request.grammars else None for request, index in spread]
        self._uniform = np.zeros((len(spread), int(self._limit.max())))
        for sample, (request, index) in enumerate(spread):
            if request.temperature > 0:
                self._uniform[sample, : request.max_tokens] = uniforms(request.seed, index, request.max_tokens)
        self._length = np.zeros(len(spread), dtype=np.int64)
        self._logprob = np.zeros(len(spread))

    def _stop_tables(self) -> dict[tuple[str, ...], npt.NDArray[np.bool_]]:
        tables = {}
        for stops in {stops for stops in self._stops if stops}:
            tables[stops] = np.logical_or.reduce([self._stop_texts.can_end(stop) for stop in stops])
        return tables

    def steps(self) -> Iterator[None]:
        """Run the loop; yields after every step. Results are in `draws`."""
        active = np.arange(len(self.draws))
        logits = self._rows.first_logits[torch.from_numpy(self._row_of).to(self._rows.first_logits.device)]
        while True:
            feed = self._to_feed(active, self._choose(active, logits))
            if len(feed.sample):
                self._rows.keep(np.unique(feed.sample))
                fed = self._rows.feed(feed.sample, feed.token, feed.position)
                self._add_forced_logprobs(feed, fed)
            yield
            following = np.flatnonzero(feed.successor == _UNKNOWN)
            if not len(following):
                break
            active = feed.sample[following]
            logits = fed if len(following) == len(fed) else fed[torch.from_numpy(following).to(fed.device)]
        for index, draw in enumerate(self.draws):
            draw.logprob = float(self._logprob[index])
            if np.isnan(draw.logprob) and draw.error is None:  # among forced tokens: no step looks at these
                self._give_up(draw)

    def _choose(self, active: IntArray, logits: torch.Tensor) -> list[list[int]]:
        """Next tokens of each active sample: one drawn token, or forced ones."""
        raw = logits
        forced: list[list[int]] = [[] for _ in active]
        with_grammar = [place for place, sample in enumerate(active) if self._grammars[sample] is not None]
        if with_grammar:
            logits = logits.clone()
            forced = self._constrain(active, with_grammar, logits)
        drawn = self._draw(active, logits)
        chunks = []
        for place, sample in enumerate(active.tolist()):
            chunks.append(self._extend(sample, int(drawn[place]), forced[place]))
        first = torch.tensor([chunk[0] if chunk else 0 for chunk in chunks], device=raw.device)
        gain = logprobs(raw, first)
        self._logprob[active] += gain * np.array([bool(chunk) for chunk in chunks])
        for place in np.flatnonzero(np.isnan(gain)).tolist():
            self._give_up(self.draws[active[place]])
            chunks[place] = []
        return chunks

    def _give_up(self, draw: Draw) -> None:
        """End a sample whose probabilities are no numbers."""
        draw.error, draw.finish_reason = _no_numbers(self._who), "stop"

    def _constrain(self, active: IntArray, places: Sequence[int], logits: torch.Tensor) -> list[list[int]]:
        """Mask forbidden tokens of the constrained samples in place; returns what is forced anyway."""
        forced: list[list[int]] = [[] for _ in active]
        n_vocabulary = logits.shape[1]
        bits = torch.full((len(places), (n_vocabulary + 31) // 32), -1, dtype=torch.int32)
        for line, place in enumerate(places):
            sample = int(active[place])
            grammar = self._grammars[sample]
            assert grammar is not None
            try:
                forced[place] = grammar.forced()
                if not forced[place]:
                    grammar.fill(bits[line])
            except ModelError as error:
                self.draws[sample].error = error
        shifts = torch.arange(32, dtype=torch.int32)
        allowed = ((bits[:, :, None] >> shifts) & 1).flatten(1)[:, :n_vocabulary].bool()  # (constrained, vocabulary)
        where = torch.tensor(places, device=logits.device)
        logits[where] = logits[where].masked_fill(~allowed.to(logits.device), float("-inf"))
        return forced

    def _draw(self, active: IntArray, logits: torch.Tensor) -> IntArray:
        temperature = self._temperature[active]
        greedy = temperature == 0
        picked = np.zeros(len(active), dtype=np.int64)
        if greedy.any():
            chosen = logits if greedy.all() else logits[torch.from_numpy(greedy).to(logits.device)]
            picked[greedy] = chosen.argmax(dim=-1).cpu().numpy()
        if not greedy.all():
            warm = ~greedy
            chosen = logits if warm.all() else logits[torch.from_numpy(warm).to(logits.device)]
            if (temperature[warm] != 1).any():
                chosen = chosen / torch.from_numpy(temperature[warm]).to(chosen)[:, None]
            uniform = self._uniform[active[warm], self._length[active[warm]]]
            picked[warm] = inverse_cdf(chosen, torch.from_numpy(uniform).to(chosen)).cpu().numpy()
        return picked

    def _extend(self, sample: int, drawn: int, forced: list[int]) -> list[int]:
        """Append to one sample and see whether it is finished. Returns the tokens that were appended."""
        draw, grammar = self.draws[sample], self._grammars[sample]
        if draw.error is not None:
            draw.finish_reason = "stop"
            return []
        room = int(self._limit[sample]) - len(draw.tokens)
        chunk = forced or [drawn]
        if grammar is not None and not forced:
            try:
                grammar.accept(drawn)
                if not grammar.finished:
                    chunk = [drawn, *grammar.forced()]
            except ModelError as error:
                draw.error, draw.finish_reason = error, "stop"
                return []
        cut = len(chunk) > room
        chunk = chunk[:room]
        draw.tokens += chunk
        self._length[sample] = len(draw.tokens)
        if (
            self._ends[chunk[-1]]
            or (grammar is not None and grammar.finished and not cut)
            or (self._stops[sample] and self._stopped(sample, chunk))
        ):
            draw.finish_reason = "stop"
        elif len(draw.tokens) >= self._limit[sample]:
            draw.finish_reason = "length"
        return chunk

    def _stopped(self, sample: int, chunk: Sequence[int]) -> bool:
        stops = self._stops[sample]
        if not self._may_stop[stops][chunk].any():
            return False
        return self._stop_texts.found(self.draws[sample].tokens, stops)

    def _to_feed(self, active: IntArray, chunks: Sequence[Sequence[int]]) -> _Feed:
        """Flat tokens for the next forward pass. The last token of a finished sample predicts nothing and stays out."""
        lines: list[tuple[int, int, int, int]] = []
        for sample, chunk in zip(active.tolist(), chunks, strict=True):
            start = int(self._prompt_length[sample]) + len(self.draws[sample].tokens) - len(chunk)
            for place, (token, successor) in enumerate(pairwise(chunk)):
                lines.append((sample, token, start + place, successor))
            if self.draws[sample].finish_reason is None:
                lines.append((sample, chunk[-1], start + len(chunk) - 1, _UNKNOWN))
        return _Feed(*np.array(lines, dtype=np.int64).reshape(-1, 4).T)

    def _add_forced_logprobs(self, feed: _Feed, logits: torch.Tensor) -> None:
        """Forced tokens were never drawn but count: each is predicted by the token before it."""
        known = np.flatnonzero(feed.successor != _UNKNOWN)
        if len(known):
            successor = torch.from_numpy(feed.successor[known]).to(logits.device)
            gain = logprobs(logits[torch.from_numpy(known).to(logits.device)], successor)
            np.add.at(self._logprob, feed.sample[known], gain)


def uniforms(seed: int, sample: int, count: int) -> FloatArray:
    """The uniform numbers of one sample: a function of the call's seed and the sample's index alone."""
    return rng(seed, "sample", sample).random(count)


def logprobs(logits: torch.Tensor, token: torch.Tensor) -> FloatArray:
    """Log-probability of one token in each row, shape (n,); NaN for a row whose logits are no numbers."""
    total = logits.logsumexp(dim=1)  # infinite where a logit is, which leaves no probabilities either
    chosen = logits.gather(1, token[:, None]).squeeze(1) - total.masked_fill(total == float("inf"), float("nan"))
    return chosen.double().cpu().numpy()


def _no_numbers(who: str) -> ModelError:
    """The error of a model whose logits are NaN or infinite.

    Args:
        who: the model and its adapter.
    """
    return ModelError(
        f"{who} gives NaN or infinity in place of probabilities: its weights are damaged, or its training ran away; "
        "train it again with a lower learning_rate (llmrec models check DIR tries a backbone and each of its adapters)"
    )
