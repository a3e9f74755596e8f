"""BM25: both engines against each other, against rank-bm25 itself, and against a value computed by hand."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from llmrec.data.catalogue import Catalogue
from llmrec.errors import ConfigError
from llmrec.retrieval.bm25 import Bm25Index, Engine, tokenise
from llmrec.retrieval.roundrobin import round_robin

CORPUS = [
    "the alien hunts the crew of the ship",
    "the marines hunt the aliens",
    "the princess and the pirate, the giant",
    "the toy cowboy and the toy astronaut",
    "a thief, the detective and the last heist",
    "ship of fools",
    "",
]


def test_golden_score_by_hand() -> None:
    """Query "ship": df 2 of 7, idf = ln(5.5) - ln(2.5). Document 5 has 3 words, the average is
    (8 + 5 + 7 + 7 + 8 + 3 + 0) / 7 = 38 / 7.
    """
    length, average = 3, 38 / 7
    expected = (log(5.5) - log(2.5)) * 1 * 2.5 / (1 + 1.5 * (0.25 + 0.75 * length / average))
    for engine in ("bm25s", "rank-bm25"):
        assert Bm25Index(CORPUS, engine=engine).scores("ship")[5] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("engine", ["bm25s", "rank-bm25"])
def test_scores_equal_rank_bm25(engine: Engine) -> None:
    """The word "the" is in 5 of 7 documents: negative idf, BM25Okapi's epsilon floor, which bm25s alone lacks."""
    reference = BM25Okapi([tokenise(text) for text in CORPUS], k1=1.5, b=0.75, epsilon=0.25)
    assert reference.idf["the"] == 0.25 * reference.average_idf
    index = Bm25Index(CORPUS, engine=engine)
    for query in ["the", "the ship", "toy toy story", "nothing", "", "hunt the princess of the alien ship", "Toy, TOY"]:
        expected = reference.get_scores(tokenise(query))
        assert np.allclose(index.scores(query), expected, atol=1e-9), query


words = st.lists(st.sampled_from("the a of toy ship alien heat big fish night".split()), max_size=9).map(" ".join)  # noqa: SIM905


@settings(max_examples=60, deadline=None)
@given(
    corpus=st.lists(words, min_size=1, max_size=12),
    query=words,
    k1=st.sampled_from([0.9, 1.5]),
    b=st.sampled_from([0, 0.75, 0.95]),
)
def test_engines_rank_alike(corpus: list[str], query: str, k1: float, b: float) -> None:
    """Scores agree to 1e-9 whatever the corpus, so the order agrees after rounding ties away.

    b stays below 1, where rank-bm25 divides 0 by 0 for an empty document.
    """
    if not any(corpus):
        assert Bm25Index(corpus).scores(query).tolist() == [0.0] * len(corpus)
        return
    ours = Bm25Index(corpus, k1=k1, b=b).scores(query)
    reference = BM25Okapi([tokenise(text) for text in corpus], k1=k1, b=b).get_scores(tokenise(query))
    assert np.allclose(ours, reference, atol=1e-9)
    ranked = [np.argsort(-np.round(scores, 9), kind="stable").tolist() for scores in (ours, reference)]
    assert ranked[0] == ranked[1]


def test_batches_equal_single_queries() -> None:
    index = Bm25Index(CORPUS)
    queries = ["the ship", "", "toy", "unseen"]
    assert np.array_equal(index.score_batch(queries), np.stack([index.scores(query) for query in queries]))


@pytest.mark.parametrize("engine", ["bm25s", "rank-bm25"])
def test_top_lists_only_documents_that_share_a_term(engine: Engine) -> None:
    index = Bm25Index(CORPUS, engine=engine)
    assert [row for row, _ in index.top("ship", 10)] == [5, 0]
    assert index.top("nothing here", 10) == []
    assert [row for row, _ in index.top("toy ship", 1)] == [3]


def test_tokens_are_lower_case_words_without_accents() -> None:
    assert tokenise("Amélie, LE FABULEUX destin (2001)!") == ["amelie", "le", "fabuleux", "destin", "2001"]
    assert tokenise("七人の侍") == tokenise("七人の侍") != []


def test_share_of_ideal_is_bounded_and_low_for_unknown_words() -> None:
    index = Bm25Index(CORPUS)
    known, unknown = index.share_of_ideal("toy cowboy"), index.share_of_ideal("toy xylophone zeppelin")
    assert 0 < unknown[3] < known[3] <= 1
    assert not index.share_of_ideal("xylophone").any()


def test_every_item_text_finds_its_item(catalogue: Catalogue) -> None:
    """Round trip: a completion equal to the flattened text of an item ranks that item first."""
    flat = [catalogue.flat(row) for row in range(len(catalogue))]
    index = Bm25Index(flat)
    for row, text in enumerate(flat):
        assert int(np.argmax(round_robin([(text, -3.0)], index.scores, len(flat)))) == row


def test_an_empty_document_scores_zero_where_rank_bm25_divides_by_zero() -> None:
    assert Bm25Index(["", "the", "toy"], engine="rank-bm25", b=1).scores("toy")[0] == 0.0


def test_no_documents_or_an_unknown_engine_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least one document"):
        Bm25Index([])
    with pytest.raises(ConfigError, match="lucene"):
        Bm25Index(CORPUS, engine="lucene")  # type: ignore[arg-type]
