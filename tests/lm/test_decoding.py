"""The pick of a token and the uniform numbers behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.lm.decoding import StopTexts, inverse_cdf, uniforms


def test_golden_inverse_cdf() -> None:
    """Probabilities .1, .2, 0, .7 give the cumulative distribution .1, .3, .3, 1.

    So 0 and .09 fall to token 0, .11 and .29 to token 1, .31 and .999 to token 3; token 2 is never picked.
    """
    logits = torch.tensor([0.1, 0.2, 0.0, 0.7]).log().repeat(6, 1)
    picked = inverse_cdf(logits, torch.tensor([0.0, 0.09, 0.11, 0.29, 0.31, 0.999]))
    assert picked.tolist() == [0, 0, 1, 1, 3, 3]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 1e-9, 0.5, 1 - 1e-9, 1.0]), st.integers(1, 500))
def test_a_forbidden_token_is_never_picked(seed: int, uniform: float, n_allowed: int) -> None:
    """Also where rounding lifts the uniform number to 1 in float32."""
    draw = np.random.default_rng(seed)
    logits = torch.full((1, 500), float("-inf"))
    allowed = draw.choice(500, size=n_allowed, replace=False)
    logits[0, allowed] = torch.from_numpy(draw.normal(0, 20, n_allowed)).float()
    (picked,) = inverse_cdf(logits, torch.tensor([uniform]))
    assert int(picked) in set(allowed.tolist())


def test_frequencies_follow_the_distribution() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    uniform = np.array([uniforms(3, sample, 1)[0] for sample in range(4000)])
    logits = torch.from_numpy(np.log(probabilities)).float().repeat(4000, 1)
    counts = np.bincount(inverse_cdf(logits, torch.from_numpy(uniform).float()).numpy(), minlength=4)
    spread = np.sqrt(probabilities * (1 - probabilities) / 4000)
    assert (np.abs(counts / 4000 - probabilities) < 4 * spread).all()


def test_golden_uniforms_do_not_depend_on_the_length() -> None:
    """Fixed once by this implementation: a change of seeding would silently change every sample."""
    assert uniforms(0, 0, 2).tolist() == uniforms(0, 0, 9)[:2].tolist()
    assert uniforms(0, 0, 1)[0] == pytest.approx(0.19353831338738103, abs=1e-15)
    assert uniforms(0, 1, 1)[0] != uniforms(0, 0, 1)[0] != uniforms(1, 0, 1)[0]


def test_a_stop_text_over_several_tokens_is_found() -> None:
    texts = ["a", "\n", "b\n", "é"]
    finder = StopTexts(lambda tokens: "".join(texts[token] for token in tokens), lambda: texts)
    assert finder.can_end("\n\n").tolist() == [False, True, True, False]
    assert finder.can_end("é").all()  # bytes of one character may be split over tokens
    assert finder.found([0, 2, 1], ("\n\n",))
    assert not finder.found([0, 2, 0, 1], ("\n\n",))
