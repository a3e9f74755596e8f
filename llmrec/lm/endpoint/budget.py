"""Counting what an endpoint is used for, and refusing calls that its budget does not allow."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmrec.errors import BudgetError
from llmrec.lm.endpoint.settings import BudgetSettings

_FIRST_TOKENS_PER_BYTE = 0.4  # English is near 0.25; corrected upwards by what the server counts
_LONG_BYTES = 400  # in shorter prompts most tokens may be the chat template's: they tell an offset and no rate


@dataclass(frozen=True)
class Usage:
    """A running count.

    A call whose usage the server did not tell (given up, cancelled, failed there) counts with what it may have used at
    most, a stream that was left with its prompt and the pieces seen. A call that the server refused counts as a request
    without tokens.
    """

    requests: int = 0
    input_tokens: int = 0
    """Prompt tokens, those cached by the server included."""
    cached_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    """In the currency of the prices; 0 without prices."""
    retries: int = 0

    @property
    def tokens(self) -> int:
        """Read and written."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class Reservation:
    """What a call under way may cost at most."""

    prompt: float
    """Tokens of the prompt, known or estimated."""
    max_tokens: int
    """Most new tokens."""
    cost: float
    n_bytes: int

    @property
    def tokens(self) -> float:
        """Read and written."""
        return self.prompt + self.max_tokens


class Meter:
    """Counts usage and holds a budget, for calls from any thread.

    Before a call its output limit and an estimate of its prompt are set aside; a call that would pass a limit together
    with those under way is refused. So new tokens never exceed the budget; prompts may, by the error of the estimate
    for the calls under way.
    """

    def __init__(self, settings: BudgetSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._usage = Usage()
        self._held_tokens = self._held_cost = 0.0
        self._tokens_per_byte, self._overhead = _FIRST_TOKENS_PER_BYTE, 0.0

    @property
    def usage(self) -> Usage:
        """The count so far."""
        with self._lock:
            return self._usage

    def reserve(self, *, n_bytes: int, n_tokens: int, max_tokens: int) -> Reservation:
        """Set aside what a call may use.

        Args:
            n_bytes: size of a prompt whose tokens are not known.
            n_tokens: tokens of one whose tokens are known.
            max_tokens: most new tokens.

        Raises:
            BudgetError: the budget does not allow it.
        """
        with self._lock:
            prompt = n_tokens + (self._overhead + n_bytes * self._tokens_per_byte if n_bytes else 0.0)
            held = Reservation(prompt, max_tokens, self._cost(prompt, 0, max_tokens), n_bytes)
            self._check(held)
            self._held_tokens += held.tokens
            self._held_cost += held.cost
            return held

    def settle(
        self, held: Reservation, usage: Mapping[str, Any] | None, *, retries: int, written: int | None = None
    ) -> None:
        """Count a call that reached the model in place of its reservation.

        Args:
            held: what was set aside.
            usage: as the server reports it (OpenAI form); None where it did not, so that the call counts as its
                reservation.
            retries: how often it was made again.
            written: new tokens that were seen, for a call without usage that cannot have made many more.
        """
        if usage is None:
            new = held.max_tokens if written is None else min(written, held.max_tokens)
            self._count(held, (math.ceil(held.prompt), 0, new), retries)
        else:
            self._count(held, counts(usage), retries)
            self._learn(held.n_bytes, counts(usage)[0])

    def release(self, held: Reservation, *, retries: int) -> None:
        """Count a call that never reached the model: a request without tokens."""
        self._count(held, (0, 0, 0), retries)

    def _count(self, held: Reservation, used: tuple[int, int, int], retries: int) -> None:
        read, cached, written = used
        with self._lock:
            self._held_tokens -= held.tokens
            self._held_cost -= held.cost
            before = self._usage
            self._usage = Usage(
                requests=before.requests + 1,
                input_tokens=before.input_tokens + read,
                cached_tokens=before.cached_tokens + cached,
                output_tokens=before.output_tokens + written,
                cost=before.cost + self._cost(read, cached, written),
                retries=before.retries + retries,
            )

    def _learn(self, n_bytes: int, read: int) -> None:
        with self._lock:
            if n_bytes >= _LONG_BYTES:
                self._tokens_per_byte = min(1.0, max(self._tokens_per_byte, read / n_bytes))
            elif n_bytes:
                self._overhead = max(self._overhead, read - n_bytes * self._tokens_per_byte)

    def _cost(self, read: float, cached: float, written: float) -> float:
        price_read = self._settings.price_per_million_input or 0.0
        price_cached = self._settings.price_per_million_cached
        price_written = self._settings.price_per_million_output or 0.0
        fresh = price_read * (read - cached) + (price_read if price_cached is None else price_cached) * cached
        return (fresh + price_written * written) / 1e6

    def _check(self, held: Reservation) -> None:
        limits = self._settings
        tokens = self._usage.tokens + self._held_tokens + held.tokens
        if limits.max_tokens is not None and tokens > limits.max_tokens:
            raise BudgetError(
                f"the budget of {limits.max_tokens} tokens does not allow this call: {self._usage.tokens} are used and "
                f"{tokens - self._usage.tokens:.0f} more could be; raise budget.max_tokens of the endpoint to go on"
            )
        cost = self._usage.cost + self._held_cost + held.cost
        if limits.max_cost is not None and cost > limits.max_cost:
            raise BudgetError(
                f"the budget of {limits.max_cost:g} does not allow this call: {self._usage.cost:.4f} is spent and "
                f"{cost - self._usage.cost:.4f} more could be; raise budget.max_cost of the endpoint to go on"
            )


def counts(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    """(prompt tokens, cached ones among them, new tokens) of a usage object in OpenAI form; 0 for what is no number."""
    details = usage.get("prompt_tokens_details")
    cached = _number(details.get("cached_tokens")) if isinstance(details, Mapping) else 0
    read = _number(usage.get("prompt_tokens"))
    return read, min(cached, read), _number(usage.get("completion_tokens"))


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < math.inf else 0
