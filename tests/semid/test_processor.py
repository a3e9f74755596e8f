"""The table inside `generate`, the checker of ids, grammars, and the benchmark's small form."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmrec.errors import ConfigError
from llmrec.lm.constraints import GrammarCompiler
from llmrec.lm.protocol import Constraint
from llmrec.semid import grammar
from llmrec.semid.beam import BeamSettings, beam_search
from llmrec.semid.device_table import DeviceTable
from llmrec.semid.filters import FilterBatch, ItemFilter
from llmrec.semid.prefix_table import PrefixTable
from llmrec.semid.processor import TableLogitsProcessor, prefix_allowed_tokens_fn
from tests.lm.conftest import SPECIALS, make_tokenizer
from tests.semid.decoding import END, equal_paths, prompts, tiny_model

USERS = 10_000


@pytest.fixture(scope="module")
def table() -> PrefixTable:
    return PrefixTable.from_paths(equal_paths())


def _generate(model: Any, asked: torch.Tensor, *, mask: torch.Tensor | None = None, **settings: Any) -> Any:
    mask = torch.ones_like(asked) if mask is None else mask
    defaults = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    return model.generate(asked, attention_mask=mask, **(defaults | settings))


def _draw(model: Any, asked: torch.Tensor, **settings: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _generate(model, asked, do_sample=True, **settings)


def test_generate_under_either_rule_gives_the_beam_searchs_items(table: PrefixTable) -> None:
    """With left padding, and with a filter for each prompt in the processor."""
    asked = prompts((4, 9, 6))
    ids = torch.zeros(3, 9, dtype=torch.long)
    mask = torch.zeros(3, 9, dtype=torch.long)
    for row, prompt in enumerate(asked):
        ids[row, 9 - len(prompt) :], mask[row, 9 - len(prompt) :] = torch.tensor(prompt), 1
    beams: dict[str, Any] = {"mask": mask, "num_beams": 6, "num_return_sequences": 6, "length_penalty": 0.0}
    filters = [ItemFilter(excluded=np.arange(30)), ItemFilter(), ItemFilter(np.arange(10))]
    chosen = FilterBatch(table, filters)
    rules: dict[str, Any] = {
        "free": {"logits_processor": [TableLogitsProcessor(DeviceTable(table), prompt_length=9)]},
        "function": {"prefix_allowed_tokens_fn": prefix_allowed_tokens_fn(table, prompt_length=9)},
        "filtered": {"logits_processor": [TableLogitsProcessor(DeviceTable(table), prompt_length=9, filters=chosen)]},
    }
    for name, rule in rules.items():
        out = _generate(tiny_model(), ids, **beams, **rule)
        items = np.array([table.items_of(path)[0] for path in out.sequences[:, 9:].tolist()]).reshape(3, 6)
        scores = out.sequences_scores.numpy().reshape(3, 6)
        used = filters if name == "filtered" else None
        mine = beam_search(tiny_model(), asked, table, settings=BeamSettings(beams=6, k=6), filters=used)
        for found, rows, values in zip(mine.found, items, scores, strict=True):
            assert found.items.tolist() == rows.tolist(), name
            assert np.abs(found.scores - values).max() < 1e-5, name


def test_generate_ends_paths_of_any_length(table: PrefixTable) -> None:
    ragged = PrefixTable.from_paths([[7], [7, 8, 9], [5, 6], [7, 8]], end=END)
    rule = TableLogitsProcessor(DeviceTable(ragged), prompt_length=4)
    asked = torch.tensor(prompts((4,))).repeat(50, 1)
    ends = {"max_new_tokens": 6, "eos_token_id": END, "pad_token_id": 0}
    out = _draw(tiny_model(), asked, temperature=5.0, logits_processor=[rule], **ends)
    written = out.sequences[:, 4:].numpy()
    written = np.where(written == 0, -1, written)
    assert ragged.illegal(written).tolist() == []
    assert len({tuple(path) for path in written.tolist()}) == 4


def test_a_filter_without_items_is_refused_at_once(table: PrefixTable) -> None:
    filters = FilterBatch(table, [ItemFilter(), ItemFilter(np.array([], dtype=np.int64))])
    with pytest.raises(ConfigError, match="filter of request 1 leaves no item"):
        TableLogitsProcessor(DeviceTable(table), prompt_length=3, filters=filters)


def test_no_illegal_id_in_ten_thousand_users_and_the_checker_sees_planted_ones(table: PrefixTable) -> None:
    model = tiny_model(hidden_size=16, num_hidden_layers=1)
    draw = np.random.default_rng(0)
    asked = torch.from_numpy(draw.integers(5, 60, (USERS, 4)))
    rule = TableLogitsProcessor(DeviceTable(table), prompt_length=4)
    written = _draw(model, asked, logits_processor=[rule]).sequences[:, 4:].numpy()
    assert len(table.illegal(written)) == 0
    planted = written.copy()
    planted[17, 2] = planted[17, 1]  # no third code
    planted[99] = -1  # nothing at all
    planted[500, 2] = -1  # not finished
    assert table.illegal(planted).tolist() == [17, 99, 500]
    free = _draw(model, asked[:200]).sequences[:, 4:].numpy()
    assert len(table.illegal(free)) > 150, "without the rule nearly all is illegal"


def test_ten_thousand_users_never_get_an_item_of_their_history(table: PrefixTable) -> None:
    model = tiny_model(hidden_size=16, num_hidden_layers=1)
    draw = np.random.default_rng(0)
    asked = draw.integers(5, 60, (USERS, 4)).tolist()
    history = draw.integers(0, 60, (USERS, 12))
    filters = [ItemFilter(excluded=rows) for rows in history]
    result = beam_search(model, asked, table, settings=BeamSettings(beams=4, k=2), filters=filters)
    items = np.stack([found.items for found in result.found])
    assert items.shape == (USERS, 2)
    assert not (items[:, :, None] == history[:, None, :]).any()
    assert (items[:, 0] != items[:, 1]).all()
    seen_in_history = (items[:-1, :, None] == history[1:, None, :]).any()
    assert seen_in_history, "the same check finds faults when histories are shifted by one user"


@pytest.fixture(scope="module")
def ids_tokenizer() -> Any:
    tokenizer = make_tokenizer(SPECIALS)
    tokenizer.add_tokens([f"<|{level}_{code}|>" for level in "abc" for code in range(4)])
    return tokenizer


@pytest.fixture(scope="module")
def small(ids_tokenizer: Any) -> PrefixTable:
    first = ids_tokenizer.convert_tokens_to_ids("<|a_0|>")
    paths = equal_paths(12, codes=4) - 5
    return PrefixTable.from_paths(paths + first)


def _accepts(compiler: GrammarCompiler, constraint: Constraint, path: list[int]) -> bool:
    """Whether the engine allows every token of a path and may end behind it."""
    state = compiler.start(constraint)
    for token in path:
        mask = torch.zeros((compiler_width(compiler) + 31) // 32, dtype=torch.int32)
        state.fill(mask)
        if not int(mask[token // 32]) >> (token % 32) & 1:
            return False
        state.accept(token)
    return state.finished


def compiler_width(compiler: GrammarCompiler) -> int:
    return int(compiler._tokenizer.vocab_size)


def test_the_grammar_accepts_every_id_and_no_other(ids_tokenizer: Any, small: PrefixTable) -> None:
    end = [int(ids_tokenizer.eos_token_id)]
    compiler = GrammarCompiler(ids_tokenizer, n_vocabulary=len(ids_tokenizer), end_tokens=end)
    lark = Constraint("lark", grammar.to_lark(small))
    legal = {tuple(path) for path in small.item_paths().tolist()}
    assert all(_accepts(compiler, lark, list(path)) for path in legal)
    first = int(ids_tokenizer.convert_tokens_to_ids("<|a_0|>"))
    every = [[first + a, first + 4 + b, first + 8 + c] for a in range(4) for b in range(4) for c in range(4)]
    illegal = [path for path in every if tuple(path) not in legal]
    assert len(illegal) == 52
    assert not any(_accepts(compiler, lark, path) for path in illegal)
    assert not _accepts(compiler, lark, [first, first])


def test_texts_of_paths_as_grammar_choices_and_regex(ids_tokenizer: Any) -> None:
    """Paths of plain text tokens, some of which an engine may spell with other tokens."""
    words = ["Alien", "Heat", "A film", "Alien.", "Heat (1995)"]
    paths = [ids_tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    end = int(ids_tokenizer.eos_token_id)
    table = PrefixTable.from_paths(paths, end=end)
    texts = [ids_tokenizer.decode([token]) for token in range(len(ids_tokenizer))]
    texts[end] = ""
    assert grammar.to_choices(table, texts) == sorted(words)
    pattern = re.compile(grammar.to_regex(table, texts))
    assert all(pattern.fullmatch(word) for word in words)
    assert not any(pattern.fullmatch(word) for word in ("Alien (1995)", "Hea", "", "Heat."))
    assert set(re.findall(r'"([^"]*)"', grammar.to_lark(table, texts))) <= set(texts)


def test_golden_grammar_of_three_items() -> None:
    table = PrefixTable.from_paths([[1, 3], [0, 2], [1, 2]])
    assert grammar.to_lark(table) == "start: <[0]> n1 | <[1]> n2\nn1: <[2]>\nn2: <[2,3]>\n"
    assert grammar.to_regex(table, ["a", "b", "c.", "d"]) == r"(?:ac\.|b(?:c\.|d))"
    assert grammar.to_choices(table, ["a", "b", "c.", "d"]) == ["ac.", "bc.", "bd"]


def test_a_grammar_too_large_to_compile_is_refused(monkeypatch: pytest.MonkeyPatch, table: PrefixTable) -> None:
    monkeypatch.setattr(grammar, "MAX_ITEMS", 59)
    with pytest.raises(ConfigError, match="a grammar of 60 items is too large"):
        grammar.to_lark(table)


def test_the_benchmark_agrees_with_generate_and_ends_in_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path(__file__).resolve().parents[2] / "eval" / "bench_decoding.py"
    monkeypatch.setattr("sys.argv", [str(script), "--quick", "--scale"])
    runpy.run_path(str(script), run_name="__main__")
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["ratio_12"] > 0
    assert figures["difference_20"] < 1e-4
    assert figures["filtered_s_5000"] > 0
