"""The steps of a beam search: expand, choose, grow (see `llmrec.semid.beam`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from llmrec.lm.branches import Branches
from llmrec.semid.device_table import DeviceTable
from llmrec.semid.filters import FilterBatch
from llmrec.semid.prefix_table import ROOT
from llmrec.semid.sampling import gumbel_given_maximum, node_gumbels
from llmrec.semid.segments import fill, log_shares, padded_order, rank_in_group

if TYPE_CHECKING:
    from llmrec.semid.beam import BeamSettings

_DEAD = -torch.inf


class Hypotheses(NamedTuple):
    """Hypotheses of each request, best first; unused places have score -inf. All of shape (n_requests, width)."""

    score: torch.Tensor
    """What they compete by, float64."""
    logprob: torch.Tensor
    """Log-probability as the settings normalise it, float64."""
    drawn: torch.Tensor
    """Log-probability in the distribution that items are drawn from, float64 (equals `logprob` when none are)."""
    node: torch.Tensor
    group: torch.Tensor
    """Node of the prefix that `per_prefix` counts; the own one where the path is shorter."""


class _Candidates(NamedTuple):
    """Continuations of all hypotheses, those of a request together. All of shape (n_candidates,)."""

    row: torch.Tensor
    """Row of the batch."""
    beam: torch.Tensor
    """Number of the hypothesis that is continued, among those of its row."""
    token: torch.Tensor
    values: Hypotheses

    def where(self, chosen: torch.Tensor) -> _Candidates:
        """Those of a boolean mask."""
        values = Hypotheses(*(part[chosen] for part in self.values))
        return _Candidates(self.row[chosen], self.beam[chosen], self.token[chosen], values)


class Search:
    """One batch.

    Args:
        branches: the prompts, read.
        table: paths.
        filters: of each prompt.
        settings: how to search.
        seeds: of each prompt's draws.
    """

    def __init__(
        self,
        branches: Branches,
        table: DeviceTable,
        filters: FilterBatch,
        settings: BeamSettings,
        seeds: Sequence[int],
    ) -> None:
        self.table = table
        self._branches, self._filters, self._settings = branches, filters, settings
        self._seeds = torch.tensor(list(seeds), dtype=torch.long)
        n_prompts, device = len(seeds), table.device
        self._request = torch.arange(n_prompts, device=device)  # row of the batch that still runs -> request
        none = torch.full((n_prompts, settings.k), _DEAD, dtype=torch.float64, device=device)
        nowhere = torch.full((n_prompts, settings.k), ROOT, device=device)
        self.finished = Hypotheses(none, none.clone(), none.clone(), nowhere, nowhere.clone())
        """Best complete paths of all requests."""
        zero = torch.zeros(n_prompts, 1, dtype=torch.float64, device=device)
        root = torch.full((n_prompts, 1), ROOT, device=device)
        self._live = Hypotheses(zero, zero, zero, root, root)

    def run(self) -> None:
        """Search until no unfinished hypothesis can enter the list of any request."""
        logits = self._branches.first_logits[:, None, :]  # (rows, hypotheses, vocabulary)
        for depth in range(1, self.table.table.depth + 1):
            candidates = self._expand(logits, depth)
            leaf = self.table.is_leaf(candidates.values.node)
            self._finish(candidates.where(leaf), depth)
            parent, token = self._survive(candidates.where(~leaf))
            rows = self._running()
            if not len(rows):
                return
            logits = self._branches.grow(parent[rows], token[rows])

    def _expand(self, logits: torch.Tensor, depth: int) -> _Candidates:
        """All continuations that the table and the filters allow."""
        live, width, settings = self._live, self._live.score.shape[1], self._settings
        alive = torch.nonzero(live.score.flatten() > _DEAD).squeeze(1)  # flat numbers of hypotheses
        owner, token, node = self.table.children(live.node.flatten()[alive])
        flat = alive[owner]
        row = flat.div(width, rounding_mode="floor")
        if not self._filters.is_open:
            left = self._filters.alive(self._request[row], self.table.lo[node], self.table.hi[node]) > 0
            flat, row, token, node = flat[left], row[left], token[left], node[left]
        raw, n_flat = logits.flatten(0, 1)[flat, token].double(), live.score.numel()
        if settings.normalise == "vocabulary":
            edge = raw - logits.logsumexp(dim=2).flatten()[flat].double()
        else:
            edge = log_shares(raw, flat, n_flat)
        logprob = live.logprob.flatten()[flat] + edge
        score = drawn = logprob
        if settings.temperature:
            drawn = live.drawn.flatten()[flat] + log_shares(raw / settings.temperature, flat, n_flat)
            noise = node_gumbels(self._seeds[self._request[row].cpu()], node.cpu()).to(node.device)
            score = gumbel_given_maximum(drawn + noise, live.score.flatten()[flat], flat, n_flat)
        group = live.group.flatten()[flat] if depth > settings.prefix_depth else node
        return _Candidates(row, flat - row * width, token, Hypotheses(score, logprob, drawn, node, group))

    def _finish(self, complete: _Candidates, depth: int) -> None:
        """Enter complete paths into the lists."""
        if not len(complete.row):
            return
        values = complete.values
        if self._settings.length_penalty:
            values = values._replace(score=values.score / depth**self._settings.length_penalty)
        order = padded_order(complete.row, len(self._request))
        both = [
            torch.cat([old[self._request], fill(new, order, _DEAD if new.is_floating_point() else ROOT)], dim=1)
            for old, new in zip(self.finished, values, strict=True)
        ]
        score, places = self._best(both[0], both[4], self._settings.k)
        self.finished.score[self._request] = score
        for kept, part in zip(self.finished[1:], both[1:], strict=True):
            kept[self._request] = part.gather(1, places)

    def _survive(self, unfinished: _Candidates) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose the hypotheses that go on; returns their parents and last tokens, shape (rows, width)."""
        values = unfinished.values
        order = padded_order(unfinished.row, len(self._request))
        score, places = self._best(fill(values.score, order, _DEAD), fill(values.group, order, ROOT), None)
        width = max(int((score > _DEAD).sum(dim=1).max()), 1)
        score, chosen = score[:, :width], order.gather(1, places[:, :width])
        chosen = torch.where(score > _DEAD, chosen, -1)
        parts = [fill(part, chosen, 0) for part in (*values[1:], unfinished.beam, unfinished.token)]
        self._live = Hypotheses(score, *parts[:4])
        return parts[4], parts[5]

    def _best(self, score: torch.Tensor, group: torch.Tensor, n: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and places of the n best of each row (`beams` by default), within the limit for each prefix."""
        if self._settings.per_prefix is not None:
            score = score.masked_fill(rank_in_group(score, group) >= self._settings.per_prefix, _DEAD)
        return score.topk(min(n or self._settings.beams, score.shape[1]), dim=1)

    def _running(self) -> torch.Tensor:
        """Rows that go on, shape (n_left,): those with a hypothesis that may still enter the list of their request."""
        best = self._live.score[:, 0]
        if self._settings.length_penalty:  # log-probabilities are negative: a longer path divides by more
            best = best / self.table.table.depth**self._settings.length_penalty
        worst_listed = self.finished.score[self._request, -1]  # -inf while the list has room
        running = best > worst_listed
        n_running, n_rows = int(running.sum()), len(running)
        if n_running > 2 * n_rows // 3:  # copying the rest of the cache pays once a third of the rows is free
            self._live.score[~running] = _DEAD
            return torch.arange(n_rows, device=running.device)
        rows = torch.nonzero(running).squeeze(1)
        if n_running:
            self._branches.keep(rows)
            self._live = Hypotheses(*(part[rows] for part in self._live))
            self._request = self._request[rows]
        return rows
