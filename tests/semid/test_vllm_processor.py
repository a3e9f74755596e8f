"""The table inside a real vLLM engine.

pytest tests/semid/test_vllm_processor.py -m models
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from llmrec.semid.beam import BeamSettings, beam_search
from llmrec.semid.filters import ItemFilter
from llmrec.semid.prefix_table import PrefixTable
from llmrec.semid.table_file import save_table
from tests.lm.conftest import save_model
from tests.semid.decoding import END, equal_paths

pytest.importorskip("vllm", reason="needs vLLM, in an environment of its own")
pytestmark = [
    pytest.mark.models,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # vLLM's, about its own dependencies
]

PROCESSOR = "llmrec.semid.vllm_processor:TableProcessor"
RAGGED = [[20], [20, 21, 22], [23, 24], [20, 21]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vllm")
    save_model(root / "base", head_dim=32)
    save_table(PrefixTable.from_paths(equal_paths()), root / "table")
    save_table(PrefixTable.from_paths(RAGGED, end=END), root / "ragged")
    return root


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Any]:
    from llmrec.lm.vllm_setup import require_vllm

    require_vllm()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("LLMREC_PREFIX_TABLE", str(folder / "table"))
        from vllm import LLM

        yield LLM(
            model=str(folder / "base"),
            dtype="float32",
            enforce_eager=True,
            max_model_len=128,
            max_num_seqs=16,
            kv_cache_memory_bytes=1 << 28,
            generation_config="vllm",
            logits_processors=[PROCESSOR],
        )


def _prompts(n: int) -> list[list[int]]:
    draw = np.random.default_rng(4)
    return [draw.integers(5, 300, int(length)).tolist() for length in draw.integers(3, 20, n)]


def _write(engine: Any, prompts: list[list[int]], params: Any) -> list[list[int]]:
    asked = [{"prompt_token_ids": prompt} for prompt in prompts]
    return [list(output.outputs[0].token_ids) for output in engine.generate(asked, params, use_tqdm=False)]


def _params(folder: Path | bool, **settings: Any) -> Any:
    from vllm import SamplingParams

    extra = settings.pop("extra", {})
    place = folder if isinstance(folder, bool) else str(folder)
    return SamplingParams(**({"max_tokens": 3} | settings), extra_args={"prefix_table": place, **extra})


def test_draws_are_legal_beside_requests_without_a_table(engine: Any, folder: Path) -> None:
    """200 constrained requests in batches of 16 that free ones join and leave: rows move, and none is illegal."""
    from vllm import SamplingParams

    table = PrefixTable.from_paths(equal_paths())
    prompts = _prompts(200)
    params = [
        _params(folder / "table", temperature=1.0, seed=number)
        if number % 3
        else SamplingParams(temperature=1.0, seed=number, max_tokens=2 + number % 5, ignore_eos=True)
        for number in range(200)
    ]
    written = _write(engine, prompts, params)
    bound = np.array([tokens for number, tokens in enumerate(written) if number % 3])
    free = [tokens for number, tokens in enumerate(written) if number % 3 == 0]
    assert len(table.illegal(bound)) == 0
    assert len({tuple(path) for path in bound.tolist()}) > 20
    assert not all(table.items_of(tokens[:3]).tolist() for tokens in free)


def test_greedy_items_are_those_of_the_beam_search(engine: Any, folder: Path) -> None:
    """Also with filters, which differ from request to request."""
    table = PrefixTable.from_paths(equal_paths())
    prompts = _prompts(12)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype="float32").eval()
    filters = [ItemFilter(excluded=np.arange(number * 4)) for number in range(12)]
    for used in (None, filters):
        settings = BeamSettings(beams=1, k=1, normalise="allowed")
        mine = beam_search(model, prompts, table, settings=settings, filters=used)
        params = [
            _params(True, temperature=0.0, extra={"prefix_table_excluded": list(range(number * 4 if used else 0))})
            for number in range(12)
        ]
        written = _write(engine, prompts, params)
        assert [table.items_of(tokens).tolist() for tokens in written] == [found.items.tolist() for found in mine.found]


def test_paths_of_any_length_end_with_their_token(engine: Any, folder: Path) -> None:
    table = PrefixTable.from_paths(RAGGED, end=END)
    params = [
        _params(folder / "ragged", temperature=1.0, seed=n, max_tokens=8, stop_token_ids=[END]) for n in range(40)
    ]
    written = _write(engine, _prompts(40), params)
    assert all(table.items_of(tokens).tolist() for tokens in written)
    assert len({len(tokens) for tokens in written}) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folder": "nowhere"}, "no readable prefix table"),
        ({"max_tokens": 2}, "max_tokens=2 cuts paths of 3"),
        ({"max_tokens": 4}, "no stop_token_ids"),
        ({"extra": {"prefix_table_allowed": []}}, "leaves no item"),
        ({"extra": {"prefix_table_excluded": "7"}}, "must be a list of item rows, got '7'"),
        ({"extra": {"prefix_table_allowed": [60]}}, "rows 0 to 59, got 60"),
        ({"extra": {"prefix_table": 5}}, "must name a folder"),
    ],
)
def test_requests_that_cannot_be_answered_are_refused(
    engine: Any, folder: Path, settings: dict[str, Any], message: str
) -> None:
    from vllm.exceptions import VLLMValidationError

    others = {name: value for name, value in settings.items() if name != "folder"}
    params = _params(folder / settings.get("folder", "table"), **others)
    with pytest.raises(VLLMValidationError, match=message):
        _write(engine, _prompts(1), params)
