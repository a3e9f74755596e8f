"""What of the vLLM engine can be seen without vLLM: settings, checks before the start, how to get it, its thread."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmrec.errors import ConfigError, MissingDependencyError, ModelError, ModelNotFoundError
from llmrec.lm import vllm_host, vllm_setup
from llmrec.lm.loading import load_backbone
from llmrec.lm.vllm_host import EngineHost, EngineRequest
from llmrec.lm.vllm_setup import (
    VllmSettings,
    check_device,
    load_text,
    lora_modules,
    lora_rank,
    number_type,
    read_settings,
    require_vllm,
)
from tests.lm.conftest import Folders


def _settings(folder: Path, text: str) -> Path:
    path = folder / "engine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_vllm_one_line_says_how_to_get_it(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_setup, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"run: pip install 'llmrec\[vllm\]'") as caught:
        load_backbone(f"vllm:{folders.base}")
    assert "\n" not in str(caught.value)


def test_a_broken_installation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise OSError('libtorch does not fit')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr(os, "environ", {**os.environ})
    with pytest.raises(ConfigError, match="libtorch does not fit"):
        require_vllm()


def test_settings_come_from_a_folder_a_hub_id_or_a_file(folders: Folders, tmp_path: Path) -> None:
    assert read_settings(folders.base) == VllmSettings(model=str(folders.base))
    assert read_settings("Qwen/Qwen3-0.6B").model == "Qwen/Qwen3-0.6B"
    path = _settings(tmp_path, f"model: {folders.base}\nmax_model_len: 4096\nkv_cache_gib: 2\n")
    assert read_settings(path) == VllmSettings(model=str(folders.base), max_model_len=4096, kv_cache_gib=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_model_len: 10\n", "model: Field required"),
        ("model: a\nmax_model_len: 0\n", "max_model_len: Input should be greater than 0"),
        ("model: a\nmemory: 3\n", "memory: Extra inputs"),
        ("model: [\n", "cannot be read"),
        ("- a\n", "are wrong"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(_settings(tmp_path, text))
    with pytest.raises(ConfigError, match="nowhere"):
        read_settings(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes("model: caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"cannot be read from .*latin\.yaml"):
        read_settings(tmp_path / "latin.yaml")


def test_a_device_that_vllm_was_not_built_for_is_refused() -> None:
    check_device("auto", on_cpu=True)
    check_device("cuda", on_cpu=False)
    for device, on_cpu in (("cuda", True), ("cpu", False), ("cuda:1", False)):
        with pytest.raises(ConfigError, match=f"got device '{device}'"):
            check_device(device, on_cpu=on_cpu)


def test_number_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMREC_DTYPE", raising=False)
    assert number_type("auto", on_cpu=False) == "auto"
    assert number_type("bf16", on_cpu=False) == "bfloat16"
    assert number_type("fp32", on_cpu=True) == "float32"
    assert number_type("auto", on_cpu=True) in ("float32", "bfloat16")
    monkeypatch.setenv("LLMREC_DTYPE", "float16")
    assert number_type("auto", on_cpu=False) == number_type("fp32", on_cpu=True) == "float16"
    monkeypatch.setenv("LLMREC_DTYPE", "int3")
    with pytest.raises(ConfigError, match="int3"):
        number_type("auto", on_cpu=False)


def test_adapters_say_their_rank_and_modules(folders: Folders, tmp_path: Path) -> None:
    """The adapters of these folders have rank 4 and change q_proj, v_proj and down_proj; 8 is vLLM's smallest rank."""
    assert lora_rank([folders.red, folders.blue]) == 8
    assert lora_modules([folders.red, folders.blue]) == ["down_proj", "q_proj", "v_proj"]
    for config, rank in (({"r": 9}, 16), ({"r": 4, "rank_pattern": {"q_proj": 64}}, 64)):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        assert lora_rank([tmp_path, folders.red]) == rank
    for config in ({"r": 513}, {}):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(ConfigError, match="rank 1 to 512"):
            lora_rank([tmp_path])


def test_adapters_that_vllm_cannot_apply_are_refused(tmp_path: Path) -> None:
    for name, key in (
        ("head", "base_model.model.lm_head.lora_A.weight"),
        ("saved", "base_model.model.model.norm.weight"),
    ):
        (tmp_path / name).mkdir()
        save_file({key: np.zeros((4, 8), np.float32)}, tmp_path / name / "adapter_model.safetensors")
        with pytest.raises(ConfigError, match=re.escape(key)):
            lora_modules([tmp_path / name])
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        lora_modules([tmp_path])


def test_the_text_side_of_a_model(folders: Folders, tmp_path: Path) -> None:
    text = load_text(str(folders.base))
    assert text.name.startswith("base@")
    assert text.content_hash is not None
    assert text.ends.config.eos_token_id == text.tokenizer.eos_token_id
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        load_text(str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="no model folder"):
        load_text(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text((folders.base / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(ModelNotFoundError, match="tokenizer"):
        load_text(str(tmp_path))


# ---- the thread that owns an engine, with an engine of a few lines in vLLM's place


class Engine:
    """Writes 1, then does what it is told."""

    def __init__(self, then: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._then = then
        self.errored, self.working = False, 0

    async def generate(self, prompt: Any, params: Any, *, request_id: str, lora_request: Any) -> AsyncIterator[int]:
        self.working += 1
        try:
            yield 1
            await self._then()
            yield 2
        finally:
            self.working -= 1

    def shutdown(self) -> None:
        return


async def _fail() -> None:
    raise RuntimeError("boom")


async def _work() -> None:
    await asyncio.sleep(600)


Start = Callable[[Callable[[], Coroutine[Any, Any, None]]], tuple[EngineHost, Engine]]
REQUEST = EngineRequest((1, 2), None)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a host; the names that it imports from vLLM are there."""
    exceptions, inputs = ModuleType("vllm.exceptions"), ModuleType("vllm.inputs.engine")
    vars(exceptions).update(VLLMError=OSError, VLLMClientError=FileNotFoundError)
    vars(inputs).update(tokens_input=lambda tokens: tokens)
    for name in ("vllm", "vllm.inputs"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.exceptions", exceptions)
    monkeypatch.setitem(sys.modules, "vllm.inputs.engine", inputs)
    hosts: list[EngineHost] = []

    def started(then: Callable[[], Coroutine[Any, Any, None]]) -> tuple[EngineHost, Engine]:
        engine = Engine(then)

        async def start_engine(state: Any, arguments: Mapping[str, Any]) -> None:
            state.engine, state.death = engine, asyncio.get_running_loop().create_future()

        async def load(engine: Any, adapters: Any) -> Mapping[str, Any]:
            return {}

        monkeypatch.setattr(vllm_host, "_start", start_engine)
        monkeypatch.setattr(vllm_host, "_load", load)
        hosts.append(EngineHost({}, {}))
        return hosts[-1], engine

    yield started
    for host in hosts:
        host.close()


async def _stream(host: EngineHost) -> None:
    async for output in host.stream(REQUEST):
        assert output == 1


async def _run(host: EngineHost) -> None:
    await host.run([REQUEST, REQUEST])


@pytest.mark.parametrize("call", [_stream, _run])
def test_whatever_an_engine_raises_is_a_model_error(
    start: Start, call: Callable[[EngineHost], Coroutine[Any, Any, None]]
) -> None:
    host, engine = start(_fail)
    with pytest.raises(ModelError, match=r"vLLM engine failed: RuntimeError\('boom'\)"):
        asyncio.run(asyncio.wait_for(call(host), 5))
    assert not engine.working


@pytest.mark.parametrize("call", [_stream, _run])
def test_what_fails_outside_of_the_engine_is_a_model_error_too(
    start: Start, call: Callable[[EngineHost], Coroutine[Any, Any, None]]
) -> None:
    host, _ = start(_work)
    host._started.engine = SimpleNamespace(shutdown=lambda: None)  # has no generate
    with pytest.raises(ModelError, match=r"vLLM engine failed: AttributeError"):
        asyncio.run(asyncio.wait_for(call(host), 5))


@pytest.mark.parametrize("call", [_stream, _run])
def test_a_call_under_way_ends_when_the_engine_is_closed(
    start: Start, call: Callable[[EngineHost], Coroutine[Any, Any, None]]
) -> None:
    host, engine = start(_work)

    async def close_meanwhile() -> None:
        task = asyncio.create_task(call(host))
        while not engine.working:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(host.close)
        await asyncio.wait_for(task, 5)

    with pytest.raises(ModelError, match="vLLM engine was closed; load the model again"):
        asyncio.run(close_meanwhile())


@pytest.mark.parametrize("call", [_stream, _run])
def test_a_closed_engine_refuses_and_leaves_nothing_unawaited(
    start: Start, call: Callable[[EngineHost], Coroutine[Any, Any, None]]
) -> None:
    host, _ = start(_work)
    host.close()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(ModelError, match="vLLM engine is closed; load the model again"):
            asyncio.run(asyncio.wait_for(call(host), 5))
        gc.collect()
    assert not [str(warning.message) for warning in seen if "never awaited" in str(warning.message)]


@pytest.mark.parametrize("call", [_stream, _run])
def test_a_call_that_is_cancelled_is_cancelled_in_the_engine(
    start: Start, call: Callable[[EngineHost], Coroutine[Any, Any, None]]
) -> None:
    host, engine = start(_work)

    async def abandon() -> None:
        task = asyncio.create_task(call(host))
        while not engine.working:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while engine.working:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(abandon(), 5))
