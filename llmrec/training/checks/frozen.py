"""A digest of weights that must not move: the backbone under an adapter, or a reference model.

before = frozen_digest(model)                       # everything that no adapter owns
reference = frozen_digest(model, "reference")       # or one adapter
...
check_frozen(model, reference, "reference")         # ModelError if it moved
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from llmrec.errors import ConfigError, ModelError

ADAPTER_MARKS = ("lora_", "trainable_tokens_", "modules_to_save")
"""Pieces of the names of weights that peft adds."""
_WHOLE = 1 << 20  # larger tensors are hashed by a sample: a 7B model takes seconds
_SAMPLE = 1 << 16


def is_adapter_weight(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return any(mark in name for mark in ADAPTER_MARKS)


def frozen_digest(model: Any, adapter: str | None = None) -> str:
    """16 hex digits over weights, cheap enough to take before and after a training.

    Of a tensor with more than a million numbers an even sample of 65,536 is read.

    Args:
        model: a torch module, with or without peft adapters.
        adapter: name of a peft adapter; None is everything that belongs to no adapter.

    Raises:
        ConfigError: the model has no such weights.
    """
    digest, found = hashlib.sha256(), False
    for name, weight in _weights(model, adapter):
        found = True
        digest.update(f"{name}\x1f{tuple(weight.shape)}\x1f".encode())
        digest.update(_bytes(weight))
    if not found:
        raise ConfigError(f"the model has no weights of adapter {adapter!r}; its digest says nothing")
    return digest.hexdigest()[:16]


def check_frozen(model: Any, before: str, adapter: str | None = None) -> None:
    """Refuse to go on where weights are not what `frozen_digest` saw.

    Raises:
        ModelError: they moved.
    """
    if (now := frozen_digest(model, adapter)) != before:
        what = "the backbone" if adapter is None else f"the adapter {adapter!r}"
        raise ModelError(
            f"{what} was to stay fixed and moved (digest {before}, now {now}); freeze it (requires_grad_(False)), keep "
            "it out of the optimiser, and start the training anew"
        )


def _weights(model: Any, adapter: str | None) -> Iterator[tuple[str, Any]]:
    for name, weight in sorted(model.named_parameters(), key=lambda pair: str(pair[0])):
        own = is_adapter_weight(name) and adapter in name.split(".")
        if own if adapter is not None else not is_adapter_weight(name):
            yield name, weight


def _bytes(weight: Any) -> bytes:
    import torch

    flat = weight.detach().reshape(-1)
    if flat.numel() > _WHOLE:
        flat = flat[:: flat.numel() // _SAMPLE]
    data: bytes = flat.contiguous().cpu().view(torch.uint8).numpy().tobytes()
    return data
