"""What CALRec reads: histories with their next item, from one data set or from several.

Each row is a prompt and its target, tokenised as serving tokenises them, so that the ids before the target are those
that inference sees. Whole oldest items are dropped until a row fits. Source: Li et al., CALRec (RecSys 2024, arXiv
2405.02429), sections on data and on the two stages; what is not established there is a setting of `CalrecRecipe`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from llmrec.data.splits import drop_consecutive_duplicates, leave_one_out
from llmrec.errors import DataError
from llmrec.retrieval.base import FloatArray, IntArray
from llmrec.retrieval.calrec import flat_items, history_prompt
from llmrec.seeding import rng
from llmrec.training.examples import IGNORED

if TYPE_CHECKING:
    from llmrec.data.dataset import Dataset
    from llmrec.data.splits import Split
    from llmrec.lm.codec import TokenCodec

Targets = Literal["any", "last"]
PaddingSide = Literal["left", "right"]


@dataclass(frozen=True)
class Domain:
    """One data set, or one category of a shop, with its leave-one-out split."""

    dataset: Dataset
    split: Split

    @classmethod
    def of(cls, dataset: Dataset) -> Domain:
        """The domain of a data set: repeats of an item right behind itself are dropped, then the last two items."""
        return cls(dataset, leave_one_out(drop_consecutive_duplicates(dataset.interactions)))

    @cached_property
    def flat(self) -> list[str]:
        """Flattened text of every item, rendered as data."""
        return flat_items(self.dataset.catalogue, range(len(self.dataset.catalogue)))

    @cached_property
    def training_users(self) -> IntArray:
        """Users with at least two training events."""
        return np.flatnonzero(self.split.train.lengths() >= 2).astype(np.int64)


class Row(NamedTuple):
    """One example in tokens: begin tokens, history with all cues, target, end token."""

    input_ids: list[int]
    n_begin: int
    """Begin tokens, which carry no meaning and are not pooled."""
    n_prompt: int
    """Begin and history tokens, cues included."""
    n_items: int
    """Items of the history."""
    key: int
    """Equal for equal target texts."""

    @property
    def target_ids(self) -> list[int]:
        """Tokens of the target's flattened text."""
        return self.input_ids[self.n_prompt : -1]


class Form(NamedTuple):
    """How rows are cut."""

    codec: TokenCodec
    history_items: int
    """Longest history in items."""
    max_tokens: int
    """Longest row in tokens."""


class Drawn(NamedTuple):
    """Rows of a data set or of several."""

    rows: list[Row]
    n_longer: int
    """Examples left out because they do not fit even with one item of history."""
    n_shortened: int = 0
    """Rows that lost oldest items to `max_tokens`."""


def domain_shares(n_users: Sequence[int], *, exponent: float) -> FloatArray:
    """Probability of each domain: its number of users to the power of `exponent`, scaled to sum to 1.

    Below 1 small domains are drawn more often than their size (CALRec, stage I: 0.3, as summaries report).

    Raises:
        DataError: no domains, or one without users.
    """
    counts = np.asarray(n_users, dtype=np.float64)
    if len(counts) == 0 or counts.min() < 1:
        raise DataError(f"every domain needs a user with two training events, got counts {list(n_users)!r}")
    weights = counts**exponent
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def training_rows(
    domains: Sequence[Domain], n: int, form: Form, *, exponent: float, targets: Targets, seed: int
) -> Drawn:
    """Rows for training, of training events alone.

    A domain is drawn for each example; inside a domain every user comes once before one comes again.

    Args:
        domains: to draw from.
        n: examples to draw; those that do not fit are left out of them.
        form: of the rows.
        exponent: of `domain_shares`.
        targets: "last", the last training event of a user; "any", a random one but the first.
        seed: of all draws.

    Raises:
        DataError: a domain has no user with two training events, or no row fits.
    """
    shares = domain_shares([len(domain.training_users) for domain in domains], exponent=exponent)
    drawn = rng(seed, "calrec", "domains").choice(len(domains), size=n, p=shares)
    streams = [
        _events(domain, targets, rng(seed, "calrec", "events", place, domain.dataset.name))
        for place, domain in enumerate(domains)
    ]
    rows: list[Row] = []
    n_shortened = 0
    for place in drawn:
        history, target = next(streams[int(place)])
        row = make_row(domains[int(place)], history, target, form)
        if row is not None:
            rows.append(row)
            n_shortened += row.n_items < min(len(history), form.history_items)
    _require(rows, form)
    return Drawn(rows, n - len(rows), n_shortened)


def validation_rows(domains: Sequence[Domain], n: int, form: Form, *, seed: int) -> Drawn:
    """Rows whose targets are validation targets, of about `n` users, the same number from every domain."""
    rows: list[Row] = []
    asked = 0
    for place, domain in enumerate(domains):
        for user, target in sampled_targets(domain, -(-n // len(domains)), seed=seed, key=f"loss {place}"):
            asked += 1
            row = make_row(domain, domain.split.history(user, "validation"), target, form)
            if row is not None:
                rows.append(row)
    _require(rows, form)
    return Drawn(rows, asked - len(rows))


def sampled_targets(domain: Domain, n: int, *, seed: int, key: str) -> list[tuple[int, int]]:
    """At most `n` users with their validation targets, drawn without replacement, by user number."""
    users, targets = domain.split.targets("validation")
    chosen = np.sort(rng(seed, "calrec", "validation", key).permutation(len(users))[:n])
    return [(int(users[place]), int(targets[place])) for place in chosen]


def make_row(domain: Domain, history: Sequence[int] | IntArray, target: int, form: Form) -> Row | None:
    """A row, with whole oldest items dropped until it fits; None where one item of history is still too long."""
    codec = form.codec
    target_ids = codec.encode(domain.flat[target])
    n_begin = len(codec.prompt("a")) - len(codec.encode("a"))
    items = [domain.flat[int(item)] for item in history[-form.history_items :]]
    for first in range(len(items)):
        prompt_ids = codec.prompt(history_prompt(items[first:]))  # as the engine reads the prompt when it serves
        if len(prompt_ids) + len(target_ids) + 1 <= form.max_tokens:
            ids = [*prompt_ids, *target_ids, int(codec.tokenizer.eos_token_id)]
            return Row(ids, n_begin, len(prompt_ids), len(items) - first, text_key(domain.flat[target]))
    return None


def text_key(text: str) -> int:
    """63 bits of a text's hash."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def supervised_tokens(rows: Sequence[Row]) -> int:
    """Number of tokens that carry loss: targets with their end tokens."""
    return sum(len(row.input_ids) - row.n_prompt for row in rows)


class CalrecCollator:
    """Pads rows to tensors for `llmrec.training.calrec.towers.run_towers`.

    Args:
        pad: token behind or before the others.
        side: "left" keeps targets together at the end, so that logits are computed for few places.
    """

    def __init__(self, pad: int, *, side: PaddingSide = "left") -> None:
        self.pad, self.side = pad, side

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Tensors of shape (n, length): ids, mask, labels, and where history and target stand; the same of targets."""
        import torch

        joint = [row.input_ids for row in rows]
        towers = [row.input_ids[: row.n_begin] + row.target_ids for row in rows]
        ends = [len(ids) for ids in joint]
        spans: dict[str, list[tuple[int, int]]] = {
            "attention_mask": [(0, end) for end in ends],
            "history_mask": [(row.n_begin, row.n_prompt) for row in rows],
            "target_mask": [(row.n_prompt, end - 1) for row, end in zip(rows, ends, strict=True)],
        }
        batch = {name: self._marked(parts, ends) for name, parts in spans.items()}
        batch["input_ids"] = self._padded(joint, self.pad)
        batch["labels"] = self._padded(
            [[IGNORED] * row.n_prompt + row.input_ids[row.n_prompt :] for row in rows], IGNORED
        )
        batch["attention_mask"] = batch["attention_mask"].long()
        lengths = [len(ids) for ids in towers]
        batch["tower_ids"] = self._padded(towers, self.pad)
        batch["tower_attention"] = self._marked([(0, length) for length in lengths], lengths).long()
        batch["tower_mask"] = self._marked(
            [(row.n_begin, length) for row, length in zip(rows, lengths, strict=True)], lengths
        )
        batch["target_keys"] = torch.tensor([row.key for row in rows])
        return batch

    def plain(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The joint sequences alone, padded on the right, as a causal language model takes them."""
        batch = CalrecCollator(self.pad, side="right")(rows)
        return {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}

    def _padded(self, sequences: Sequence[Sequence[int]], filler: int) -> Any:
        import torch

        length = max(map(len, sequences))
        filled = np.full((len(sequences), length), filler, dtype=np.int64)
        for row, values in enumerate(sequences):
            start = length - len(values) if self.side == "left" else 0
            filled[row, start : start + len(values)] = values
        return torch.from_numpy(filled)

    def _marked(self, spans: Sequence[tuple[int, int]], lengths: Sequence[int]) -> Any:
        """True from the first to before the second place of each span, which count without padding."""
        flags = [[start <= place < end for place in range(n)] for (start, end), n in zip(spans, lengths, strict=True)]
        return self._padded([[int(flag) for flag in row] for row in flags], 0).bool()


def _events(domain: Domain, targets: Targets, draws: np.random.Generator) -> Iterator[tuple[IntArray, int]]:
    """Histories and targets of training events, user after user in a new order every time, without end."""
    while True:
        for user in draws.permutation(domain.training_users):
            events = domain.split.train.history(int(user))
            last = len(events) - 1
            place = last if targets == "last" else int(draws.integers(1, last + 1))
            yield events[:place], int(events[place])


def _require(rows: Sequence[Row], form: Form) -> None:
    if not rows:
        raise DataError(
            f"no example fits into max_tokens={form.max_tokens}, even with one item of history; raise it, or flatten "
            "fewer attributes"
        )
