"""Beam search under a prefix table: only paths of items are ever written.

All hypotheses have the same length, so the search takes as many steps as the longest path has tokens, and a step looks
at the logits of the table's children alone. Paths that end early are kept apart with their score and compete with the
others at the end. The settings say what a score is; `llmrec.semid.sampling` draws items instead of taking the best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt

from llmrec.errors import ConfigError, PromptTooLong
from llmrec.lm.branches import Layout, best_layout, read_prompts
from llmrec.semid.device_table import DeviceTable
from llmrec.semid.filters import ALL_ITEMS, FilterBatch, ItemFilter
from llmrec.semid.prefix_table import IntArray, PrefixTable
from llmrec.semid.search import Search

Prompts = Sequence[Sequence[int]]
_MAX_LOGITS = 1 << 28  # numbers in one logits tensor: 1 GiB in fp32


class BeamSettings(BaseModel):
    """How to search."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beams: PositiveInt = 20
    """Unfinished hypotheses kept at each step."""
    k: PositiveInt = 10
    """Items wanted; at most `beams`."""
    normalise: Literal["vocabulary", "allowed"] = "vocabulary"
    """A token's probability is its share of the whole vocabulary (the model's own probability of the path), or of the
    tokens that the table and the filter allow."""
    length_penalty: NonNegativeFloat = 0.0
    """Scores are log-probabilities divided by length to this power: 0 sums, 1 averages over tokens."""
    temperature: NonNegativeFloat = 0.0
    """0 takes the best. Above 0, items are drawn without replacement from the model's distribution over the allowed
    paths at this temperature (stochastic beam search: Kool et al., ICML 2019, arXiv 1903.06059)."""
    per_prefix: PositiveInt | None = None
    """Most hypotheses, and items' paths, with the same first `prefix_depth` tokens; None does not limit them."""
    prefix_depth: PositiveInt = 1
    """Tokens of that prefix."""
    max_batch_tokens: PositiveInt = 65_536
    """Most key slots of one batch (prompt tokens, and beams times depth, for each request); bounds memory."""


@dataclass(frozen=True)
class Found:
    """What one request got, best first."""

    items: IntArray
    """Item rows, shape (n,), n <= k."""
    scores: npt.NDArray[np.float64]
    """What they are ordered by, shape (n,): the log-probability after the length penalty; perturbed when drawn."""
    logprobs: npt.NDArray[np.float64]
    """Log-probability of each item's path, normalised as the settings say, at temperature 1; shape (n,)."""
    note: str = ""
    """Why there are fewer than k items; "" when there are k."""

    def required(self) -> Found:
        """Itself.

        Raises:
            ConfigError: nothing was found, for the reason in `note`.
        """
        if not len(self.items):
            raise ConfigError(f"no item was found: {self.note}; loosen the filter")
        return self


@dataclass(frozen=True)
class BeamResult:
    """What a batch of requests got."""

    found: tuple[Found, ...]
    """One for each prompt. A request whose filter leaves nothing gets no items and a note, and does not fail others."""
    layout: Layout
    """How hypotheses shared the prompt's cache (see `llmrec.lm.branches`)."""


def beam_search(
    model: Any,
    prompts: Prompts,
    table: PrefixTable | DeviceTable,
    *,
    settings: BeamSettings = BeamSettings(),  # noqa: B008 - frozen
    filters: Sequence[ItemFilter] | None = None,
    seeds: Sequence[int] | None = None,
    layout: Layout | None = None,
) -> BeamResult:
    """Find each prompt's best items.

    Args:
        model: a causal language model from transformers, in evaluation mode.
        prompts: token ids of each prompt, none empty; lengths may differ (see `unpadded`).
        table: paths of the items. Pass a `DeviceTable` where the same one is searched often on a GPU.
        settings: how to search.
        filters: what each request may get; None is everything.
        seeds: of each request, when items are drawn; a draw depends on the seed alone, never on the batch.
        layout: how to share the prompt's cache; None finds out what the model can do.

    Raises:
        ConfigError: settings, filters or prompts that cannot work.
        PromptTooLong: a prompt with its path does not fit the model's context.
    """
    on_device = table if isinstance(table, DeviceTable) else DeviceTable(table, model.device)
    filters = [ALL_ITEMS] * len(prompts) if filters is None else filters
    seeds = [0] * len(prompts) if seeds is None else seeds
    _check(model, prompts, on_device.table, settings, filters, seeds)
    found: list[Found | None] = [None] * len(prompts)
    with torch.inference_mode():
        layout = layout or best_layout(model)
        for batch in _batches(model, prompts, on_device.table, settings):
            chosen = FilterBatch(on_device.table, [filters[index] for index in batch], device=on_device.device)
            branches = read_prompts(
                model,
                [prompts[index] for index in batch],
                room=settings.beams * max(on_device.table.depth - 1, 0),
                layout=layout,
            )
            search = Search(branches, on_device, chosen, settings, [seeds[index] for index in batch])
            search.run()
            for index, one in zip(batch, _answers(search, chosen, settings), strict=True):
                found[index] = one
    return BeamResult(tuple(one for one in found if one is not None), layout)


def unpadded(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[list[int]]:
    """Prompts of a padded batch, as `beam_search` takes them; padding may be on either side.

    Args:
        input_ids: shape (n_prompts, length).
        attention_mask: 1 where a token is real, same shape.
    """
    return [ids[real].tolist() for ids, real in zip(input_ids, attention_mask.bool(), strict=True)]


def _check(
    model: Any,
    prompts: Prompts,
    table: PrefixTable,
    settings: BeamSettings,
    filters: Sequence[ItemFilter],
    seeds: Sequence[int],
) -> None:
    if settings.k > settings.beams:
        raise ConfigError(f"k items need at least k beams, got k={settings.k} and beams={settings.beams}")
    if settings.temperature and settings.length_penalty:
        raise ConfigError(
            f"drawn items have no length penalty, got temperature={settings.temperature} and "
            f"length_penalty={settings.length_penalty}; set one of them to 0"
        )
    if len(filters) != len(prompts) or len(seeds) != len(prompts):
        raise ConfigError(
            f"{len(prompts)} prompts need as many filters and seeds, got {len(filters)} filters and {len(seeds)} seeds"
        )
    if not all(map(len, prompts)):
        raise ConfigError(f"prompt {[len(prompt) for prompt in prompts].index(0)} is empty: pass at least one token")
    n_vocabulary = model.get_output_embeddings().weight.shape[0]
    if table.n_tokens > n_vocabulary:
        raise ConfigError(
            f"the table has token {table.n_tokens - 1}, the model's vocabulary {n_vocabulary}: they do not belong "
            "together; resize the model's embeddings first"
        )
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, prompts), default=0) + table.depth - 1
    if context is not None and longest > context:
        raise PromptTooLong(
            f"the longest prompt with a path has {longest} tokens, the model's context is {context}: shorten it"
        )


def _batches(model: Any, prompts: Prompts, table: PrefixTable, settings: BeamSettings) -> Iterator[list[int]]:
    """Cut prompts into batches of similar length."""
    n_vocabulary = model.get_output_embeddings().weight.shape[0]
    most = max(1, _MAX_LOGITS // (settings.beams * n_vocabulary))
    batch: list[int] = []
    for index in sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index)):
        slots = len(prompts[index]) + settings.beams * table.depth  # the longest comes last
        if batch and (len(batch) >= most or (len(batch) + 1) * slots > settings.max_batch_tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _answers(search: Search, filters: FilterBatch, settings: BeamSettings) -> list[Found]:
    """Items of the leaves that each request found; all items of a shared leaf have its score."""
    table = search.table
    score, logprob, leaf = search.finished.score, search.finished.logprob, search.finished.node
    request, place = torch.nonzero(score > -torch.inf, as_tuple=True)  # by request, best first
    node = leaf[request, place]
    lo, count = table.lo[node].long(), (table.hi[node] - table.lo[node]).long()
    line = torch.repeat_interleave(count)
    position = lo[line] + torch.arange(len(line), device=line.device) - (count.cumsum(0) - count)[line]
    kept = filters.alive(request[line], position, position + 1) > 0
    line, position = line[kept], position[kept]
    owner = request[line].cpu().numpy()
    items = table.table.items[position.cpu().numpy()].astype(np.int64)
    scores, logprobs = (part[request[line], place[line]].cpu().numpy() for part in (score, logprob))
    bounds = np.searchsorted(owner, np.arange(len(score) + 1))
    found = []
    for number in range(len(score)):
        own = slice(bounds[number], min(bounds[number] + settings.k, bounds[number + 1]))
        note = _note(len(items[own]), int(filters.left[number]), settings)
        found.append(Found(items[own], scores[own], logprobs[own], note))
    return found


def _note(n_found: int, left: int, settings: BeamSettings) -> str:
    if n_found == settings.k:
        return ""
    if left == 0:
        return "the filter leaves no item"
    if n_found == left:
        return f"only {left} items are left, fewer than k={settings.k}"
    return f"the search ended with {n_found} items; raise beams={settings.beams} or per_prefix={settings.per_prefix}"
