"""The backbone as generator of ids: exact scores, search, filters, errors, and a fresh process without this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec.benchmark.protocol import evaluate
from llmrec.data.catalogue import Catalogue
from llmrec.data.dataset import Dataset
from llmrec.data.splits import Split
from llmrec.errors import CacheError, ConfigError, DataError, UnsupportedError
from llmrec.lm.local import LocalLM
from llmrec.lm.scripted import ScriptedLM
from llmrec.retrieval.base import Recommender
from llmrec.retrieval.semantic_lm import SemanticLmConfig, SemanticLmRecommender
from llmrec.retrieval.semantic_prompts import search_prompt
from llmrec.semid.codes import SemanticIds
from llmrec.semid.exact import exact_scores
from llmrec.semid.tokens import extend_backbone, id_paths, token_numbers, trainable_rows
from llmrec.testing.models import save_tiny_model
from tests.retrieval.conftest import FILMS, catalogue_of

ALL = SemanticLmConfig(beams=18)


@pytest.fixture(scope="module")
def folder(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extended backbone, with an adapter as training would leave it."""
    root = tmp_path_factory.mktemp("semantic")
    rows = np.arange(len(catalogue))
    ids = SemanticIds.from_prefixes(
        np.stack([rows % 4, rows // 8], axis=1), (4, 3), catalogue_hash=catalogue.content_hash
    )
    plain = save_tiny_model(root / "plain", texts=[catalogue.flat(int(row)) for row in rows])
    extend_backbone(plain, root / "backbone", ids)
    model = AutoModelForCausalLM.from_pretrained(root / "backbone")
    tokens = token_numbers(AutoTokenizer.from_pretrained(root / "backbone"), ids)
    lora = LoraConfig(
        r=4, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM",
        trainable_token_indices=trainable_rows(model, tokens),
    )  # fmt: skip
    wrapped: Any = get_peft_model(model, lora)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=draw)
    wrapped.save_pretrained(str(root / "adapter"))
    return root


@pytest.fixture(scope="module")
def lm(folder: Path) -> LocalLM:
    return LocalLM.from_folder(folder / "backbone", adapters={"semantic": folder / "adapter"}, dtype="float32")


@pytest.fixture(scope="module")
def fitted(lm: LocalLM, folder: Path, catalogue: Catalogue) -> SemanticLmRecommender:
    recommender = SemanticLmRecommender(lm, ids=folder / "backbone", config=ALL)
    recommender.index_catalogue(catalogue)
    return recommender


def _plain_logprobs(folder: Path, prompt: str, ids: SemanticIds) -> np.ndarray:
    """Log-probability of every item's id by transformers and peft alone, one forward pass per item."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "backbone")
    base = AutoModelForCausalLM.from_pretrained(folder / "backbone")
    model = PeftModel.from_pretrained(base, folder / "adapter").eval()
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    totals = []
    with torch.inference_mode():
        for path in id_paths(tokenizer, ids).tolist():
            logits = model(input_ids=torch.tensor([start + path])).logits[0].log_softmax(dim=1)
            totals.append(sum(float(logits[len(start) - 1 + step, token]) for step, token in enumerate(path)))
    return np.array(totals)


async def test_scores_are_the_models_own(fitted: SemanticLmRecommender, folder: Path) -> None:
    histories = [np.array([0, 4, 9]), np.array([], dtype=np.int64), np.array([7])]
    scores = await fitted.score(histories)
    assert scores.shape == (3, len(FILMS))
    for line, history in zip(scores, histories, strict=True):
        want = _plain_logprobs(folder, fitted.prompt(history.tolist()), fitted.ids)
        reached = np.isfinite(line)
        np.testing.assert_array_equal(np.flatnonzero(~reached), history)  # all but the history's items
        np.testing.assert_allclose(line[reached], want[reached], atol=1e-4)
    alone = await fitted.score(histories[2:])
    np.testing.assert_allclose(alone[0], scores[2], atol=1e-4)


async def test_search_finds_what_exact_scoring_finds(fitted: SemanticLmRecommender, lm: LocalLM) -> None:
    found = await fitted.search("horror 1970s", 5)
    with lm.opened([search_prompt("horror 1970s")], adapter="semantic") as opened:
        exact = exact_scores(opened.model, opened.prompts, fitted._table)[0]  # type: ignore[arg-type]
    assert found.items.tolist() == np.argsort(-exact, kind="stable")[:5].tolist()
    np.testing.assert_allclose(found.logprobs, np.sort(exact)[::-1][:5], atol=1e-4)


async def test_filters_of_a_search(fitted: SemanticLmRecommender) -> None:
    free = (await fitted.search("comedy", 3)).items
    without = (await fitted.search("comedy", 3, excluded=free)).items
    assert not set(free.tolist()) & set(without.tolist())
    few = await fitted.search("comedy", 3, allowed=np.array([2, 5]))
    assert sorted(few.items.tolist()) == [2, 5]
    assert "only 2 items" in few.note
    none = await fitted.search("comedy", 3, allowed=np.array([2]), excluded=[2])
    assert not len(none.items)
    assert "leaves no item" in none.note
    more = await fitted.search("comedy", 100)  # more than the catalogue has
    assert len(more.items) == len(FILMS)


async def test_history_and_query_read_other_prompts(fitted: SemanticLmRecommender, catalogue: Catalogue) -> None:
    plain = fitted.prompt([0, 1])
    assert plain == f"<|history|>{fitted.ids.text_of(0)}{fitted.ids.text_of(1)}"
    titled = SemanticLmRecommender(
        fitted.lm, ids=fitted.ids, config=SemanticLmConfig(titles=True, history_items=1, beams=18)
    )
    titled.index_catalogue(catalogue)
    assert titled.prompt([0, 1]) == f"<|history|>{fitted.ids.text_of(1)} Aliens (1986)"
    assert search_prompt("x <|a_1|>\ny") == "<|search|>x y<|id|>"
    assert not np.allclose((await titled.score([np.array([1])]))[0, 5:], (await fitted.score([np.array([1])]))[0, 5:])


async def test_draws_depend_on_the_seed_and_the_history_alone(
    fitted: SemanticLmRecommender, catalogue: Catalogue
) -> None:
    drawn = SemanticLmRecommender(fitted.lm, ids=fitted.ids, config=SemanticLmConfig(beams=4, temperature=1.0))
    drawn.index_catalogue(catalogue)
    history, other = np.array([3, 6]), np.array([1])
    first, again, batched = (
        await drawn.score([history], seed=1),
        await drawn.score([history], seed=1),
        await drawn.score([other, history], seed=1),
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(batched[1], first[0], atol=1e-4)
    lists = {tuple(np.flatnonzero(np.isfinite((await drawn.score([history], seed=s))[0]))) for s in range(8)}
    assert len(lists) > 1


async def test_under_the_protocol(fitted: SemanticLmRecommender, dataset: Dataset, split: Split) -> None:
    assert isinstance(fitted, Recommender)
    result = (await evaluate(dataset, [fitted], split=split, ks=(1, 10), n_resamples=50)).models["semantic-lm"]
    assert result.failed == 0
    assert "beam search with 18 beams" in result.note


async def test_bad_input_is_named(
    fitted: SemanticLmRecommender, lm: LocalLM, folder: Path, catalogue: Catalogue
) -> None:
    with pytest.raises(DataError, match="item row 99"):
        await fitted.score([np.array([1, 99])])
    with pytest.raises(ConfigError, match="needs a query"):
        await fitted.search("  ")
    with pytest.raises(ConfigError, match="at least 1"):
        await fitted.search("x", 0)
    with pytest.raises(UnsupportedError, match="ScriptedLM"):
        SemanticLmRecommender(ScriptedLM([]), ids=fitted.ids)
    with pytest.raises(ConfigError, match="not fitted"):
        await SemanticLmRecommender(lm, ids=fitted.ids).score([np.array([1])])
    with pytest.raises(UnsupportedError, match="'absent'"):
        SemanticLmRecommender(lm, ids=fitted.ids, adapter="absent").index_catalogue(catalogue)
    changed = catalogue_of(FILMS[:-1])
    with pytest.raises(CacheError, match=f"{catalogue.content_hash}.*{changed.content_hash}"):
        SemanticLmRecommender(lm, ids=folder / "backbone").index_catalogue(changed)
    bare = LocalLM.from_folder(folder / "plain", dtype="float32")
    with pytest.raises(ConfigError, match="extended with these ids"):
        SemanticLmRecommender(bare, ids=fitted.ids, adapter=None).index_catalogue(catalogue)


_FRESH = """
import json, sys
import numpy as np, torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
root, prompt = sys.argv[1], sys.argv[2]
tokenizer = AutoTokenizer.from_pretrained(root + "/backbone")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(root + "/backbone"), root + "/adapter").eval()
codes = load_file(root + "/backbone/semantic_ids/semantic_ids.safetensors")["codes"]
start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
totals = []
with torch.inference_mode():
    for row in codes:
        texts = ["<|%s_%d|>" % (letter, code) for letter, code in zip("abcdefgh", row)]
        path = tokenizer.convert_tokens_to_ids(texts)
        logits = model(input_ids=torch.tensor([start + path])).logits[0].log_softmax(dim=1)
        totals.append(sum(float(logits[len(start) - 1 + i, token]) for i, token in enumerate(path)))
assert not any(name.startswith("llmrec") for name in sys.modules)
print(json.dumps(np.argsort(-np.array(totals), kind="stable").tolist()))
"""


async def test_a_fresh_process_without_this_package_gives_the_same_top_10(
    fitted: SemanticLmRecommender, folder: Path
) -> None:
    history = [0, 4, 9]
    done = subprocess.run(
        [sys.executable, "-c", _FRESH, str(folder), fitted.prompt(history)],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranked = [row for row in json.loads(done.stdout.splitlines()[-1]) if row not in history]
    scores = (await fitted.score([np.array(history)]))[0]
    assert ranked[:10] == np.argsort(-scores, kind="stable")[:10].tolist()
