from __future__ import annotations

import pytest

from llmrec.errors import OutputError
from llmrec.lm.protocol import Sampling, ToolCall
from llmrec.roles import planner
from llmrec.roles.request import Request
from llmrec.testing.tools import small_dataset
from llmrec.tools.base import ToolContext, ToolEvent, call
from llmrec.tools.pool import CandidatePool
from llmrec.tools.registry import TOOLS
from llmrec.tools.resources import Resources
from llmrec.tools.wishes import Wish

CATALOGUE = small_dataset().catalogue
REQUEST = Request(
    want=(Wish(attribute="genres", value="Sci-Fi"),),
    avoid=(Wish(attribute="genres", value="Horror"),),
    like_titles=(0, 7),
    query='a "dog"',
)


def test_training_examples_golden() -> None:
    request = REQUEST.model_copy(update={"query": ""})
    examples = planner.training_examples("said", CATALOGUE, request, history=True)
    assert [answer for _, answer in examples] == [
        '{"name":"similar","arguments":{"titles":["Alien (1979)","Heat (1995)"]}}',
        '{"name":"filter","arguments":{"where":["genres=Sci-Fi","genres!=Horror"]}}',
        '{"name":"rank","arguments":{"by":"taste"}}',
        '{"name":"done","arguments":{}}',
    ]
    assert examples[2][0] == (
        "### Plan\nWant: genres=Sci-Fi\nAvoid: genres=Horror\nLike: Alien (1979); Heat (1995)\nHistory: yes\n"
        "Done: similar 100\nDone: filter 60\nJSON:\n"
    )


@pytest.mark.parametrize(
    ("request_", "history", "names"),
    [
        (Request(), True, ["recommend"]),
        (Request(), False, ["popular"]),
        (Request(query="dog"), False, ["search"]),
        (Request(want=REQUEST.want), True, ["search", "rank"]),
        (REQUEST, False, ["similar", "filter"]),
    ],
)
def test_gold_plans(request_: Request, history: bool, names: list[str]) -> None:
    assert [one.name for one in planner.gold_calls(request_, CATALOGUE, history=history)] == names


async def test_gold_plans_run(resources: Resources) -> None:
    context = ToolContext(resources, history=(3, 4))
    pool = CandidatePool()
    for one in planner.gold_calls(REQUEST, CATALOGUE, history=True):
        pool, _ = await call(TOOLS, one, pool, context)
    assert pool.items() == {1, 5, 6}


@pytest.mark.parametrize(
    "done", [(), (ToolEvent("search", n_after=3),), (ToolEvent("similar", error="no such title"),)]
)
@pytest.mark.parametrize("request_", [REQUEST, Request(), Request(query="dog"), Request(avoid=REQUEST.avoid)])
async def test_an_untrained_model_writes_valid_calls(
    tiny_lm: object, resources: Resources, request_: Request, done: tuple[ToolEvent, ...]
) -> None:
    plan = planner.plan_form(request_, CATALOGUE, history=True, done=done)
    context = ToolContext(resources, history=(3, 4))
    pool = CandidatePool()
    if done:
        pool, _ = await call(TOOLS, ToolCall("popular", {}), pool, context)
    samples = await tiny_lm.generate(  # type: ignore[attr-defined]
        planner.prompt(plan),
        sampling=Sampling(max_tokens=320, temperature=2.0, seed=4, n=8),
        constraint=planner.constraint(plan),
    )
    for sample in samples:
        wanted = planner.parse(sample.text)
        if wanted is None:
            assert done, "a plan has at least one call"
            continue
        assert planner.completion(wanted) == sample.text
        _, event = await call(TOOLS, wanted, pool, context)
        assert event.error == ""


async def test_only_tools_of_the_role_can_be_called(tiny_lm: object) -> None:
    plan = planner.plan_form(REQUEST, CATALOGUE, history=True, tools=("popular",))
    samples = await tiny_lm.generate(  # type: ignore[attr-defined]
        planner.prompt(plan), sampling=Sampling(max_tokens=200, n=4), constraint=planner.constraint(plan)
    )
    assert {planner.parse(sample.text).name for sample in samples} == {"popular"}  # type: ignore[union-attr]


def test_an_error_is_shown_to_the_model() -> None:
    plan = planner.plan_form(REQUEST, CATALOGUE, history=True, done=(ToolEvent("search", error="no genres 'Komedy'"),))
    assert "Error: no genres 'Komedy'" in planner.prompt(plan)


@pytest.mark.parametrize(
    "text", ["", "done", "[]", '{"name":"search"}', '{"name":1,"arguments":{}}', '{"name":"a","arguments":[]}']
)
def test_what_is_no_call_is_an_output_error(text: str) -> None:
    with pytest.raises(OutputError):
        planner.parse(text)
