"""EndpointLM against the contract, over a real llama.cpp server with a tiny model and two adapters."""

from __future__ import annotations

import asyncio
import math
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmrec.errors import ModelError, UnsupportedError
from llmrec.lm.endpoint.engine import EndpointLM
from llmrec.lm.endpoint.settings import EndpointSettings
from llmrec.lm.local import LocalLM
from llmrec.lm.protocol import Constraint, LanguageModel, Message, Sampling
from llmrec.testing.gguf import save_gguf, save_gguf_adapter
from llmrec.testing.language_model import CHAT, CONTINUATIONS, OTHERS, PROMPT, LanguageModelContract
from llmrec.testing.models import save_tiny_model
from tests.lm.conftest import TEXT, Folders, save_adapter

xllamacpp: Any = pytest.importorskip("xllamacpp", reason="needs the extra gguf")
pytest.importorskip("gguf", reason="needs the extra gguf")
pytestmark = pytest.mark.models

CONTEXT = 512


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str) -> None:
    for _ in range(200):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    raise AssertionError(f"llama.cpp did not start at {url}")


def serve(
    file: Path, adapters: Sequence[Path] = (), *, embedding: bool = False, unified: bool = True
) -> tuple[Any, str]:
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_parallel, params.n_ctx = 2, 2 * CONTEXT
    params.cpuparams.n_threads = 1
    params.hostnames, params.port = ["127.0.0.1"], free_port()
    params.use_jinja, params.fit_params = True, False
    # by default the cache and flash attention round to 16 bits
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    loras = []
    for adapter in adapters:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = str(adapter), 1.0
        loras.append(lora)
    params.lora_adapters = loras
    if embedding:
        params.kv_unified = unified
        params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    url = f"http://127.0.0.1:{params.port}"
    wait_for(url)
    return server, url


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("served")
    base = save_tiny_model(root / "base", texts=TEXT)
    return Folders(base, save_adapter(root / "red", base, seed=1), save_adapter(root / "blue", base, seed=2))


@pytest.fixture(scope="module")
def local(models: Folders) -> LocalLM:
    adapters = {"red": models.red, "blue": models.blue}
    return LocalLM.from_folder(models.base, adapters=adapters, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def tiny(models: Folders) -> Path:
    return save_gguf(models.base, models.base.parent / "tiny.gguf")


@pytest.fixture(scope="module")
def lm(models: Folders, tiny: Path) -> Iterator[EndpointLM]:
    root = models.base.parent
    loras = [save_gguf_adapter(folder, root / f"{folder.name}.gguf") for folder in (models.red, models.blue)]
    server, url = serve(tiny, loras)
    yield EndpointLM.connect(url)
    del server


class TestEndpoint(LanguageModelContract):
    json_tokens = 400
    always_logprobs = False  # llama.cpp reports none for bytes that are not whole characters, as a random model writes

    @pytest.fixture(autouse=True)
    def _reference(self, local: LocalLM) -> None:
        self.local = local

    def reference_score(self, lm: LanguageModel, prompt: str, continuation: str, adapter: str | None) -> float | None:
        """A forward pass in transformers, over the same tokens."""
        head, tail = self.local._codec.encode(prompt), self.local._codec.encode(continuation)
        with self.local._with_adapter(adapter):
            logprobs = self.local._model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        return float(sum(logprobs[len(head) + place - 1, token] for place, token in enumerate(tail)))

    def rendered(self, lm: LanguageModel, messages: Sequence[Message]) -> str | None:
        return self.local.render(messages)


def test_the_server_tells_what_it_has(lm: EndpointLM) -> None:
    assert lm.context == CONTEXT
    assert lm.capabilities.adapters == ("red", "blue")
    assert "embed" not in lm.capabilities.verbs
    assert lm.name.startswith("endpoint:tiny.gguf(")
    assert lm.name.endswith("+blue,red")


def test_the_logprob_of_a_sample_is_that_of_the_model(lm: EndpointLM, local: LocalLM) -> None:
    """At any temperature: that at temperature 1, summed over all tokens."""
    checked = 0
    for temperature in (0.0, 1.0, 3.0):
        sampling = Sampling(n=30, max_tokens=3, temperature=temperature, seed=4)
        for completion in asyncio.run(lm.generate(PROMPT, sampling=sampling)):
            tokens = local._codec.encode(completion.raw)
            if math.isnan(completion.logprob) or len(tokens) != completion.n_tokens:
                continue  # bytes that are no characters, or text that is written with other tokens
            (score,) = asyncio.run(lm.score(PROMPT, [completion.raw]))
            assert completion.logprob == pytest.approx(score, abs=1e-3)
            checked += 1
    assert checked >= 8


def test_samples_at_temperature_1_are_the_models_distribution(lm: EndpointLM, local: LocalLM) -> None:
    """Among 300 first tokens, those outside the server's default top 40 occur as often as the model says."""
    head = local._codec.encode(PROMPT)
    with local._with_adapter(None):
        probabilities = local._model(torch.tensor([head])).logits[0, -1].softmax(-1)
    tail = float(1 - probabilities.topk(40).values.sum())
    assert tail > 0.15, "this model's distribution is too narrow for the test"
    likely = {local._codec.decode([int(token)]) for token in probabilities.topk(40).indices}
    samples = asyncio.run(lm.generate(PROMPT, sampling=Sampling(n=300, max_tokens=1, seed=9)))
    share = sum(sample.raw not in likely for sample in samples) / len(samples)
    assert abs(share - tail) < 4 * (tail * (1 - tail) / 300) ** 0.5 + 0.02  # specials read as ""


def test_a_stream_ends_with_what_generate_gives(lm: EndpointLM) -> None:
    films = Constraint("choice", ["The crew finds a creature in the ship", "A thief and a policeman"])
    for prompt in (PROMPT, CHAT):
        sampling = Sampling(max_tokens=60, seed=5)

        async def collect(prompt: Any = prompt, sampling: Sampling = sampling) -> list[Any]:
            return [piece async for piece in lm.stream(prompt, sampling=sampling, constraint=films)]

        pieces = asyncio.run(collect())
        (whole,) = asyncio.run(lm.generate(prompt, sampling=sampling, constraint=films))
        assert len(pieces) > 3
        assert "".join(piece.text for piece in pieces) == whole.raw
        assert pieces[-1].completion.text == whole.text
        assert pieces[-1].completion.n_tokens == whole.n_tokens


def test_a_score_needs_one_request_for_each_prefix(lm: EndpointLM) -> None:
    before = lm.usage
    asyncio.run(lm.score(PROMPT, [" a", " a", ""]))
    used = lm.usage.requests - before.requests
    assert used <= 2, "one question, and one more when the token is not among the likeliest"


def test_prompts_and_adapters_in_any_order_do_not_mix(lm: EndpointLM, local: LocalLM) -> None:
    """llama.cpp's prompt cache gives parts of prompts that were read with another adapter, so it must stay off."""
    draw = np.random.default_rng(0)
    prompts, adapters = (PROMPT, *OTHERS, "The crew finds a thief", "Alien is a ship"), (None, "red", "blue")
    for _ in range(60):
        prompt, adapter = prompts[draw.integers(len(prompts))], adapters[draw.integers(len(adapters))]
        scores = asyncio.run(lm.score(prompt, CONTINUATIONS, adapter=adapter))
        expected = asyncio.run(local.score(prompt, CONTINUATIONS, adapter=adapter))
        assert scores == pytest.approx(expected, abs=1e-3)


def test_prompt_tokens_are_counted_as_the_model_reads_them(lm: EndpointLM, local: LocalLM) -> None:
    assert asyncio.run(lm.prompt_tokens(PROMPT)) == local.count_tokens(PROMPT)
    assert asyncio.run(lm.prompt_tokens(CHAT)) == local.count_tokens(CHAT)


def test_an_answer_may_not_pass_the_context(lm: EndpointLM) -> None:
    with pytest.raises(ModelError, match=rf"context.* is {CONTEXT}"):
        asyncio.run(lm.score("x y z " * CONTEXT, CONTINUATIONS))


def test_a_server_for_embeddings_embeds(tiny: Path, local: LocalLM) -> None:
    server, url = serve(tiny, embedding=True)
    lm = EndpointLM.connect(EndpointSettings(base_url=url))
    assert lm.capabilities.verbs == {"generate", "score", "embed"}, "this llama.cpp writes too"
    vectors = asyncio.run(lm.embed([PROMPT, "Heat is"]))
    expected = asyncio.run(local.embed([PROMPT, "Heat is"]))
    expected = expected / (expected**2).sum(axis=1, keepdims=True) ** 0.5  # llama.cpp scales them to length 1
    assert vectors == pytest.approx(expected, abs=1e-3)
    del server


def test_a_server_that_mixes_texts_up_does_not_embed(tiny: Path) -> None:
    """With a cache for each slot, llama.cpp pools only the last part of a text that is read beside a shorter one."""
    server, url = serve(tiny, embedding=True, unified=False)
    lm = EndpointLM.connect(url)
    assert lm.capabilities.verbs == {"generate", "score"}
    with pytest.raises(UnsupportedError, match="--kv-unified"):
        asyncio.run(lm.embed([PROMPT]))
    del server
