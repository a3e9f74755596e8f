"""The chunked softmax equals torch's, the sampled one estimates it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from llmrec.ranking import softmax
from llmrec.ranking.softmax import full_softmax_loss, sampled_softmax_loss


def problem(n: int = 50, n_items: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(n, 8, generator=draw, dtype=torch.float64).requires_grad_()
    items = torch.randn(n_items, 8, generator=draw, dtype=torch.float64).requires_grad_()
    return states, items, torch.randint(0, n_items, (n,), generator=draw)


def test_loss_and_gradients_equal_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "_CHUNK_BYTES", {"cpu": 17 * 4 * 30})  # 17 rows a piece: the last one is short
    states, items, targets = problem()
    expected = functional.cross_entropy(states @ items.T, targets)
    wanted = torch.autograd.grad(3 * expected, [states, items])
    loss = full_softmax_loss(states, items, targets)
    found = torch.autograd.grad(3 * loss, [states, items])
    assert torch.allclose(loss, expected, atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, wanted, strict=True))


def test_large_logits_do_not_overflow() -> None:
    states, items, targets = (value.detach() for value in problem())
    loss = full_softmax_loss(1e3 * states.float(), items.float(), targets)
    assert torch.allclose(loss, functional.cross_entropy(1e3 * states.float() @ items.float().T, targets), rtol=1e-4)


def test_golden_loss_of_equal_logits_is_the_log_of_the_catalogue() -> None:
    loss = full_softmax_loss(torch.zeros(4, 2), torch.ones(100, 2), torch.arange(4))
    assert float(loss) == pytest.approx(np.log(100), abs=1e-6)


def test_a_sample_of_all_items_equals_the_full_softmax() -> None:
    states, items, targets = problem()
    sampled = sampled_softmax_loss(states, items, targets, sample=torch.arange(30), log_expected=torch.zeros(30))
    full = full_softmax_loss(states, items, targets)
    assert torch.allclose(sampled, full, atol=1e-12)
    wanted, found = (torch.autograd.grad(loss, [states, items]) for loss in (full, sampled))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, wanted, strict=True))


def test_the_estimated_sum_is_unbiased() -> None:
    """exp(loss) * exp(own logit) is the estimated sum; over many samples from a skewed proposal its mean is the sum."""
    states, items, _ = (value.detach() for value in problem(n=1))
    target = torch.tensor([4])
    draw = np.random.default_rng(0)
    share = np.arange(1, 31) / np.arange(1, 31).sum()
    own = float(states[0] @ items[4])
    sums = []
    for _ in range(4000):
        sample = draw.choice(30, size=10, p=share)
        expected = torch.from_numpy(np.log(10 * share[sample]))
        loss = sampled_softmax_loss(states, items, target, sample=torch.from_numpy(sample), log_expected=expected)
        sums.append(np.exp(float(loss) + own))
    exact = float((states @ items.T).exp().sum())
    assert abs(np.mean(sums) - exact) < 4 * np.std(sums) / len(sums) ** 0.5
    assert np.std(sums) / len(sums) ** 0.5 < 0.1 * exact  # the bound above means something
