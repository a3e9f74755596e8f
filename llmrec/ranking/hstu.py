"""The block of hierarchical sequential transduction units: gated attention without a softmax.

``U, V, Q, K = split(SiLU(W LN(x)))``, ``A = SiLU(Q K^T + b) / N`` under a causal mask, ``y = x + W_o(LN(A V) * U)``.
N is the longest sequence the network takes, not the length of the one at hand: the sum over a history, unlike its mean,
tells how much there was.

Source: Zhai et al., Actions speak louder than words (ICML 2024, arXiv 2402.17152). Of its two relative biases only the
one of positions is here, as histories need not have times.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmrec.ranking.sequences import Batch, Group


class HstuBlock(nn.Module):
    """One block.

    Args:
        width: of the states.
        heads: of the attention; divides the width.
        max_length: longest sequence, the N above.
        dropout: of the gated output.
    """

    def __init__(self, *, width: int, heads: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.max_length = heads, max_length
        self.norm = nn.LayerNorm(width)
        self.uvqk = nn.Linear(width, 4 * width, bias=False)
        self.norm_attended = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.position_bias = nn.Parameter(torch.zeros(max_length))  # by distance to the past

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """States (n_tokens, width) to states of the same shape."""
        mixed = functional.silu(self.uvqk(self.norm(x)))  # (n_tokens, 4 * width)
        u, vqk = mixed[:, : x.shape[1]], mixed[:, x.shape[1] :]
        attended = torch.cat([self._attend(vqk, group) for group in batch.groups])  # (n_tokens, width)
        result: Tensor = x + self.out(self.dropout(self.norm_attended(attended) * u))
        return result

    def _attend(self, vqk: Tensor, group: Group) -> Tensor:
        """Attention inside one group, shape (real positions, width)."""
        sequences, longest = group.index.shape
        split = vqk.index_select(0, group.index.flatten()).view(sequences, longest, 3, self.heads, -1)
        v, q, k = split.permute(2, 0, 3, 1, 4)  # each (sequences, heads, longest, width / heads)
        steps = torch.arange(longest, device=vqk.device)
        distance = steps[:, None] - steps[None, :]
        bias = self.position_bias[distance.clamp(min=0)]  # (longest, longest)
        weights = functional.silu(q @ k.transpose(-1, -2) + bias) / self.max_length
        mixed: Tensor = weights.masked_fill(distance < 0, 0.0) @ v
        padded = mixed.transpose(1, 2).reshape(sequences, longest, -1)
        return padded.flatten(0, 1) if group.real is None else padded[group.real]
