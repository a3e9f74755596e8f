"""Every registered tool passes the contract; what is particular to one is tested below."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from llmrec.data.splits import leave_one_out
from llmrec.errors import ConfigError, ToolError
from llmrec.lm.protocol import ToolCall
from llmrec.ranking.generative import GenerativeRecommender
from llmrec.ranking.generative_config import GenerativeConfig
from llmrec.retrieval.popularity import PopularityRecommender
from llmrec.roles.answer import reason
from llmrec.roles.request import Request
from llmrec.testing.tools import ToolContract
from llmrec.tools.base import ToolContext, call
from llmrec.tools.details import Details
from llmrec.tools.filter import Filter
from llmrec.tools.pool import CandidatePool, ranked_pool
from llmrec.tools.popular import Popular
from llmrec.tools.rank import Rank
from llmrec.tools.recommend import Recommend
from llmrec.tools.registry import TOOLS, allowed
from llmrec.tools.resources import Resources
from llmrec.tools.search import Search
from llmrec.tools.similar import Similar

EMPTY = CandidatePool()


class TestSearch(ToolContract):
    tool = Search()
    good = ({"query": "ship"}, {"where": ["genres=Sci-Fi"]}, {"query": "planet", "where": ["year=1970..1980"], "n": 3})


class TestSimilar(ToolContract):
    tool = Similar()
    good = ({"titles": ["Alien"]}, {"titles": ["alien (1979)", "Solaris"], "n": 2})


class TestRecommend(ToolContract):
    tool = Recommend()
    good = ({}, {"n": 2})


class TestPopular(ToolContract):
    tool = Popular()
    good = ({}, {"where": ["genres!=Crime"], "n": 4})


class TestFilter(ToolContract):
    tool = Filter()
    good = ({"where": ["genres=Sci-Fi"]}, {"where": ["year=..1985", "genres!=Horror"]})


class TestRank(ToolContract):
    tool = Rank()
    good = ({}, {"by": "taste"}, {"by": "popularity"}, {"by": "-year"})


class TestDetails(ToolContract):
    tool = Details()
    good = ({"titles": ["Heat"]}, {"titles": ["Alien", "Playtime"]})


def test_all_registered_tools_are_under_contract() -> None:
    covered = {contract.tool.name for contract in ToolContract.__subclasses__()}
    assert covered == set(TOOLS)


def test_allowed_refuses_unknown_names() -> None:
    assert list(allowed(["rank", "search"])) == ["rank", "search"]
    with pytest.raises(ConfigError, match="'shell'"):
        allowed(["search", "shell"])


async def run(name: str, pool: CandidatePool, context: ToolContext, **arguments: object) -> CandidatePool:
    after, _ = await call(TOOLS, ToolCall(name, arguments), pool, context)
    return after


async def test_search_meets_every_condition(resources: Resources) -> None:
    context = ToolContext(resources)
    found = await run("search", EMPTY, context, where=["genres=Sci-Fi", "year=1975..1985", "genres!=Drama"])
    assert found.items() == {0, 2}  # Alien, The Thing
    # without a query the more popular film is first: Alien was taken five times, The Thing three times
    assert found.rows == (0, 2)


async def test_search_by_words_finds_only_items_with_a_word(resources: Resources) -> None:
    found = await run("search", EMPTY, ToolContext(resources), query="a thief in the city of glass")
    assert {4, 7} <= found.items()
    assert 10 not in found.items()  # the film without text
    assert "matches the words" in found.candidates[0].reason


async def test_what_the_user_reads_of_a_search_are_its_words_not_its_conditions(resources: Resources) -> None:
    found = await run("search", EMPTY, ToolContext(resources), query="ship", where=["genres!=Comedy"])
    told = reason(found.candidates[0], Request(query="ship"), resources.dataset.catalogue)
    assert told == "matches the words: ship"


async def test_an_item_without_the_attribute_passes_exclusions_and_fails_wishes(resources: Resources) -> None:
    context = ToolContext(resources)
    assert 10 in (await run("popular", EMPTY, context, where=["genres!=Horror", "year!=1900..2020"])).items()
    assert 10 not in (await run("popular", EMPTY, context, where=["year=1900..2020"])).items()


async def test_similar_prefers_shared_attributes_and_company(resources: Resources) -> None:
    found = await run("similar", EMPTY, ToolContext(resources), titles=["Alien"])
    assert set(found.rows[:2]) == {1, 2}
    assert 0 not in found.items()
    assert found.candidates[0].reason == "similar to Alien (1979)"


async def test_a_title_settled_in_the_dialogue_wins_over_grounding(resources: Resources) -> None:
    context = ToolContext(resources, named={"Alien (1979)": 7})
    found = await run("similar", EMPTY, context, titles=["Alien (1979)"])
    assert found.rows[0] == 8  # Collateral resembles Heat


async def test_recommend_names_its_model_and_follows_the_history(resources: Resources) -> None:
    context = ToolContext(resources, history=(0, 1))
    after, event = await call(TOOLS, ToolCall("recommend", {}), EMPTY, context)
    assert event.note == "by knn"
    assert after.rows[0] == 2


async def test_merging_adds_scores_and_joins_reasons(resources: Resources) -> None:
    context = ToolContext(resources, history=(0,))
    pool = await run("search", EMPTY, context, where=["directors=Andrei Tarkovsky"])
    pool = await run("similar", pool, context, titles=["Solaris"])
    stalker = next(candidate for candidate in pool.candidates if candidate.item == 6)
    assert stalker.source == "search+similar"
    assert stalker.reason == "directors=Andrei Tarkovsky; similar to Solaris (1972)"


@pytest.mark.parametrize(("by", "first"), [("year", 4), ("-year", 9), ("runtime_min", 9)])
async def test_rank_by_number(resources: Resources, by: str, first: int) -> None:
    pool = ranked_pool([1, 10, 4, 9], source="test", reason="given")
    ranked = await run("rank", pool.without([10]) if by == "runtime_min" else pool, ToolContext(resources), by=by)
    assert ranked.rows[0] == first
    if by != "runtime_min":
        assert ranked.rows[-1] == 10  # no year: last in either direction


async def test_details_say_the_facts(resources: Resources) -> None:
    pool = ranked_pool([1], source="test", reason="given")
    after, event = await call(TOOLS, ToolCall("details", {"titles": ["heat"]}), pool, ToolContext(resources))
    assert after == pool
    assert "Heat (1995)" in event.note
    assert "directors: Michael Mann" in event.note


WRONG = [
    ("serch", {"query": "ship"}, "did you mean 'search'"),
    ("search", {}, "needs a query or a condition"),
    ("search", {"query": 3}, "query: input should be a valid string, got 3"),
    ("search", {"where": ["genre=Comedy"]}, "no attribute 'genre'; the attributes are year, genres"),
    ("search", {"where": ["genres=Komedy"]}, "nearest values: Comedy"),
    ("search", {"where": ["directors=Tarkovski"]}, "nearest values: Andrei Tarkovsky"),
    ("search", {"where": ["year=the eighties"]}, "write year=1980..1989"),
    ("search", {"where": ["year=1990..1980"]}, "lower end is above the upper end"),
    ("search", {"where": ["year=.."]}, "is a number"),
    ("search", {"where": ["logline=bear"]}, "free text; put the words into the query"),
    ("search", {"where": ["horror"]}, "write attribute=value"),
    ("similar", {"titles": []}, "titles"),
    ("similar", {"titles": ["Zardoz"]}, "no item with the title 'Zardoz'"),
    ("recommend", {}, "needs a history"),
    ("filter", {"where": ["genres=Comedy"]}, "no candidates|none yet"),
    ("rank", {"by": "taste"}, "none yet"),
    ("details", {"titles": ["Nothing Like It"]}, "no item with the title"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), WRONG)
async def test_wrong_calls_say_how_to_repair_them(
    resources: Resources, name: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ToolError, match=message):
        await call(TOOLS, ToolCall(name, arguments), EMPTY, ToolContext(resources))


async def test_rank_by_an_unknown_key_lists_the_numbers(resources: Resources) -> None:
    pool = ranked_pool([1], source="test", reason="given")
    with pytest.raises(ToolError, match=re.escape("year, runtime_min")):
        await run("rank", pool, ToolContext(resources), by="genres")


async def test_no_recommender_is_an_error_not_a_fallback(resources: Resources) -> None:
    from dataclasses import replace

    bare = ToolContext(replace(resources, recommender=None), history=(0,))
    with pytest.raises(ToolError, match="no recommender is configured"):
        await run("recommend", EMPTY, bare)


def test_best_breaks_ties_in_catalogue_order(resources: Resources) -> None:
    context = ToolContext(resources, history=(4,), excluded=frozenset({0}))
    scores = np.zeros(len(context.catalogue))
    assert context.best(scores, 3, source="s", reason="r").rows == (1, 2, 3)


async def test_rank_by_taste_asks_the_ranker_and_recommend_the_recommender(resources: Resources) -> None:
    popular, knn = PopularityRecommender(), resources.neighbours
    split = leave_one_out(resources.dataset.interactions)
    popular.fit(resources.dataset, split)
    both = dataclasses.replace(resources, ranker=popular)
    context = ToolContext(both, history=(0, 1))
    pool, found = await call(TOOLS, ToolCall("recommend", {}), EMPTY, context)
    _, ranked = await call(TOOLS, ToolCall("rank", {"by": "taste"}), pool, context)
    assert knn is not None
    assert (found.note, ranked.note) == (f"by {knn.name}", "by popular")


@pytest.fixture(scope="module")
def two_beams(resources: Resources) -> Resources:
    """A generator behind `recommend` that can name no more than two items at a time."""
    settings = {"levels": (4, 4), "width": 16, "layers": 1, "heads": 2, "decode": {"beams": 2}}
    config = GenerativeConfig.model_validate(settings | {"fit": {"epochs": 1}, "validation_beams": 2})
    generator = GenerativeRecommender(config=config)
    generator.fit(resources.dataset, leave_one_out(resources.dataset.interactions))
    return dataclasses.replace(resources, recommender=generator)


@pytest.mark.parametrize("genre", ["Comedy", "Horror", "Sci-Fi"])
async def test_a_search_by_beams_spends_none_on_what_the_user_will_not_get(two_beams: Resources, genre: str) -> None:
    context = ToolContext(two_beams, history=(3,))
    mask = two_beams.attributes.allowed(context.conditions([f"genres={genre}"]))
    left = set(np.flatnonzero(mask).tolist()) - {3}
    assert left
    asked, _ = await call(TOOLS, ToolCall("recommend", {"where": [f"genres={genre}"]}), EMPTY, context)
    assert set(asked.rows) <= left
    assert len(asked) == min(2, len(left))
    refusing = dataclasses.replace(context, not_refused=mask)
    found, _ = await call(TOOLS, ToolCall("recommend", {}), EMPTY, refusing)
    assert set(found.rows) <= left
    assert len(found) == min(2, len(left))


async def test_recommend_where_nothing_fits_says_so(resources: Resources) -> None:
    context = ToolContext(resources, history=(3,))
    with pytest.raises(ToolError, match=r"no item satisfies genres=Comedy and genres!=Comedy; leave a condition out"):
        await call(TOOLS, ToolCall("recommend", {"where": ["genres=Comedy", "genres!=Comedy"]}), EMPTY, context)
    pool, done = await call(TOOLS, ToolCall("recommend", {"where": ["genres=Horror"]}), EMPTY, context)
    horror = resources.attributes.allowed(context.conditions(["genres=Horror"]))
    assert pool
    assert all(horror[row] for row in pool.rows)
    assert done.arguments == {"where": ["genres=Horror"]}
