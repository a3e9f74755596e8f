"""The three losses of CALRec: values by hand, what they look at, and what they do not."""

from __future__ import annotations

from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from llmrec.training.calrec.contrastive import Objective, Vectors, info_nce, mean_state, next_item_loss
from llmrec.training.calrec.data import CalrecCollator, Row
from llmrec.training.calrec.towers import run_towers
from llmrec.training.examples import IGNORED
from tests.training.tiny import PAD, VOCABULARY, row, rows, tiny_model

FULL = Objective(alpha=0.125, beta=0.025, temperature=0.5)


def _vectors(model: Any, batch: dict[str, Any]) -> Vectors:
    with torch.no_grad():
        found = run_towers(model, batch, next_item=False).vectors
    assert found is not None
    return found


def _all(vectors: Vectors) -> Tensor:
    return torch.stack(vectors[:3])


# ---- next-item generation


def test_golden_the_loss_rewards_the_next_token_not_the_current_one() -> None:
    """Logits of 30 at the token that comes next: nothing is left to learn; at the token that is read: 30 nats each."""
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    labels = torch.tensor([[IGNORED, IGNORED, 7, 8, 9]])
    current = 30.0 * one_hot(ids, VOCABULARY).float()
    following = torch.cat([current[:, 1:], current[:, :1]], dim=1)
    assert float(next_item_loss(following, labels)) == pytest.approx(0, abs=1e-6)
    assert float(next_item_loss(current, labels)) == pytest.approx(30, abs=1e-4)


def test_golden_examples_count_alike_whatever_their_length() -> None:
    """Uniform logits cost ln 60 for every token; sure and wrong ones 100. One token of the first, three of the second.

    Mean over examples: (ln 60 + 100) / 2, not the mean over the four tokens.
    """
    logits = torch.zeros(2, 4, VOCABULARY)
    logits[1, :, 3] = 100.0
    labels = torch.tensor([[IGNORED, IGNORED, IGNORED, 9], [IGNORED, 9, 9, 9]])
    assert float(next_item_loss(logits, labels)) == pytest.approx((log(VOCABULARY) + 100) / 2, rel=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_history_carries_no_next_item_loss(side: Any) -> None:
    """Labels stand on target and end token alone, and what the model says before them does not count."""
    given = rows(5)
    batch = CalrecCollator(PAD, side=side)(given)
    learnt = [[int(token) for token in line if token != IGNORED] for line in batch["labels"]]
    assert learnt == [one.input_ids[one.n_prompt :] for one in given]
    model = tiny_model()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.detach()
    loss = next_item_loss(logits, batch["labels"])
    unlearnt = batch["labels"][:, 1:] == IGNORED
    noisy = logits.clone()
    noisy[:, :-1][unlearnt] = torch.randn_like(noisy[:, :-1][unlearnt])
    assert torch.equal(next_item_loss(noisy, batch["labels"]), loss)
    learnt_too = batch["labels"].clone()
    learnt_too[0, -2 - len(given[0].target_ids) if side == "left" else given[0].n_prompt - 1] = 5
    assert not torch.equal(next_item_loss(logits, learnt_too), loss)


def test_logits_of_the_history_are_left_out_without_a_difference() -> None:
    model, given = tiny_model(), rows(6)
    for side in ("left", "right"):
        batch = CalrecCollator(PAD, side=side)(given)
        loss = run_towers(model, batch, vectors=False).next_item
        assert loss is not None
        alone = [
            model(input_ids=torch.tensor([one.input_ids]), labels=torch.tensor([_labels(one)])).loss for one in given
        ]
        assert loss.item() == pytest.approx(torch.stack(alone).mean().item(), abs=1e-6)


def _labels(one: Row) -> list[int]:
    return [IGNORED] * one.n_prompt + one.input_ids[one.n_prompt :]


# ---- pooling


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_moves_no_vector(side: Any) -> None:
    """Fifty padding tokens more on either side: all three vectors within 1e-5."""
    model, given = tiny_model(), rows(4)
    bare = _all(_vectors(model, CalrecCollator(PAD, side=side)(given)))
    longest = max(given, key=lambda one: len(one.input_ids))
    filler = row([2] * (len(longest.input_ids) + 50), [3] * 55)
    padded = _all(_vectors(model, CalrecCollator(PAD, side=side)([*given, filler])))[:, :4]
    assert float((bare - padded).abs().max()) < 1e-5
    assert not bool(padded.isnan().any())


def test_vectors_are_means_over_their_own_tokens() -> None:
    """Against states of one row at a time; the end token belongs to no vector."""
    model, given = tiny_model(), rows(3)
    found = _vectors(model, CalrecCollator(PAD)(given))
    for index, one in enumerate(given):
        joint = model.get_decoder()(input_ids=torch.tensor([one.input_ids])).last_hidden_state[0]
        alone = model.get_decoder()(input_ids=torch.tensor([one.target_ids])).last_hidden_state[0]
        assert torch.allclose(found.user[index], joint[: one.n_prompt].mean(dim=0), atol=1e-5)
        assert torch.allclose(found.target_of_user[index], joint[one.n_prompt : -1].mean(dim=0), atol=1e-5)
        assert torch.allclose(found.target[index], alone.mean(dim=0), atol=1e-5)


def test_begin_tokens_are_read_and_not_pooled() -> None:
    model = tiny_model()
    begun = Row([7, 20, 21, 22, 30, 31, 1], n_begin=1, n_prompt=4, n_items=1, key=1)
    found = _vectors(model, CalrecCollator(PAD)([begun]))
    joint = model.get_decoder()(input_ids=torch.tensor([begun.input_ids])).last_hidden_state[0]
    alone = model.get_decoder()(input_ids=torch.tensor([[7, 30, 31]])).last_hidden_state[0]
    assert torch.allclose(found.user[0], joint[1:4].mean(dim=0), atol=1e-5)
    assert torch.allclose(found.target[0], alone[1:].mean(dim=0), atol=1e-5)


def test_causality() -> None:
    """Another target: the user's vector stays. Another history: the target behind it moves, alone it does not."""
    model, collate = tiny_model(), CalrecCollator(PAD, side="right")
    base, other_target, other_history = (
        _vectors(model, collate([one]))
        for one in (row([10, 11, 12], [20, 21]), row([10, 11, 12], [25, 26]), row([15, 16, 17], [20, 21]))
    )
    assert torch.equal(base.user, other_target.user)
    assert not torch.allclose(base.target, other_target.target, atol=1e-3)
    assert not torch.allclose(base.target_of_user, other_history.target_of_user, atol=1e-3)
    assert torch.equal(base.target, other_history.target)


def test_masked_states_may_hold_anything() -> None:
    states = torch.tensor([[[1.0], [3.0], [float("nan")]]])
    assert mean_state(states, torch.tensor([[True, True, False]])).tolist() == [[2.0]]


# ---- InfoNCE


def test_golden_info_nce_of_one_pair_is_zero() -> None:
    assert float(info_nce(torch.randn(1, 4), torch.randn(1, 4), temperature=0.5)) == pytest.approx(0, abs=1e-7)


def test_golden_info_nce_of_equal_vectors_is_the_logarithm_of_their_number() -> None:
    same = torch.ones(7, 4)
    assert float(info_nce(same, same, temperature=0.5)) == pytest.approx(log(7), rel=1e-6)


@pytest.mark.parametrize("axis", ["users", "targets"])
def test_golden_info_nce_of_orthonormal_pairs(axis: Any) -> None:
    """512 matched pairs, temperature .5: ln(1 + 511 e^-2) = 4.2507; the length of vectors does not count."""
    basis = torch.eye(512)
    found = float(info_nce(3 * basis, basis, temperature=0.5, axis=axis))
    assert found == pytest.approx(log(1 + 511 * exp(-2)), rel=1e-5)
    assert found == pytest.approx(4.2507, abs=5e-5)


def test_golden_info_nce_runs_over_the_axis_that_is_named() -> None:
    """Two users in one direction, two orthogonal targets; cosines [[1, 0], [1, 0]], temperature 1.

    Over users: each target sees two equal users, ln 2. Over targets: user 1 has its own at 1 and the other at 0,
    ln(1 + e^-1); user 2 the reverse, ln(1 + e).
    """
    users, targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2)
    over_users = float(info_nce(users, targets, temperature=1.0, axis="users"))
    over_targets = float(info_nce(users, targets, temperature=1.0, axis="targets"))
    assert over_users == pytest.approx(log(2), rel=1e-6)
    assert over_targets == pytest.approx((log(1 + exp(-1)) + log(1 + exp(1))) / 2, rel=1e-6)


def test_golden_equal_targets_are_no_negatives_where_masked() -> None:
    """Three orthonormal pairs, two with one key: their rows lose one negative, the third keeps two."""
    basis, keys = torch.eye(3), torch.tensor([4, 4, 9])
    expected = (2 * log(1 + exp(-2)) + log(1 + 2 * exp(-2))) / 3
    assert float(info_nce(basis, basis, temperature=0.5, keys=keys)) == pytest.approx(expected, rel=1e-6)
    unmasked = float(info_nce(basis, basis, temperature=0.5))
    assert unmasked == pytest.approx(log(1 + 2 * exp(-2)), rel=1e-6)


def test_all_targets_equal_and_masked_is_nothing_to_learn() -> None:
    vectors = torch.randn(4, 3)
    assert float(info_nce(vectors, vectors, temperature=0.5, keys=torch.zeros(4))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("weights", [(0.4, 0.0), (0.0, 0.4), (0.2, 0.2)])
def test_a_step_draws_users_to_their_targets(weights: tuple[float, float]) -> None:
    """A negative weight would push them apart. What a term does not weigh it need not raise."""
    objective = Objective(*weights, temperature=0.5)
    draws = torch.Generator().manual_seed(0)
    user, behind, target = (torch.randn(6, 8, generator=draws, requires_grad=True) for _ in range(3))
    vectors = Vectors(user, behind, target, torch.arange(6))
    losses = objective.combine(torch.zeros(()), objective.terms(vectors))
    losses.total.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for anchor, weight in ((behind, weights[0]), (user, weights[1])):
            if weight:
                assert anchor.grad is not None
                assert target.grad is not None
                before = cosine_similarity(anchor, target).mean()
                after = cosine_similarity(anchor - 0.5 * anchor.grad, target - 0.5 * target.grad).mean()
                assert float(after) > float(before)


def test_golden_weights_of_the_combined_loss() -> None:
    """Orthonormal pairs of 4: both terms are c = ln(1 + 3 e^-2); total .85 * 2 + .125 c + .025 c."""
    basis = torch.eye(4)
    losses = FULL.combine(torch.tensor(2.0), FULL.terms(Vectors(basis, basis, basis, torch.arange(4))))
    c = log(1 + 3 * exp(-2))
    assert float(losses.total) == pytest.approx(0.85 * 2 + 0.15 * c, rel=1e-6)
    assert {name: float(value) for name, value in losses.numbers().items()} == pytest.approx(
        {"next_item": 2.0, "target_target": c, "user_target": c}
    )


def test_terms_without_weight_are_not_computed() -> None:
    broken = Vectors(*(torch.full((2, 3), float("nan")) for _ in range(3)), keys=torch.arange(2))  # type: ignore[misc]
    plain = Objective(0.0, 0.0, 0.5)
    assert not plain.contrasts
    assert plain.terms(broken) == (None, None)
    loss = torch.tensor(1.5)
    assert plain.combine(loss).total is loss


def test_half_precision_does_not_round_the_cosines() -> None:
    """Mean-pooled states are close to each other: bf16 would round their cosines in steps of 1/256."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1, 32, generator=generator)
    users, targets = (common + 0.1 * torch.randn(8, 32, generator=generator) for _ in range(2))

    def found(half: bool) -> tuple[Tensor, Tensor]:
        leaf = users.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = info_nce(leaf, targets, temperature=0.5)
        loss.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return loss.detach(), leaf.grad

    for exact, half in zip(found(False), found(True), strict=True):
        assert torch.equal(exact, half)
