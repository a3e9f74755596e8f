"""CALRec's prompt decoded under a trie of the catalogue's texts, against the model's own scores."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from llmrec.data.catalogue import Catalogue
from llmrec.errors import ConfigError, UnsupportedError
from llmrec.lm.local import LocalLM
from llmrec.lm.scripted import ScriptedLM
from llmrec.retrieval.calrec import history_prompt
from llmrec.retrieval.trie_titles import TrieTitlesConfig, TrieTitlesRecommender, text_paths
from tests.lm.conftest import make_model, make_tokenizer, save_adapter

TITLES = ["Alien", "Heat", "Dr", "Dr. No", "Heat", "Alien 3", "A Ship!", "The Crew", "The Creature", "No"]
HISTORY = np.array([1, 0])


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    genres = [["Horror"], ["Crime"], ["Drama"], ["Action"], ["Crime"], ["Horror"], ["War"], [], ["Horror"], ["Drama"]]
    ids = [str(row) for row in range(len(TITLES))]
    return Catalogue.from_columns(
        {"item_id": ids, "title": TITLES, "genres": genres}, flat_fields=["genres"], kinds={"genres": "categories"}
    )


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LocalLM:
    folder = tmp_path_factory.mktemp("trie") / "base"
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model(tokenizer, max_position_embeddings=512).save_pretrained(folder)
    red = save_adapter(folder.parent / "red", folder, seed=1)
    return LocalLM.from_folder(folder, adapters={"red": red}, dtype="float32", device="cpu")


def _recommender(lm: LocalLM, catalogue: Catalogue, adapter: str | None = None, **config: Any) -> TrieTitlesRecommender:
    recommender = TrieTitlesRecommender(lm, adapter=adapter, config=TrieTitlesConfig(**config))
    recommender.index_catalogue(catalogue)
    return recommender


async def _plain(lm: LocalLM, catalogue: Catalogue, adapter: str | None, inline: bool) -> np.ndarray[Any, Any]:
    prompt = history_prompt([catalogue.flat(int(row)) for row in HISTORY])
    texts = [catalogue.flat(row) for row in range(len(catalogue))]
    if inline:
        prompt, texts = prompt.rstrip("\n"), [f" {text}\n" for text in texts]
    else:
        texts = [f"{text}<|im_end|>" for text in texts]
    return np.array(await lm.score(prompt, texts, adapter=adapter))


@pytest.mark.parametrize(("adapter", "inline"), [(None, False), ("red", False), (None, True)])
async def test_both_searches_give_the_models_probability_of_each_text(
    lm: LocalLM, catalogue: Catalogue, adapter: str | None, inline: bool
) -> None:
    """All items are reached by ten beams; those of equal text share a leaf and a score."""
    expected = await _plain(lm, catalogue, adapter, inline)
    settings = {"beams": 10, "inline": inline, "exclude_history": False}
    for search in ("beam", "exact"):
        recommender = _recommender(lm, catalogue, adapter, search=search, **settings)
        scores = await recommender.score([HISTORY, HISTORY[:0]], users=[0, 1])
        assert np.abs(scores[0] - expected).max() < 1e-3
        assert scores[0, 1] == scores[0, 4]
        assert np.isneginf(scores[1]).all(), "an empty history cannot be prompted"


async def test_whole_oldest_items_are_dropped_until_prompt_and_path_fit(catalogue: Catalogue) -> None:
    """The tree holds the longest text behind the prompt; less than the whole history is read, and as much as fits."""
    tokenizer, history = make_tokenizer(), np.array([2, 3, 4, 5, 6, 7, 8, 9, 0, 1])
    long, short = (
        _recommender(
            LocalLM(make_model(tokenizer, max_position_embeddings=context), tokenizer, name="tiny"),
            catalogue,
            exclude_history=False,
            beams=10,
        )
        for context in (1024, 160)
    )
    (scores,) = await short.score([history])
    same = [
        n for n in range(1, len(history) + 1) if np.allclose((await long.score([history[-n:]]))[0], scores, atol=1e-3)
    ]
    assert len(same) == 1
    assert 1 < same[0] < len(history)


async def test_the_history_is_never_written(lm: LocalLM, catalogue: Catalogue) -> None:
    expected = await _plain(lm, catalogue, None, False)
    for search in ("beam", "exact"):
        (scores,) = await _recommender(lm, catalogue, search=search, beams=10, k=8).score([HISTORY])
        assert np.isneginf(scores[HISTORY]).all()
        rest = np.setdiff1d(np.arange(len(TITLES)), HISTORY)
        assert np.abs(scores[rest] - expected[rest]).max() < 1e-3


async def test_narrow_beams_rank_k_items(lm: LocalLM, catalogue: Catalogue) -> None:
    (scores,) = await _recommender(lm, catalogue, beams=3, k=2).score([HISTORY])
    assert np.isfinite(scores).sum() == 2


async def test_titles_alone_are_the_beginning_of_the_text_as_it_is_tokenised(lm: LocalLM, catalogue: Catalogue) -> None:
    """ "Dr" ends where its label begins, "Dr. No" goes on; of equal titles both are ranked."""
    recommender = _recommender(lm, catalogue, text="title", beams=10, exclude_history=False)
    table = recommender._table
    assert table is not None
    with lm.opened() as opened:
        tokenizer = opened.tokenizer
    whole = text_paths(tokenizer, [catalogue.flat(row) for row in range(len(catalogue))])
    for row, path in enumerate(table.item_paths()):
        tokens = path[path >= 0].tolist()
        assert whole[row][: len(tokens)] == tokens
        assert tokenizer.decode(tokens).startswith(f"Title: {TITLES[row]}.")
    (scores,) = await recommender.score([HISTORY])
    assert scores[1] == scores[4]
    assert np.isfinite(scores).all()


async def test_calls_take_turns(lm: LocalLM, catalogue: Catalogue) -> None:
    """Searches under two adapters at once do not disturb each other."""
    bare, red = _recommender(lm, catalogue, beams=10), _recommender(lm, catalogue, "red", beams=10)
    together = await asyncio.gather(bare.score([HISTORY]), red.score([HISTORY]), bare.score([HISTORY]))
    assert np.allclose(together[0], together[2], atol=1e-5)
    assert not np.allclose(together[0], together[1], atol=1e-2)


def test_what_cannot_work_is_named(lm: LocalLM) -> None:
    with pytest.raises(UnsupportedError, match="needs a local one"):
        TrieTitlesRecommender(ScriptedLM([]))
    with pytest.raises(ConfigError, match="k=5, beams=4"):
        TrieTitlesRecommender(lm, config=TrieTitlesConfig(beams=4, k=5))
    with pytest.raises(ConfigError, match="not fitted"):
        asyncio.run(TrieTitlesRecommender(lm, adapter=None).score([HISTORY]))
    with pytest.raises(UnsupportedError, match="'blue'"), lm.opened(adapter="blue"):
        pass
