"""GradCache gives the gradients of the large batch, with the same dropout in both passes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from llmrec.errors import ConfigError
from llmrec.training.calrec.contrastive import Losses, Objective, Vectors
from llmrec.training.calrec.data import CalrecCollator
from llmrec.training.calrec.gradcache import RandomState, accumulate, split_rows
from llmrec.training.calrec.towers import Batch, Passed, run_towers
from tests.training.tiny import PAD, rows, tiny_model

OBJECTIVE = Objective(alpha=0.3, beta=0.2, temperature=0.5)


def _gradients(model: Any) -> dict[str, Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def _large(model: Any, batch: Batch, objective: Objective) -> Losses:
    passed = run_towers(model, batch)
    assert passed.next_item is not None
    assert passed.vectors is not None
    losses = objective.combine(passed.next_item, objective.terms(passed.vectors))
    losses.total.backward()  # type: ignore[no-untyped-call]
    return losses


def _cached(model: Any, batch: Batch, objective: Objective, size: int, **options: Any) -> Losses:
    def run(chunk: Batch, next_item: bool) -> Passed:
        return run_towers(model, chunk, next_item=next_item)

    return accumulate(split_rows(batch, size), run=run, objective=objective, backward=_backward, **options)


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize(
    "objective", [OBJECTIVE, Objective(0.3, 0.0, 0.5, "targets"), Objective(0.0, 0.3, 0.5, mask_duplicates=True)]
)
def test_gradients_equal_those_of_the_large_batch(side: Any, size: int, objective: Objective) -> None:
    """Eight rows in chunks of 1, 3 (uneven) and 8: every gradient within 1e-5, and so the losses."""
    model = tiny_model()
    batch = CalrecCollator(PAD, side=side)(rows(8))
    expected = _large(model, batch, objective)
    large = _gradients(model)
    found = _cached(model, batch, objective, size)
    cached = _gradients(model)
    assert float(found.total) == pytest.approx(expected.total.item(), abs=1e-5)
    assert found.numbers().keys() == expected.numbers().keys()
    for name, value in expected.numbers().items():
        assert float(found.numbers()[name]) == pytest.approx(float(value), abs=1e-5)
    assert large.keys() == cached.keys()
    assert max(float(large[name].abs().max()) for name in large) > 0.01
    for name in large:
        assert float((large[name] - cached[name]).abs().max()) < 1e-5, name


def test_ordinary_accumulation_would_not_equal_it() -> None:
    """Chunks that know only their own rows have other negatives: the difference that GradCache is for."""
    model = tiny_model()
    batch = CalrecCollator(PAD)(rows(8))
    _large(model, batch, OBJECTIVE)
    large = _gradients(model)
    for chunk in split_rows(batch, 2):
        passed = run_towers(model, chunk)
        assert passed.next_item is not None
        assert passed.vectors is not None
        _backward(OBJECTIVE.combine(passed.next_item, OBJECTIVE.terms(passed.vectors)).total / 4)
    small = _gradients(model)
    assert max(float((large[name] - small[name]).abs().max()) for name in large) > 1e-3


def test_both_passes_draw_the_same_dropout() -> None:
    """With dropout the large batch is another draw; so the reference is one graph over the same chunks."""
    model = tiny_model(attention_dropout=0.4)
    model.train()
    model.config._attn_implementation = "eager"
    batch = CalrecCollator(PAD)(rows(6))
    chunks = split_rows(batch, 2)
    torch.manual_seed(7)
    with torch.no_grad():  # what the first pass draws
        drawn = [_pooled(run_towers(model, chunk, next_item=False)) for chunk in chunks]
    torch.manual_seed(7)
    passes = [run_towers(model, chunk) for chunk in chunks]
    vectors = Vectors(*(torch.cat(parts) for parts in zip(*(_pooled(one) for one in passes), strict=True)))
    assert torch.equal(vectors.user, torch.cat([one.user for one in drawn]))
    loss = torch.stack([one.next_item for one in passes if one.next_item is not None]).mean()
    _backward(OBJECTIVE.combine(loss, OBJECTIVE.terms(vectors)).total)
    expected = _gradients(model)
    torch.manual_seed(7)
    _cached(model, batch, OBJECTIVE, 2)
    found = _gradients(model)
    assert max(float((expected[name] - found[name]).abs().max()) for name in expected) < 1e-5
    torch.manual_seed(8)
    _cached(model, batch, OBJECTIVE, 2)
    other = _gradients(model)
    assert max(float((expected[name] - other[name]).abs().max()) for name in expected) > 1e-3


def _pooled(passed: Passed) -> Vectors:
    assert passed.vectors is not None
    return passed.vectors


def test_replaying_leaves_the_generator_where_it_was() -> None:
    torch.manual_seed(3)
    state = RandomState.now()
    first, second = torch.rand(2), torch.rand(2)
    with state.replayed():
        assert torch.equal(torch.rand(2), first)
    torch.manual_seed(3)
    torch.rand(4)
    with state.replayed():
        torch.rand(1)
    assert not torch.equal(torch.rand(2), second)


def test_only_the_last_chunk_exchanges_gradients() -> None:
    """All chunks but the last run their backward pass inside the context that holds back the exchange."""
    seen: list[str] = []

    @contextmanager
    def held() -> Any:
        seen.append("held")
        yield

    model = tiny_model()

    def backward(loss: Tensor) -> None:
        seen.append("backward")
        _backward(loss)

    def run(chunk: Batch, next_item: bool) -> Passed:
        return run_towers(model, chunk, next_item=next_item)

    batch = CalrecCollator(PAD)(rows(6))
    accumulate(split_rows(batch, 2), run=run, objective=OBJECTIVE, backward=backward, unsynced=held)
    assert seen == ["held", "backward", "held", "backward", "backward"]


def test_chunks_lose_columns_of_padding_alone() -> None:
    batch = CalrecCollator(PAD)(rows(8))
    chunks = split_rows(batch, 3)
    assert [len(chunk["input_ids"]) for chunk in chunks] == [3, 3, 2]
    for chunk in chunks:
        assert bool(chunk["attention_mask"].any(dim=0).all())
        assert bool(chunk["tower_attention"].any(dim=0).all())
    kept = torch.cat([chunk["input_ids"][chunk["attention_mask"].bool()] for chunk in chunks])
    assert torch.equal(kept, batch["input_ids"][batch["attention_mask"].bool()])


def test_without_contrastive_terms_it_is_not_for() -> None:
    with pytest.raises(ConfigError, match="no contrastive term"):
        _cached(tiny_model(), CalrecCollator(PAD)(rows(2)), Objective(0.0, 0.0, 0.5), 1)
