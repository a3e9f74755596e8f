"""LocalLM: the contract, both cache layouts, and every error of loading."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmrec.errors import ConfigError, ModelError, ModelNotFoundError
from llmrec.lm.adapters import stamp
from llmrec.lm.local import LocalLM
from llmrec.lm.protocol import Constraint, LanguageModel, Piece, Sampling
from llmrec.testing.language_model import CONTINUATIONS, PROMPT, LanguageModelContract
from tests.lm.conftest import Folders, make_model, make_tokenizer, save_adapter, save_model


class TestLocal(LanguageModelContract):
    def reference_score(self, lm: LanguageModel, prompt: str, continuation: str, adapter: str | None) -> float | None:
        """A forward pass over prompt and continuation, without cache, padding or batch."""
        assert isinstance(lm, LocalLM)
        head, tail = lm._codec.encode(prompt), lm._codec.encode(continuation)
        with lm._with_adapter(adapter):
            logprobs = lm._model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        return float(sum(logprobs[len(head) + place - 1, token] for place, token in enumerate(tail)))


class TestCopiedRows(TestLocal):
    """The layout for models that take no four-dimensional mask."""

    @pytest.fixture
    def lm(self, folders: Folders) -> LocalLM:
        adapters = {"red": folders.red, "blue": folders.blue}
        lm = LocalLM.from_folder(folders.base, adapters=adapters, dtype="float32", device="cpu")
        lm._tree = False
        return lm


class TestLiveAdapters(TestLocal):
    """Adapters beside the weights, as for large backbones."""

    @pytest.fixture
    def lm(self, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> LocalLM:
        monkeypatch.setattr("llmrec.lm.local.MERGE_BELOW", 0)
        adapters = {"red": folders.red, "blue": folders.blue}
        return LocalLM.from_folder(folders.base, adapters=adapters, dtype="float32", device="cpu")


class TestTinyBatches(TestLocal):
    """Every batch holds one call."""

    @pytest.fixture
    def lm(self, folders: Folders) -> LocalLM:
        adapters = {"red": folders.red, "blue": folders.blue}
        return LocalLM.from_folder(folders.base, adapters=adapters, dtype="float32", device="cpu", max_batch_tokens=1)


def test_both_layouts_and_both_kinds_of_adapters_draw_alike(folders: Folders, lm: LocalLM) -> None:
    copied = LocalLM.from_folder(folders.base, adapters={"red": folders.red}, dtype="float32", device="cpu")
    copied._tree = False
    sampling = Sampling(n=5, max_tokens=12, seed=2)
    one = asyncio.run(lm.generate(PROMPT, sampling=sampling, adapter="red"))
    other = asyncio.run(copied.generate(PROMPT, sampling=sampling, adapter="red"))
    assert [c.raw for c in one] == [c.raw for c in other]
    np.testing.assert_allclose([c.logprob for c in one], [c.logprob for c in other], atol=1e-4)
    assert lm._tree is True


def test_merged_and_live_adapters_agree(folders: Folders, lm: LocalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmrec.lm.local.MERGE_BELOW", 0)
    live = LocalLM.from_folder(folders.base, adapters={"blue": folders.blue}, dtype="float32", device="cpu")
    assert live._switch._peft is not None
    assert lm._switch._peft is None
    merged = asyncio.run(lm.score(PROMPT, CONTINUATIONS, adapter="blue"))
    np.testing.assert_allclose(merged, asyncio.run(live.score(PROMPT, CONTINUATIONS, adapter="blue")), atol=1e-3)


def test_a_windowed_model_uses_copied_rows_and_scores_right() -> None:
    """Sliding-window layers ignore a tree mask: the probe must notice, and long prompts must still be right."""
    tokenizer = make_tokenizer()
    model = make_model(
        tokenizer,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=0,
        layer_types=["sliding_attention", "full_attention"],
    )
    lm = LocalLM(model, tokenizer, name="windowed")
    head, tail = lm._codec.encode("Heat is a film about a thief and a policeman"), lm._codec.encode(" the sea")
    (score,) = asyncio.run(lm.score("Heat is a film about a thief and a policeman", [" the sea"]))
    with torch.inference_mode():
        logprobs = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
    expected = sum(float(logprobs[len(head) + place - 1, token]) for place, token in enumerate(tail))
    assert lm._tree is False
    assert score == pytest.approx(expected, abs=1e-3)


def test_logprob_is_that_of_the_generated_tokens_forced_ones_included(lm: LocalLM) -> None:
    constraint = Constraint(
        "json_schema", {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    )
    for given in (None, constraint):
        (completion,) = asyncio.run(lm.generate(PROMPT, sampling=Sampling(max_tokens=6, seed=4), constraint=given))
        draws = lm._decoder([lm._generate_job(PROMPT, Sampling(max_tokens=6, seed=4), (), given, None)])
        with torch.inference_mode():
            for _ in draws.steps():
                pass
            tokens = draws.draws[0].tokens
            head = lm._codec.encode(PROMPT)
            logprobs = lm._model(torch.tensor([[*head, *tokens]])).logits[0].log_softmax(-1)
        expected = sum(float(logprobs[len(head) + place - 1, token]) for place, token in enumerate(tokens))
        assert completion.n_tokens == len(tokens)
        assert completion.logprob == pytest.approx(expected, abs=1e-3)


def test_forced_tokens_need_few_forward_passes(lm: LocalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 0
    forward = lm._model.forward

    def counting(*args: object, **kwargs: object) -> object:
        nonlocal passes
        passes += 1
        return forward(*args, **kwargs)

    monkeypatch.setattr(lm._model, "forward", counting)
    constraint = Constraint("choice", ["recommend a film about the sea and its crew, please: something funny"])
    (completion,) = asyncio.run(lm.generate(PROMPT, constraint=constraint))
    assert completion.n_tokens > 8
    assert passes <= 3  # prompt, last prompt token, all forced tokens


def test_the_end_token_ends_a_sample_and_counts() -> None:
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    with torch.no_grad():  # a head that always answers <|im_end|>
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
        model.lm_head.bias[tokenizer.eos_token_id] = 20.0
    (completion,) = asyncio.run(LocalLM(model, tokenizer, name="ending").generate(PROMPT))
    assert (completion.raw, completion.n_tokens, completion.finish_reason) == ("", 1, "stop")
    assert completion.logprob == pytest.approx(0.0, abs=1e-4)


def _poisoned(folder: Path, value: float) -> LocalLM:
    """An adapter whose training ran away, beside a sound backbone."""
    base = save_model(folder / "base")
    save_adapter(folder / "wild", base, seed=1)
    weights_file = folder / "wild" / "adapter_model.safetensors"
    weights = load_file(weights_file)
    save_file({key: torch.full_like(one, value) for key, one in weights.items()}, weights_file)
    return LocalLM.from_folder(base, adapters={"wild": folder / "wild"}, dtype="float32", device="cpu")


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("constraint", [None, Constraint("choice", ["a film", "the sea"]), Constraint("choice", ["a"])])
def test_weights_that_are_no_numbers_are_one_clear_error(
    tmp_path: Path, temperature: float, constraint: Constraint | None
) -> None:
    """Sampling found a token behind the vocabulary; greedily the answer was one token over and over."""
    wild = _poisoned(tmp_path, float("nan"))
    sampling = Sampling(n=3, max_tokens=6, temperature=temperature)
    with pytest.raises(ModelError) as caught:
        asyncio.run(wild.generate(PROMPT, sampling=sampling, constraint=constraint, adapter="wild"))
    assert re.search(r"^the model 'base@\w+' with the adapter 'wild' gives NaN.*learning_rate", str(caught.value))
    assert "\n" not in str(caught.value)
    (sound,) = asyncio.run(wild.generate(PROMPT, sampling=Sampling(max_tokens=4), constraint=constraint))
    assert np.isfinite(sound.logprob)


def test_logits_that_overflow_are_the_same_error() -> None:
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, tie_word_embeddings=False)
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
    lm = LocalLM(model, tokenizer, name="overflowing")
    with torch.no_grad():
        model.lm_head.bias[7] = float("inf")
    for temperature in (0.0, 0.7):
        with pytest.raises(ModelError, match="the model 'overflowing' without adapter gives NaN or infinity"):
            asyncio.run(lm.generate(PROMPT, sampling=Sampling(max_tokens=4, temperature=temperature)))


def test_long_prompts_are_refused_with_both_lengths(lm: LocalLM) -> None:
    text = "a film " * 200
    n_tokens = lm.count_tokens(text)
    with pytest.raises(ModelError, match=rf"{n_tokens + 1} tokens.*context is 256"):
        asyncio.run(lm.generate(text))
    with pytest.raises(ModelError, match="context is 256"):
        asyncio.run(lm.score(text, [" a"]))
    with pytest.raises(ModelError, match="context is 256"):
        asyncio.run(lm.embed([text]))
    with pytest.raises(ModelError, match="empty"):
        asyncio.run(lm.generate(""))


def test_the_end_of_the_context_is_reported_as_length(lm: LocalLM) -> None:
    text = "a" * 1
    while lm.count_tokens(text + " film") <= 253:
        text += " film"
    (completion,) = asyncio.run(lm.generate(text, sampling=Sampling(max_tokens=50, seed=1)))
    assert completion.n_tokens == 256 - lm.count_tokens(text)
    assert completion.finish_reason == "length"


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(n=0),
        Sampling(max_tokens=0),
        Sampling(temperature=-1),
        Sampling(stop=("",)),
        Sampling(temperature=float("nan")),
    ],
)
def test_wrong_sampling_is_refused(lm: LocalLM, sampling: Sampling) -> None:
    with pytest.raises(ConfigError):
        asyncio.run(lm.generate(PROMPT, sampling=sampling))


def test_tools_need_messages(lm: LocalLM) -> None:
    with pytest.raises(ConfigError, match="messages"):
        asyncio.run(lm.generate(PROMPT, tools=[{"type": "function", "function": {"name": "search"}}]))


def test_a_streamed_sample_equals_a_generated_one(lm: LocalLM) -> None:
    sampling = Sampling(max_tokens=12, seed=6)

    async def pieces(sampling: Sampling) -> list[Piece]:
        return [piece async for piece in lm.stream(PROMPT, sampling=sampling, adapter="red")]

    (expected,) = asyncio.run(lm.generate(PROMPT, sampling=sampling, adapter="red"))
    streamed = asyncio.run(pieces(sampling))
    assert len(streamed) > 3
    assert "".join(piece.text for piece in streamed) == expected.raw
    assert streamed[-1].completion is not None
    assert streamed[-1].completion.raw == expected.raw
    stop = expected.raw[4:6]
    stopped = asyncio.run(pieces(Sampling(max_tokens=12, seed=6, stop=(stop,))))
    assert "".join(piece.text for piece in stopped) == expected.raw[: expected.raw.index(stop)]


def test_the_name_tells_weights_and_adapters(folders: Folders, lm: LocalLM, tmp_path: Path) -> None:
    other = save_model(tmp_path / "base", seed=9)
    assert LocalLM.from_folder(folders.base, dtype="float32").name.startswith("base@")
    assert LocalLM.from_folder(other, dtype="float32").name != LocalLM.from_folder(folders.base, dtype="float32").name
    assert "red:" in lm.name
    assert "blue:" in lm.name


# ---- loading


def _load(folder: Path, **adapters: Path) -> LocalLM:
    return LocalLM.from_folder(folder, adapters=adapters, dtype="float32", device="cpu")


def test_missing_folders_are_named(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        _load(tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        _load(tmp_path)
    with pytest.raises(ModelNotFoundError, match="no folder for adapter 'red'"):
        _load(folders.base, red=tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError, match=r"adapter_config\.json"):
        _load(folders.base, red=tmp_path)


def test_a_model_without_tokenizer_is_refused(folders: Folders, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folders.base / name, bare)
    with pytest.raises(ModelNotFoundError, match="no tokenizer"):
        _load(bare)


def test_damaged_weights_are_refused(folders: Folders, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folders.base, broken)
    data = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
        _load(broken)
    adapter = tmp_path / "adapter"
    shutil.copytree(folders.red, adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        _load(folders.base, red=adapter)


def test_an_adapter_of_another_shape_is_refused(folders: Folders, tmp_path: Path) -> None:
    wide = save_model(tmp_path / "wide", hidden=48)
    with pytest.raises(ConfigError, match=r"shape .* the model"):
        _load(folders.base, red=save_adapter(tmp_path / "red_wide", wide, seed=1))
    deep = save_model(tmp_path / "deep", layers=3)
    with pytest.raises(ConfigError, match="no weights for the module"):
        _load(deep, red=folders.red)
    with pytest.raises(ConfigError, match="no module"):
        _load(folders.base, red=save_adapter(tmp_path / "red_deep", deep, seed=1))


def test_an_adapter_of_another_backbone_of_the_same_shape_is_refused(folders: Folders, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", seed=5)
    adapter = save_adapter(tmp_path / "adapter", other, seed=1)
    stamp(adapter, other)
    assert _load(other, red=adapter).capabilities.adapters == ("red",)
    with pytest.raises(ConfigError, match="another backbone"):
        _load(folders.base, red=adapter)


def test_a_taken_adapter_name_is_refused(folders: Folders) -> None:
    lm = _load(folders.base, red=folders.red)
    with pytest.raises(ConfigError, match="loaded already"):
        lm.load_adapter("red", folders.blue)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    small = make_model(make_tokenizer(size=320))
    with pytest.raises(ConfigError, match="belong together"):
        LocalLM(small, make_tokenizer(), name="mixed")
