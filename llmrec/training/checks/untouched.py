"""Leaves a model as it was: gradients, modes and every random generator."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Whatever is tried inside, afterwards gradients, train or eval modes and random generators are those before.

    Weights are not copied: who changes some puts them back. Gradients inside begin as None.
    """
    import torch

    modes = {name: module.training for name, module in model.named_modules()}
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    state, numpy_state = random.getstate(), np.random.get_state()  # saved for libraries, never drawn from
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        for weight in model.parameters():
            weight.grad = None
        try:
            yield
        finally:
            for name, weight in model.named_parameters():
                weight.grad = gradients[name]
            for name, module in model.named_modules():
                module.training = modes[name]
            random.setstate(state)
            np.random.set_state(numpy_state)
