"""Beam search against scoring every path plainly: items, scores, filters, lengths, diversity, draws, layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from llmrec.errors import ConfigError, ModelError
from llmrec.lm.branches import Layout, best_layout
from llmrec.semid.beam import BeamSettings, beam_search, unpadded
from llmrec.semid.exact import exact_scores
from llmrec.semid.filters import ItemFilter
from llmrec.semid.prefix_table import PrefixTable
from llmrec.semid.segments import rank_in_group
from tests.semid.decoding import equal_paths, plain_scores, prompts, ragged_table, tiny_model

LAYOUTS: tuple[Layout, ...] = ("tree", "copied")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def table() -> PrefixTable:
    return PrefixTable.from_paths(equal_paths())


@pytest.fixture(scope="module")
def oracle(table: PrefixTable) -> Any:
    return np.stack([plain_scores(tiny_model(), prompt, table.item_paths()) for prompt in prompts()])


def wide(table: PrefixTable, k: int = 10, **changes: Any) -> BeamSettings:
    return BeamSettings(beams=table.n_items, k=k, **changes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_wide_beams_find_the_best_items_with_their_plain_scores(
    table: PrefixTable, oracle: Any, layout: Layout
) -> None:
    result = beam_search(tiny_model(), prompts(), table, settings=wide(table), layout=layout)
    assert result.layout == layout
    for found, scores in zip(result.found, oracle, strict=True):
        assert found.items.tolist() == np.argsort(-scores)[:10].tolist()
        assert np.abs(found.scores - np.sort(scores)[::-1][:10]).max() < TOLERANCE
        assert found.note == ""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exact_scores_are_the_plain_ones(table: PrefixTable, oracle: Any, layout: Layout) -> None:
    """Also cut into passes of seven nodes, which share ancestors."""
    for max_nodes in (512, 7) if layout == "tree" else (60,):
        scores = exact_scores(tiny_model(), prompts(), table, layout=layout, max_nodes=max_nodes)
        assert np.abs(scores - oracle).max() < TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_paths_of_any_length_compete_and_shared_leaves_give_all_their_items(layout: Layout, power: float) -> None:
    table = ragged_table()
    paths = table.item_paths()
    settings = wide(table, k=40, length_penalty=power)
    result = beam_search(tiny_model(), prompts((3, 9)), table, settings=settings, layout=layout)
    for prompt, found in zip(prompts((3, 9)), result.found, strict=True):
        plain = plain_scores(tiny_model(), prompt, paths)
        expected = plain / (paths >= 0).sum(axis=1) ** power
        assert sorted(found.items.tolist()) == list(range(40))
        assert np.abs(found.scores - expected[found.items]).max() < TOLERANCE
        assert np.abs(found.logprobs - plain[found.items]).max() < TOLERANCE
        assert (np.diff(found.scores) <= 0).all()
        few = beam_search(tiny_model(), [prompt], table, settings=settings.model_copy(update={"k": 5}), layout=layout)
        assert np.abs(few.found[0].scores - found.scores[:5]).max() < TOLERANCE


def test_exact_scores_of_ragged_paths() -> None:
    table = ragged_table()
    plain = plain_scores(tiny_model(), prompts()[1], table.item_paths())
    for layout in LAYOUTS:
        assert np.abs(exact_scores(tiny_model(), prompts()[1:2], table, layout=layout)[0] - plain).max() < TOLERANCE


def test_narrow_beams_keep_true_scores(table: PrefixTable, oracle: Any) -> None:
    for found, scores in zip(
        beam_search(tiny_model(), prompts(), table, settings=BeamSettings(beams=4, k=4)).found, oracle, strict=True
    ):
        assert np.abs(found.scores - scores[found.items]).max() < TOLERANCE


def test_moderate_beams_of_a_trained_model_find_the_exact_top_ten(table: PrefixTable) -> None:
    """A model that learnt which item follows which is sure enough for 20 beams of 60 items."""
    model = _trained(table)
    tokens = table.item_paths()
    asked = [tokens[[item, (item + 7) % 60]].ravel().tolist() for item in (3, 11, 40)]
    exact = exact_scores(model, asked, table)
    result = beam_search(model, asked, table, settings=BeamSettings(beams=20, k=10))
    for item, found, scores in zip((3, 11, 40), result.found, exact, strict=True):
        assert found.items.tolist() == np.argsort(-scores)[:10].tolist()
        assert found.items[0] == (item + 14) % 60


def _trained(table: PrefixTable) -> Any:
    """Item i is followed by i + 7; half a second of training."""
    import copy

    model = copy.deepcopy(tiny_model())
    torch.manual_seed(0)
    tokens = torch.from_numpy(table.item_paths())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        first = (torch.arange(20) * 3 + step) % 60
        ids = torch.cat([tokens[first], tokens[(first + 7) % 60], tokens[(first + 14) % 60]], dim=1)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_filters_give_the_best_of_what_is_left(table: PrefixTable, oracle: Any) -> None:
    allowed = np.arange(0, 60, 2)
    filters = [
        ItemFilter(excluded=np.argsort(-oracle[0])[:5]),
        ItemFilter(allowed),
        ItemFilter(allowed, excluded=allowed[:20]),
        ItemFilter(),
    ]
    result = beam_search(tiny_model(), prompts(), table, settings=wide(table), filters=filters)
    for found, scores, one in zip(result.found, oracle, filters, strict=True):
        left = np.setdiff1d(np.arange(60) if one.allowed is None else one.allowed, np.asarray(one.excluded, dtype=int))
        expected = left[np.argsort(-scores[left])][:10]
        assert found.items.tolist() == expected.tolist()


def test_an_excluded_item_of_a_shared_leaf_stays_out() -> None:
    table = PrefixTable.from_paths([[5, 6], [7, 8], [5, 6]], duplicates="share")
    rule = [ItemFilter(excluded=[0])]
    (found,) = beam_search(tiny_model(), prompts((3,)), table, settings=wide(table, k=3), filters=rule).found
    assert sorted(found.items.tolist()) == [1, 2]
    assert found.note == "only 2 items are left, fewer than k=3"


def test_a_request_without_items_gets_none_and_harms_nobody(table: PrefixTable, oracle: Any) -> None:
    filters = [ItemFilter(excluded=np.arange(60)), ItemFilter(), ItemFilter(np.array([8])), ItemFilter()]
    result = beam_search(tiny_model(), prompts(), table, settings=wide(table), filters=filters)
    assert [len(found.items) for found in result.found] == [0, 10, 1, 10]
    assert result.found[0].note == "the filter leaves no item"
    with pytest.raises(ConfigError, match="no item was found: the filter leaves no item"):
        result.found[0].required()
    assert result.found[2].note == "only 1 items are left, fewer than k=10"
    assert result.found[1].required().items.tolist() == np.argsort(-oracle[1])[:10].tolist()
    (alone,) = beam_search(tiny_model(), prompts()[:1], table, settings=wide(table), filters=filters[:1]).found
    assert len(alone.items) == 0


def test_normalised_over_the_allowed_the_shares_sum_to_one(table: PrefixTable) -> None:
    settings = wide(table, k=60, normalise="allowed")
    filters = [ItemFilter(), ItemFilter(excluded=np.arange(20))]
    result = beam_search(tiny_model(), prompts((4, 6)), table, settings=settings, filters=filters)
    for found, n_left in zip(result.found, (60, 40), strict=True):
        assert len(found.items) == n_left
        assert np.exp(found.logprobs).sum() == pytest.approx(1, abs=1e-6)


def test_few_hypotheses_for_each_prefix(table: PrefixTable, oracle: Any) -> None:
    settings = BeamSettings(beams=20, k=10)
    free = beam_search(tiny_model(), prompts(), table, settings=settings)
    spread = beam_search(tiny_model(), prompts(), table, settings=settings.model_copy(update={"per_prefix": 2}))
    first = table.item_paths()[:, 0]
    for one, other, scores in zip(spread.found, free.found, oracle, strict=True):
        assert np.bincount(first[one.items]).max() <= 2
        assert len(set(first[one.items])) >= len(set(first[other.items]))
        assert np.abs(one.scores - scores[one.items]).max() < TOLERANCE
    assert any(np.bincount(first[one.items]).max() > 2 for one in free.found)
    limited = BeamSettings(beams=20, k=20, per_prefix=1)
    (found,) = beam_search(tiny_model(), prompts((4,)), table, settings=limited).found
    assert len(found.items) == len(set(first.tolist()))  # one for each of the eight first codes
    assert "per_prefix=1" in found.note


def test_golden_rank_in_group() -> None:
    """Scores 5 3 4 1 of groups a b a a: ranks within the group 0 0 1 2."""
    rank = rank_in_group(torch.tensor([[5.0, 3.0, 4.0, 1.0]]), torch.tensor([[7, 9, 7, 7]]))
    assert rank.tolist() == [[0, 0, 1, 2]]


def test_draws_follow_the_model_without_replacement() -> None:
    """First and second of two draws, 4,000 seeds: p_i, and the sum over i of p_i p_j / (1 - p_i)."""
    table = PrefixTable.from_paths([[5, 6], [5, 7], [8, 9], [8, 6, 9], [10]])
    n, temperature = 4_000, 1.5
    settings = BeamSettings(beams=5, k=5, temperature=temperature, normalise="allowed", max_batch_tokens=200_000)
    prompt = prompts((3,))[0]
    seeds = list(range(n))
    result = beam_search(tiny_model(), [prompt] * n, table, settings=settings, seeds=seeds)
    share = _shares(table, prompt, temperature)
    drawn = np.stack([found.items for found in result.found])
    assert (np.sort(drawn, axis=1) == np.arange(5)).all()
    second = [sum(share[i] * share[j] / (1 - share[i]) for i in range(5) if i != j) for j in range(5)]
    for place, expected in ((0, share), (1, np.array(second))):
        seen = np.bincount(drawn[:, place], minlength=5) / n
        assert (np.abs(seen - expected) < 4 * np.sqrt(expected * (1 - expected) / n)).all()
    (alone,) = beam_search(tiny_model(), [prompt], table, settings=settings, seeds=[17]).found
    assert alone.items.tolist() == drawn[17].tolist(), "a draw depends on its seed alone"
    few = beam_search(
        tiny_model(), [prompt] * 20, table, settings=settings.model_copy(update={"k": 2, "beams": 2}), seeds=seeds[:20]
    )
    assert [found.items.tolist() for found in few.found] == drawn[:20, :2].tolist(), "narrow beams draw the same"


def _shares(table: PrefixTable, prompt: list[int], temperature: float) -> Any:
    """Probability of each item when every step chooses among the table's children at this temperature."""
    shares = np.ones(table.n_items)
    for item, path in enumerate(table.item_paths()):
        node = np.array([0])
        for place, token in enumerate(path[path >= 0]):
            with torch.inference_mode():
                ids = torch.tensor([[*prompt, *path[:place].tolist()]])
                logits = tiny_model()(input_ids=ids).logits[0, -1].double() / temperature
            children = table.children(node)
            chosen = torch.softmax(logits[torch.from_numpy(children.token)], dim=0).numpy()
            shares[item] *= chosen[children.token.tolist().index(int(token))]
            node = table.step(node, np.array([token]))
    return shares


def test_a_model_without_tree_masks_is_read_by_copying(table: PrefixTable, oracle: Any) -> None:
    eager = tiny_model(attn_implementation="eager")
    assert (best_layout(eager), best_layout(tiny_model())) == ("copied", "tree")
    result = beam_search(eager, prompts(), table, settings=wide(table))
    assert result.layout == "copied"
    for found, scores in zip(result.found, oracle, strict=True):
        assert found.items.tolist() == np.argsort(-scores)[:10].tolist()


def test_small_batches_give_the_same(table: PrefixTable, oracle: Any) -> None:
    result = beam_search(tiny_model(), prompts(), table, settings=wide(table, max_batch_tokens=1))
    for found, scores in zip(result.found, oracle, strict=True):
        assert found.items.tolist() == np.argsort(-scores)[:10].tolist()


def test_padding_on_either_side_is_taken_off() -> None:
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 0]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert unpadded(ids, mask) == [[5, 6], [7, 8, 9]]


def test_no_prompts_no_answers(table: PrefixTable) -> None:
    assert beam_search(tiny_model(), [], table).found == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": BeamSettings(beams=5, k=6)}, "k=6 and beams=5"),
        ({"settings": BeamSettings(temperature=1, length_penalty=1)}, "drawn items have no length penalty"),
        ({"filters": [ItemFilter()] * 3}, "got 3 filters"),
        ({"seeds": [1]}, "1 seeds"),
        ({"filters": [ItemFilter(excluded=[60])] * 4}, "rows 0 to 59, got 60"),
    ],
)
def test_calls_that_cannot_work_are_named(table: PrefixTable, arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        beam_search(tiny_model(), prompts(), table, **arguments)


def test_prompts_and_tables_that_do_not_fit_the_model_are_named(table: PrefixTable) -> None:
    with pytest.raises(ConfigError, match="prompt 1 is empty"):
        beam_search(tiny_model(), [[1], []], table)
    with pytest.raises(ModelError, match="129 tokens, the model's context is 128"):
        beam_search(tiny_model(), [[1] * 127], table)
    foreign = PrefixTable.from_paths([[60]])
    with pytest.raises(ConfigError, match="token 60, the model's vocabulary 60"):
        beam_search(tiny_model(), [[1]], foreign)
