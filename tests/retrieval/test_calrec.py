"""The generative recommender: prompt, draws, and the ranking of completions (methods of CALRec)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmrec.data.catalogue import Catalogue
from llmrec.data.spec import load
from llmrec.errors import ConfigError, PromptTooLong
from llmrec.lm.protocol import Completion, Sampling
from llmrec.lm.scripted import ScriptedLM
from llmrec.retrieval.calrec import CalrecConfig, CalrecRecommender, ask_about, flat_items, history_prompt


def _completion(text: str, logprob: float) -> Completion:
    return Completion(text=text, logprob=logprob, n_tokens=5, finish_reason="stop")


@pytest.fixture(scope="module")
def films() -> Catalogue:
    return load("films").catalogue


@pytest.fixture(scope="module")
def indexed(films: Catalogue) -> CalrecRecommender:
    recommender = CalrecRecommender(ScriptedLM([]))
    recommender.index_catalogue(films)
    return recommender


def _missed(recommender: CalrecRecommender, texts: Sequence[str], rows: Iterable[int]) -> list[int]:
    """Items that a completion of their own flattened text does not rank first."""
    return [row for row in rows if int(np.argmax(recommender.rank_completions([_completion(texts[row], -3.0)]))) != row]


def test_round_trip_of_every_film(films: Catalogue, indexed: CalrecRecommender) -> None:
    """A completion equal to an item's flattened text ranks that item first; no two films have one text."""
    texts = flat_items(films, range(len(films)))
    assert len(set(texts)) == len(films)
    assert _missed(indexed, texts, range(len(films))) == []


@pytest.mark.parametrize("name", ["movielens:movielens-1m", "amazon:amazon-beauty", "amazon:amazon-toys"])
def test_round_trip_on_real_catalogues(real_data: Path, name: str) -> None:
    """Of a thousand items at least 99 % of those whose text is theirs alone."""
    kind, folder = name.split(":")
    catalogue = load(f"{kind}:{real_data / folder}").catalogue
    recommender = CalrecRecommender(ScriptedLM([]))
    recommender.index_catalogue(catalogue)
    texts = flat_items(catalogue, range(len(catalogue)))
    counts = Counter(texts)
    sample = [int(row) for row in np.random.default_rng(0).permutation(len(catalogue))[:1000]]
    unique = [row for row in sample if counts[texts[row]] == 1]
    assert len(unique) > 0.98 * len(sample)
    missed = _missed(recommender, texts, unique)
    assert len(missed) <= 0.01 * len(unique), [texts[row] for row in missed]


def test_completions_open_the_list_in_order_of_likelihood(films: Catalogue, indexed: CalrecRecommender) -> None:
    rows = [10, 200, 500, 33]
    completions = [_completion(films.flat(row), logprob) for row, logprob in zip(rows, [-20, -5, -9, -2], strict=True)]
    ranked = np.argsort(-indexed.rank_completions(completions), kind="stable")
    assert ranked[:4].tolist() == [33, 200, 500, 10]


def test_no_usable_completion_scores_nothing(indexed: CalrecRecommender) -> None:
    assert np.isneginf(indexed.rank_completions([])).all()
    assert np.isneginf(indexed.rank_completions([_completion("", -1.0), _completion("zzz qqq", -2.0)])).all()


async def test_prompt_keeps_whole_newest_items(films: Catalogue) -> None:
    lm = ScriptedLM([films.flat(7)] * 3)
    recommender = CalrecRecommender(lm, adapter=None, config=CalrecConfig(history_items=2, samples=3))
    recommender.index_catalogue(films)
    scores = await recommender.score([np.array([1, 2, 3])])
    assert lm.calls[0].prompt == history_prompt([films.flat(2), films.flat(3)])
    assert scores.shape == (1, len(films))
    assert int(np.argmax(scores[0])) == 7


async def test_whole_oldest_items_are_dropped_until_the_prompt_fits(films: Catalogue) -> None:
    """As training does with rows that are too long."""

    class Narrow(ScriptedLM):
        async def generate(self, prompt: Any, **asked: Any) -> list[Completion]:
            if len(prompt) > 400:
                raise PromptTooLong(f"the prompt has {len(prompt)} characters, the model's context is 400: shorten it")
            return await super().generate(prompt, **asked)

    lm = Narrow([films.flat(7)] * 3)
    recommender = CalrecRecommender(lm, adapter=None, config=CalrecConfig(samples=3))
    recommender.index_catalogue(films)
    history = list(range(20, 30))
    (scores,) = await recommender.score([np.array(history)])
    prompts = [history_prompt([films.flat(row) for row in history[start:]]) for start in range(10)]
    assert lm.calls[0].prompt == next(prompt for prompt in prompts if len(prompt) <= 400)
    assert int(np.argmax(scores)) == 7
    with pytest.raises(PromptTooLong):
        await ask_about(["x" * 500], lambda prompt: lm.generate(prompt, sampling=Sampling(n=3)))


async def test_empty_history_ranks_nothing(indexed: CalrecRecommender) -> None:
    scores = await indexed.score([np.array([], dtype=np.int64)])
    assert np.isneginf(scores).all()


def test_empty_prompt_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least one item"):
        history_prompt([])


def test_without_a_catalogue() -> None:
    with pytest.raises(ConfigError, match="index_catalogue"):
        CalrecRecommender(ScriptedLM([])).rank_completions([])


async def test_inline_prompts_end_on_the_line_of_the_cue(films: Catalogue) -> None:
    """The form of the items before, which a model that was never trained on the prompt goes on with."""
    lm = ScriptedLM([f" {films.flat(7)}"] * 3)
    recommender = CalrecRecommender(lm, adapter=None, config=CalrecConfig(samples=3, inline=True))
    recommender.index_catalogue(films)
    scores = await recommender.score([np.array([1, 2])], users=[0], seed=0)
    assert int(scores[0].argmax()) == 7
    assert lm.calls[0].text == history_prompt([films.flat(1), films.flat(2)]).removesuffix("\n")
