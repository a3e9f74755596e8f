"""Contract tests that every tool passes.

A new tool gets them with a few lines::

    class TestSearch(ToolContract):
        tool = Search()
        good = ({"query": "ship"}, {"where": ["genres=Horror"]})

and a fixture `resources` (`small_resources()` has one item of everything).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.interactions import Interactions
from llmrec.data.splits import leave_one_out
from llmrec.errors import ToolError
from llmrec.lm.protocol import ToolCall
from llmrec.retrieval.item_knn import ItemKnnRecommender
from llmrec.tools.base import Tool, ToolContext, call, function_schema
from llmrec.tools.pool import CandidatePool, ranked_pool
from llmrec.tools.resources import Resources, build_resources

_FILMS: tuple[tuple[str, int | None, list[str], list[str], list[str], int, str], ...] = (
    (
        "Alien",
        1979,
        ["Horror", "Sci-Fi"],
        ["Ridley Scott"],
        ["space", "monster"],
        117,
        "A crew meets a creature on its ship.",
    ),
    (
        "Aliens",
        1986,
        ["Action", "Sci-Fi"],
        ["James Cameron"],
        ["space", "monster"],
        137,
        "Soldiers return to a lost colony.",
    ),
    (
        "The Thing",
        1982,
        ["Horror", "Sci-Fi"],
        ["John Carpenter"],
        ["monster", "isolation"],
        109,
        "Ice hides a shape-changer.",
    ),
    ("Airplane!", 1980, ["Comedy"], ["Jim Abrahams"], ["aviation", "witty"], 88, "A nervous pilot has to land a jet."),
    (
        "Playtime",
        1967,
        ["Comedy"],
        ["Jacques Tati"],
        ["architecture", "witty"],
        115,
        "A man is lost in a city of glass.",
    ),
    (
        "Solaris",
        1972,
        ["Sci-Fi", "Drama"],
        ["Andrei Tarkovsky"],
        ["space", "memory"],
        166,
        "A planet answers with memories.",
    ),
    (
        "Stalker",
        1979,
        ["Sci-Fi", "Drama"],
        ["Andrei Tarkovsky"],
        ["journey", "faith"],
        162,
        "A guide leads two men to a room.",
    ),
    (
        "Heat",
        1995,
        ["Crime"],
        ["Michael Mann"],
        ["heist", "police"],
        170,
        "A thief and a detective respect each other.",
    ),
    ("Collateral", 2004, ["Crime"], ["Michael Mann"], ["hitman", "police"], 120, "A driver is made to carry a killer."),
    (
        "Paddington",
        2014,
        ["Comedy", "Family"],
        ["Paul King"],
        ["animals", "warm"],
        95,
        "A bear looks for a home in London.",
    ),
    ("Untitled", None, [], [], [], 60, ""),
)


def small_dataset() -> Dataset:
    """Eleven films and six users; the last film has no year, genre, person or text."""
    names = ("title", "year", "genres", "directors", "keywords", "runtime_min", "logline")
    columns: dict[str, list[Any]] = {name: [film[place] for film in _FILMS] for place, name in enumerate(names)}
    item_ids = [f"f{row}" for row in range(len(_FILMS))]
    kinds: Any = {"genres": "categories", "directors": "categories", "keywords": "categories", "logline": "text"}
    catalogue = Catalogue.from_columns({"item_id": item_ids, **columns}, flat_fields=("genres",), kinds=kinds)
    histories = [[0, 1, 2, 5], [0, 1, 2, 6], [0, 2, 5, 6], [3, 4, 9, 0], [7, 8, 0, 1], [3, 9, 4, 7]]
    interactions = Interactions.from_arrays(
        np.repeat(np.arange(len(histories)), [len(history) for history in histories]),
        np.concatenate(histories),
        np.concatenate([np.arange(len(history)) for history in histories]),
        user_ids=[f"u{user}" for user in range(len(histories))],
        n_items=len(_FILMS),
    )
    return Dataset("small", "small", catalogue, interactions, item_noun="film", domain="films")


def small_resources() -> Resources:
    """Indices over `small_dataset`, with item-kNN behind `similar` and `recommend`."""
    dataset = small_dataset()
    knn = ItemKnnRecommender()
    knn.fit(dataset, leave_one_out(dataset.interactions))
    return build_resources(dataset, neighbours=knn)


class ToolContract:
    """What holds for every tool. Subclass with `tool` and `good`."""

    tool: ClassVar[Tool]
    good: ClassVar[tuple[Mapping[str, Any], ...]]
    """Arguments that work on the films of the fixture `resources`."""

    @pytest.fixture
    def context(self, resources: Resources) -> ToolContext:
        """A user with a history of two items who refused a third."""
        return ToolContext(resources, history=(0, 3), excluded=frozenset({2}), seed=1)

    @pytest.fixture
    def pool(self) -> CandidatePool:
        """A pool of five items."""
        return ranked_pool([1, 4, 5, 6, 9], source="test", reason="given")

    async def _call(
        self, arguments: Mapping[str, Any], pool: CandidatePool, context: ToolContext
    ) -> tuple[CandidatePool, Any]:
        return await call({self.tool.name: self.tool}, ToolCall(self.tool.name, arguments), pool, context)

    async def test_nothing_banned_enters_the_pool(self, pool: CandidatePool, context: ToolContext) -> None:
        """History and exclusions stay out."""
        for arguments in self.good:
            after, _ = await self._call(arguments, pool, context)
            assert not after.items() & {0, 2, 3}

    async def test_every_candidate_is_an_item(self, pool: CandidatePool, context: ToolContext) -> None:
        """Rows are rows of the catalogue."""
        for arguments in self.good:
            after, _ = await self._call(arguments, pool, context)
            assert all(0 <= row < len(context.catalogue) for row in after.rows)

    async def test_the_event_counts_and_goes_to_json(self, pool: CandidatePool, context: ToolContext) -> None:
        """Sizes are right and arguments can be stored."""
        for arguments in self.good:
            after, event = await self._call(arguments, pool, context)
            assert (event.name, event.n_before, event.n_after) == (self.tool.name, len(pool), len(after))
            assert event.error == ""
            assert json.loads(json.dumps(dict(event.arguments))) == dict(event.arguments)

    async def test_the_same_call_gives_the_same_pool(self, pool: CandidatePool, context: ToolContext) -> None:
        """Tools are deterministic."""
        for arguments in self.good:
            first, second = [await self._call(arguments, pool, context) for _ in range(2)]
            assert first == second

    async def test_the_given_pool_is_not_changed(self, pool: CandidatePool, context: ToolContext) -> None:
        """Pools are values."""
        before = pool.candidates
        for arguments in self.good:
            await self._call(arguments, pool, context)
        assert pool.candidates is before

    async def test_unknown_arguments_are_refused_with_the_known_ones(
        self, pool: CandidatePool, context: ToolContext
    ) -> None:
        """A model learns which arguments there are."""
        with pytest.raises(ToolError, match="nonsense") as caught:
            await self._call({**self.good[0], "nonsense": 1}, pool, context)
        assert all(name in str(caught.value) for name in self.tool.Arguments.model_fields)

    def test_the_schema_is_an_openai_function_that_refuses_extras(self) -> None:
        """Chat models can be bound to the tool."""
        schema = function_schema(self.tool)
        function = schema["function"]
        assert schema["type"] == "function"
        assert function["name"] == self.tool.name
        assert len(function["description"]) > 20
        assert function["parameters"]["additionalProperties"] is False
        assert all("description" in field for field in function["parameters"]["properties"].values())
