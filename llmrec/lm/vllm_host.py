"""A vLLM engine in a thread of its own, for requests from any event loop.

vLLM's engine belongs to the event loop that started it, and this package calls engines from many loops. So the engine
gets a loop in a background thread; calls are handed over, and so are their cancellations.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from llmrec.errors import ConfigError, LlmrecError, ModelError

_T = TypeVar("_T")
_HEARTBEAT_S = 1.0


@dataclass(frozen=True)
class EngineRequest:
    """One sequence for the engine."""

    prompt: tuple[int, ...]
    params: Any
    """vLLM's `SamplingParams`."""
    lora: Any = None
    """vLLM's `LoRARequest`, or None for the bare backbone."""


@dataclass
class _Started:
    """What the background thread owns."""

    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    engine: Any = field(default=None)
    death: asyncio.Future[None] | None = None
    """Done once the engine is found dead."""
    watch: asyncio.Task[None] | None = None
    closing: threading.Lock = field(default_factory=threading.Lock)
    closed: bool = False
    """No call is handed over any more; changed and read under the lock, so that none comes in behind the last one."""


class EngineHost:
    """A running vLLM engine; its methods may be awaited in any event loop.

    Args:
        arguments: of vLLM's `AsyncEngineArgs`.
        adapters: adapter name -> folder; each is loaded at once.

    Raises:
        ConfigError: vLLM refuses a setting or an adapter.
        ModelError: the engine did not start.
    """

    def __init__(self, arguments: Mapping[str, Any], adapters: Mapping[str, Path]) -> None:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_run_loop, args=(loop,), name="vllm-engine", daemon=True)
        self._started = _Started(loop, thread)
        self._finalizer = weakref.finalize(self, _shut_down, self._started)
        atexit.register(self._finalizer)  # before multiprocessing's own, which was registered earlier
        self._numbers = count()
        self.loras: Mapping[str, Any] = {}
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(_start(self._started, arguments), loop).result()
            self.loras = asyncio.run_coroutine_threadsafe(_load(self._started.engine, adapters), loop).result()
        except BaseException:
            self.close()
            raise

    @property
    def model_config(self) -> Any:
        """vLLM's description of the model as it runs."""
        return self._started.engine.model_config

    def close(self) -> None:
        """Stop the engine and free its memory; called by itself at exit."""
        atexit.unregister(self._finalizer)
        self._finalizer()

    async def run(self, requests: Sequence[EngineRequest]) -> list[Any]:
        """Run requests to their end, together; returns vLLM's `RequestOutput` of each, in order.

        Raises:
            ConfigError: vLLM refuses a request.
            ModelError: the engine failed.
        """
        running = asyncio.wrap_future(self._submit(lambda: self._gather(requests)))
        try:
            await asyncio.wait({running})
        finally:
            running.cancel()  # when this call was cancelled; else it is done
        return _result(running)

    async def stream(self, request: EngineRequest) -> AsyncIterator[Any]:
        """Run one request and yield vLLM's outputs as they grow (some are skipped when the reader is slow).

        Raises:
            ConfigError: vLLM refuses the request.
            ModelError: the engine failed.
        """
        here = asyncio.get_running_loop()
        ready: asyncio.Queue[Any] = asyncio.Queue()

        async def feed() -> None:
            async for output in self._outputs(request):
                here.call_soon_threadsafe(ready.put_nowait, output)

        def end(done: Future[None]) -> None:  # called however the work ends, also when it never began
            with suppress(RuntimeError):  # the reader's loop is closed
                here.call_soon_threadsafe(ready.put_nowait, done)

        running = self._submit(feed)
        running.add_done_callback(end)
        try:
            while not isinstance(output := await ready.get(), Future):
                yield output
            _result(output)
        finally:
            running.cancel()

    def _submit(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> Future[_T]:
        with self._started.closing:
            if self._started.closed:
                raise ModelError("the vLLM engine is closed; load the model again")
            return asyncio.run_coroutine_threadsafe(self._guard(work), self._started.loop)

    async def _guard(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Await work in the engine's loop, but not for ever: vLLM tells nobody when its process is killed."""
        death = self._started.death
        assert death is not None
        task = asyncio.ensure_future(work())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # read, so that nothing is logged
        try:
            either: set[asyncio.Future[Any]] = {task, death}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ModelError("the vLLM engine was killed while it worked (out of memory?); load the model again")
            return task.result()
        finally:
            task.cancel()

    async def _gather(self, requests: Sequence[EngineRequest]) -> list[Any]:
        tasks = [asyncio.ensure_future(self._last(request)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            raise

    async def _last(self, request: EngineRequest) -> Any:
        outputs = [output async for output in self._outputs(request)]
        return outputs[-1]

    async def _outputs(self, request: EngineRequest) -> AsyncIterator[Any]:
        from vllm.exceptions import VLLMClientError, VLLMError
        from vllm.inputs.engine import tokens_input

        outputs = self._started.engine.generate(
            tokens_input(list(request.prompt)),
            request.params,
            request_id=f"llmrec-{next(self._numbers)}",
            lora_request=request.lora,
        )
        try:
            async for output in outputs:
                yield output
        except VLLMClientError as error:
            raise ConfigError(f"vLLM refuses the request: {error}") from error
        except VLLMError as error:
            reason = error.__cause__ or error
            raise ModelError(f"the vLLM engine failed: {reason or type(reason).__name__}") from error
        except Exception as error:  # not all that vLLM raises is one of its own errors
            raise ModelError(f"the vLLM engine failed: {error!r}") from error
        finally:
            await outputs.aclose()


def _result(done: Future[_T] | asyncio.Future[_T]) -> _T:
    """What became of work in the engine's loop, nobody else having cancelled it.

    Raises:
        LlmrecError: always one of this package, whatever ended the work.
    """
    try:
        return done.result()
    except LlmrecError:
        raise
    except (CancelledError, asyncio.CancelledError):
        closed = ModelError("the vLLM engine was closed; load the model again")
    except Exception as error:
        raise ModelError(f"the vLLM engine failed: {error!r}") from error
    raise closed


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()


async def _start(started: _Started, arguments: Mapping[str, Any]) -> None:
    """Start the engine inside its loop. Nothing else runs there yet, so that blocking the loop harms nobody."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    model = arguments["model"]
    try:
        config = AsyncEngineArgs(**arguments).create_engine_config()
    except (ValueError, TypeError, KeyError) as error:  # pydantic's errors are ValueErrors
        raise ConfigError(f"vLLM cannot take the model {model!r} with these settings: {error}") from error
    try:
        started.engine = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(
            f"the vLLM engine did not start with {model!r}: {error} (its own messages above name the cause; "
            "where memory is short, lower max_model_len, kv_cache_gib or gpu_memory_utilization)"
        ) from error
    started.death = asyncio.get_running_loop().create_future()
    started.watch = asyncio.create_task(_watch(started))


async def _watch(started: _Started) -> None:
    while started.engine is not None and not started.engine.errored:
        await asyncio.sleep(_HEARTBEAT_S)
    assert started.death is not None
    started.death.set_result(None)


async def _load(engine: Any, adapters: Mapping[str, Path]) -> Mapping[str, Any]:
    """Load adapters now: vLLM would do so at their first use, and fail in the middle of a run."""
    from vllm.lora.request import LoRARequest

    loras = {}
    for number, (name, folder) in enumerate(adapters.items(), start=1):
        loras[name] = LoRARequest(name, number, str(folder.resolve()))
        try:
            await engine.add_lora(loras[name])
        except Exception as error:  # the engine's process sends back whatever it met
            raise ConfigError(f"vLLM cannot load adapter {name!r} from {str(folder)!r}: {error}") from error
    return loras


def _shut_down(started: _Started) -> None:
    async def stop() -> None:
        engine, started.engine = started.engine, None  # collected now: at exit its destructor would fail
        if engine is not None:
            engine.shutdown()
        waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    with started.closing:
        started.closed = True
    if started.thread.is_alive():
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(stop(), started.loop).result(timeout=30)
        started.loop.call_soon_threadsafe(started.loop.stop)
        started.thread.join(timeout=5)
    if not started.loop.is_running():
        started.loop.close()
