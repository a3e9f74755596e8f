"""A causal transformer over items: learned positions, normalisation before each part, one tied item table.

Sources: Kang & McAuley, Self-attentive sequential recommendation (ICDM 2018, arXiv 1808.09781), and the block of
`llmrec.ranking.hstu`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmrec.ranking.hstu import HstuBlock
from llmrec.ranking.sequences import Batch, Group

Block = Literal["sasrec", "hstu"]
_INIT_STD = 0.02


class SasrecBlock(nn.Module):
    """Causal self-attention and a feed-forward part, each behind a normalisation and beside a shortcut."""

    def __init__(self, *, width: int, heads: int, dropout: float, attention_dropout: float, expansion: int) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, attention_dropout
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_forward = nn.LayerNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """States (n_tokens, width) to states of the same shape."""
        qkv = self.qkv(self.norm_attention(x))
        attended = torch.cat([self._attend(qkv, group) for group in batch.groups])  # (n_tokens, width)
        x = x + self.dropout(self.out(attended))
        hidden = self.dropout(functional.gelu(self.up(self.norm_forward(x))))
        result: Tensor = x + self.dropout(self.down(hidden))
        return result

    def _attend(self, qkv: Tensor, group: Group) -> Tensor:
        """Attention inside one group, shape (real positions, width)."""
        sequences, longest = group.index.shape
        split = qkv.index_select(0, group.index.flatten()).view(sequences, longest, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each (sequences, heads, longest, width / heads)
        dropout = self.attention_dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        padded = mixed.transpose(1, 2).reshape(sequences, longest, -1)
        return padded.flatten(0, 1) if group.real is None else padded[group.real]


class SequenceNetwork(nn.Module):
    """Reads item rows, gives at each position a state whose product with an item's vector scores that item as the next.

    Args:
        n_items: size of the catalogue.
        width: of states and item vectors.
        layers: number of blocks.
        heads: of the attention; divides the width.
        max_length: longest sequence.
        dropout: of inputs and of the parts of a block.
        attention_dropout: of attention weights ("sasrec" only).
        expansion: width of the feed-forward part over the width of the states ("sasrec" only).
        block: which block.
        temperature: None scores by plain products; a number by cosines divided by it.
        item_vectors: fixed vectors of the items, shape (n_items, d); an item's vector is then its own plus a learned
            projection of these.
    """

    item_vectors: Tensor | None

    def __init__(
        self,
        *,
        n_items: int,
        width: int,
        layers: int,
        heads: int,
        max_length: int,
        dropout: float,
        attention_dropout: float = 0.0,
        expansion: int = 4,
        block: Block = "sasrec",
        temperature: float | None = None,
        item_vectors: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.n_items, self.max_length, self.temperature = n_items, max_length, temperature
        self.items = nn.Embedding(n_items, width)
        self.positions = nn.Embedding(max_length, width)
        self.mask = nn.Parameter(torch.zeros(width))
        self.register_buffer("item_vectors", item_vectors)
        self.project = None if item_vectors is None else nn.Linear(item_vectors.shape[1], width, bias=False)
        self.blocks = nn.ModuleList(
            HstuBlock(width=width, heads=heads, max_length=max_length, dropout=dropout)
            if block == "hstu"
            else SasrecBlock(
                width=width, heads=heads, dropout=dropout, attention_dropout=attention_dropout, expansion=expansion
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.scale = math.sqrt(width)
        self.apply(_initialise)

    def item_matrix(self) -> Tensor:
        """Vector of every item, shape (n_items, width), as histories are read with."""
        own = self.items.weight
        return own if self.project is None else own + self.project(self.item_vectors)

    def scoring_matrix(self, matrix: Tensor) -> Tensor:
        """The item vectors that states are multiplied with, shape (n_items, width)."""
        return matrix if self.temperature is None else functional.normalize(matrix, dim=1)

    def forward(self, batch: Batch, matrix: Tensor) -> Tensor:
        """States at all positions, shape (n_tokens, width).

        Args:
            batch: packed sequences.
            matrix: result of `item_matrix`, computed once for reading and scoring.
        """
        masked = (batch.items == self.n_items)[:, None]
        read = functional.embedding(batch.items.clamp(max=self.n_items - 1), matrix)
        x = torch.where(masked, self.mask.to(read.dtype), read) * self.scale + self.positions(batch.positions)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, batch)
        x = self.norm(x)
        return x if self.temperature is None else functional.normalize(x, dim=1) / self.temperature

    def last_states(self, batch: Batch, matrix: Tensor) -> Tensor:
        """State behind the last item of each sequence, shape (n_sequences, width), in the order they were given."""
        states = self.forward(batch, matrix)[batch.last]
        given = torch.empty_like(states)
        given[torch.from_numpy(batch.order).to(states.device)] = states
        return given


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=_INIT_STD, a=-2 * _INIT_STD, b=2 * _INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
