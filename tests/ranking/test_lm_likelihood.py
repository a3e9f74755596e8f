"""The likelihood ranker on a tiny random language model: equal to direct scoring, whoever stands first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from llmrec.benchmark.protocol import evaluate
from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split, leave_one_out
from llmrec.errors import ConfigError, ServerDownError, UnsupportedError
from llmrec.lm.local import LocalLM
from llmrec.lm.scripted import ScriptedLM
from llmrec.ranking.lm_likelihood import LmLikelihoodConfig, LmLikelihoodRecommender, title_text
from llmrec.retrieval.base import FloatArray, IntArray
from llmrec.retrieval.calrec import history_prompt
from llmrec.retrieval.popularity import PopularityRecommender
from tests.lm.conftest import make_model, make_tokenizer
from tests.ranking.synthetic import dataset_of
from tests.retrieval.conftest import FILMS, catalogue_of

HISTORIES = [[0, 1, 4, 9], [2, 3, 6, 7], [5, 13, 15], [0, 2, 4, 6, 8], [1, 3, 5]]


class Fixed:
    """A first stage with given scores."""

    name = "fixed"

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = np.array(scores, dtype=np.float64)
        self.fits = 0

    def fit(self, dataset: Dataset, split: Split) -> None:
        self.fits += 1

    async def score(
        self, histories: Sequence[IntArray], *, users: Sequence[int] | None = None, seed: int = 0
    ) -> FloatArray:
        return np.tile(self.scores, (len(histories), 1))


@pytest.fixture(scope="module")
def data() -> Dataset:
    made = dataset_of(HISTORIES, len(FILMS))
    return Dataset(name="made", spec="made", catalogue=catalogue_of(FILMS), interactions=made.interactions)


@pytest.fixture(scope="module")
def split(data: Dataset) -> Split:
    return leave_one_out(data.interactions)


def tiny(**changes: Any) -> LocalLM:
    tokenizer = make_tokenizer()
    return LocalLM(make_model(tokenizer, **changes), tokenizer, name="tiny")


@pytest.fixture(scope="module")
def lm() -> LocalLM:
    return tiny(max_position_embeddings=2048)


def ranker(lm: Any, data: Dataset, split: Split, first: Fixed | None = None, **config: Any) -> LmLikelihoodRecommender:
    first = first or Fixed(np.linspace(1, 0, len(FILMS)).tolist())
    made = LmLikelihoodRecommender(lm, first, adapter=None, config=LmLikelihoodConfig(**{"candidates": 6, **config}))
    made.fit(data, split)
    assert first.fits == 1
    return made


@pytest.mark.parametrize(
    "config",
    [{}, {"text": "flat"}, {"length": "byte"}, {"inline": True, "ending": "\n"}, {"history_items": 1}],
)
async def test_equals_direct_scoring(lm: LocalLM, data: Dataset, split: Split, config: dict[str, Any]) -> None:
    """Candidates are the six best outside the history; their scores are the model's, the others keep their order."""
    made = ranker(lm, data, split, **config)
    histories = [np.array([0, 4, 1]), np.array([17])]
    scores = await made.score(histories, users=[3, 4])
    for row, history in zip(scores, histories, strict=True):
        recent = history[-1:] if "history_items" in config else history
        prompt = history_prompt([data.catalogue.flat(int(item)) for item in recent])
        chosen = [item for item in range(len(FILMS)) if item not in history][:6]
        texts = [data.catalogue.flat(i) if "text" in config else title_text(data.catalogue, i) for i in chosen]
        if "inline" in config:
            prompt, texts = prompt.rstrip("\n"), [f" {text}\n" for text in texts]
        sums = np.array([(await lm.score(prompt, [text]))[0] for text in texts])
        if "length" in config:
            sums /= [len(text.encode()) for text in texts]
        np.testing.assert_allclose(row[chosen], sums, atol=1e-3)
        others = [item for item in range(len(FILMS)) if item not in chosen]
        assert row[others].max() < row[chosen].min()
        assert (np.diff(row[others]) < 0).all()


async def test_the_order_of_candidates_does_not_matter(lm: LocalLM, data: Dataset, split: Split) -> None:
    n = len(FILMS)
    draw = np.random.default_rng(0)
    history = np.array([2, 3])
    found = []
    for _ in range(3):
        first = Fixed(draw.permutation(n).astype(float).tolist())
        found.append((await ranker(lm, data, split, first, candidates=n).score([history]))[0])
    asked = np.setdiff1d(np.arange(n), history)
    assert np.isfinite(found[0]).all()
    assert np.array_equal(found[0][asked], found[1][asked])
    assert np.array_equal(found[0][asked], found[2][asked])


async def test_users_do_not_depend_on_each_other(lm: LocalLM, data: Dataset, split: Split) -> None:
    histories = [split.history(user, "test") for user in range(5)]
    together = await ranker(lm, data, split).score(histories)
    one_by_one = ranker(lm, data, split, concurrency=1)
    alone = np.concatenate([await one_by_one.score([history]) for history in histories])
    np.testing.assert_allclose(together, alone, atol=1e-3)
    np.testing.assert_allclose(together, await one_by_one.score(histories), atol=1e-3)


def test_golden_titles(data: Dataset) -> None:
    """The next label closes a title, so that "Alien" is no beginning of "Aliens"."""
    assert title_text(data.catalogue, 0) == "Title: Alien (1979). Category:"
    assert data.catalogue.flat(0).startswith(title_text(data.catalogue, 0))
    bare = dataset_of(HISTORIES, len(FILMS)).catalogue
    assert title_text(bare, 3) == "Title: Item 3"


async def test_unscored_others_and_empty_histories(lm: LocalLM, data: Dataset, split: Split) -> None:
    nothing, history = np.array([], dtype=np.int64), np.array([1])
    bare = await ranker(lm, data, split, others="unscored").score([history, nothing])
    assert np.isfinite(bare).sum(axis=1).tolist() == [6, 0]
    kept = await ranker(lm, data, split).score([nothing])
    assert np.argsort(-kept[0]).tolist() == list(range(len(FILMS)))


async def test_a_failure_is_a_recorded_row_of_nan(lm: LocalLM, data: Dataset, split: Split) -> None:
    """A context that holds the shortest text of history but not another's: that user is a miss, with the reason."""
    lengths = [lm.count_tokens(history_prompt([data.catalogue.flat(row)])) for row in range(len(FILMS))]
    short_row, long_row = int(np.argmin(lengths)), int(np.argmax(lengths))
    asked = next(row for row in range(len(FILMS)) if row not in (short_row, long_row))
    context = lengths[short_row] + lm.count_tokens(title_text(data.catalogue, asked))
    first = Fixed([float(row == asked) for row in range(len(FILMS))])
    short = ranker(tiny(max_position_embeddings=context), data, split, first, candidates=1)
    scores = await short.score([np.array([short_row]), np.array([long_row])], users=[7, 8])
    assert np.isfinite(scores[0]).all()
    assert np.isnan(scores[1]).all()
    assert [failure.user for failure in short.failures] == [8]
    assert f"context is {context}" in short.failures[0].reason
    assert f"1 histories failed, one because {short.failures[0].reason}" in short.describe()
    short.fit(data, split)
    assert not short.failures


async def test_whole_oldest_items_are_dropped_until_the_prompt_fits(lm: LocalLM, data: Dataset, split: Split) -> None:
    """A context of 160 tokens holds a few of six items; the answer is that of exactly these."""
    short, history = tiny(max_position_embeddings=160), np.array([8, 13, 5, 4, 3, 13])
    (scores,) = await ranker(short, data, split).score([history])
    fitting = [
        rows
        for n in range(1, len(history) + 1)
        if np.isfinite(rows := (await ranker(lm, data, split, history_items=n).score([history]))[0]).all()
        and np.allclose(rows, scores, atol=1e-3)
    ]
    assert len(fitting) == 1
    assert not np.allclose(scores, (await ranker(lm, data, split).score([history]))[0], atol=1e-3)


async def test_failures_are_misses_of_the_evaluation(data: Dataset, split: Split) -> None:
    made = LmLikelihoodRecommender(tiny(max_position_embeddings=40), PopularityRecommender(), adapter=None)
    found = await evaluate(data, [made], split=split, n_resamples=10)
    assert found.models["lm-likelihood"].failed == len(HISTORIES)
    assert found.models["lm-likelihood"].metrics["mrr"].value == 0
    assert "5 histories failed" in found.models["lm-likelihood"].note


async def test_what_the_user_must_repair_is_raised(lm: LocalLM, data: Dataset, split: Split) -> None:
    with pytest.raises(ConfigError, match="scores texts"):
        LmLikelihoodRecommender(ScriptedLM(["x"]))
    made = LmLikelihoodRecommender(lm, PopularityRecommender(), adapter="absent")
    with pytest.raises(ConfigError, match="call fit"):
        await made.score([np.array([1])])
    made.fit(data, split)
    with pytest.raises(UnsupportedError, match="absent"):
        await made.score([np.array([1]), np.array([2])])

    def down(prompt: Any, continuations: Any, adapter: Any) -> list[float]:
        raise ServerDownError("the server is down; start it")

    with pytest.raises(ServerDownError):
        await ranker(ScriptedLM(score=down), data, split).score([np.array([1]), np.array([2])])


async def test_a_score_that_is_no_number_is_a_failure(data: Dataset, split: Split) -> None:
    broken = ScriptedLM(score=lambda prompt, texts, adapter: [float("nan")] * len(texts))
    made = ranker(broken, data, split)
    assert np.isnan(await made.score([np.array([1])])).all()
    assert "no finite log-probability for 6" in made.failures[0].reason


async def test_a_first_stage_may_come_fitted(lm: LocalLM, data: Dataset, split: Split) -> None:
    first = Fixed(np.ones(len(FILMS)).tolist())
    made = LmLikelihoodRecommender(lm, first, first_is_fitted=True, adapter=None)
    made.fit(data, split)
    assert first.fits == 0
