"""The output layer in fp32 under a backbone in half precision.

A logit between 16 and 32 in bf16 is a multiple of 1/8, so log-odds of two tokens, such as yes and no, would be too: a
decision that hangs on less is lost, and ties abound. States stay in half precision; their products with the output
layer are summed and kept in fp32. That costs a copy of the layer in fp32, and as many bytes more to read at each step.

An adapter with token rows beside the weights (a backbone too large for merged copies) computes its logits itself, in
half precision as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class ExactHead(torch.nn.Linear):
    """A linear layer for inference that computes in fp32 whatever its weight's number type.

    Keeps a copy of its weight in fp32, and one more of each tensor that is put in its place, as merged adapters with
    token rows are. A tensor that is written into would not be noticed.
    """

    _copies: list[tuple[Tensor, Tensor]]

    def forward(self, states: Tensor) -> Tensor:
        """Logits in fp32, shape (..., vocabulary)."""
        bias = None if self.bias is None else self.bias.float()
        return functional.linear(states.float(), self._exact(), bias)

    def _exact(self) -> Tensor:
        for original, exact in self._copies:
            if original.data_ptr() == self.weight.data_ptr():  # the original is held, so its memory is nobody else's
                return exact
        self._copies.append((self.weight.detach(), self.weight.detach().float()))
        return self._copies[-1][1]


def with_exact_head(model: Any) -> Any:
    """Let a model in half precision on a CPU compute its logits in fp32.

    Left as they are: models in fp32, those on a GPU, where the copy would be gigabytes and memory is scarce, and those
    whose output layer is no plain linear layer.
    """
    if model.device.type != "cpu" or model.dtype == torch.float32:
        return model
    head = model.get_output_embeddings()
    if type(head) is torch.nn.Linear:
        head.__class__ = ExactHead
        vars(head)["_copies"] = []
    return model
