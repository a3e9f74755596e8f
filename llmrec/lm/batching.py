"""Batches concurrent calls without threads or timers.

A call joins the queue of its event loop and awaits a future. A flush is scheduled through `call_soon` and waits until
the loop has gone round `idle_rounds` times without a new arrival: then every task that could make a call has made it.
So the same tasks give the same batches, whatever the speed of the machine. Work that tasks hand to threads or wait
for on sockets is not waited for; it can change batches (hence speed and the last digits of a score), never which
random numbers a sample uses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")


@dataclass(eq=False)
class _Call(Generic[JobT, ResultT]):
    key: Hashable
    job: JobT
    future: asyncio.Future[ResultT]


@dataclass
class _Queue(Generic[JobT, ResultT]):
    calls: list[_Call[JobT, ResultT]] = field(default_factory=list)
    flush_scheduled: bool = False


class MicroBatcher(Generic[JobT, ResultT]):
    """Collects jobs until the event loop is idle, then runs them group by group.

    Args:
        run: runs one group: (key, jobs) -> one result or exception for each job, in order. Called on the event loop's
            thread.
        idle_rounds: rounds of the loop without an arrival before a flush. One round costs about a microsecond when
            idle; frameworks such as LangGraph need some dozens between two awaits of a task.
    """

    def __init__(
        self,
        run: Callable[[Hashable, Sequence[JobT]], Sequence[ResultT | BaseException]],
        *,
        idle_rounds: int = 64,
    ) -> None:
        self._run = run
        self._idle_rounds = idle_rounds
        # One queue per loop: an engine outlives many asyncio.run calls, and a dead loop's leftovers go with the loop.
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue[JobT, ResultT]] = WeakKeyDictionary()

    async def submit(self, key: Hashable, job: JobT) -> ResultT:
        """Queue a job and wait for its result. Jobs of equal keys share a batch.

        Raises:
            Exception: whatever `run` gave or raised for this job.
        """
        loop = asyncio.get_running_loop()
        queue = self._queues.setdefault(loop, _Queue())
        future: asyncio.Future[ResultT] = loop.create_future()
        queue.calls.append(_Call(key, job, future))
        if not queue.flush_scheduled:
            queue.flush_scheduled = True
            loop.call_soon(self._wait_for_idle, loop, queue, len(queue.calls), self._idle_rounds)
        return await future

    def _wait_for_idle(
        self, loop: asyncio.AbstractEventLoop, queue: _Queue[JobT, ResultT], seen: int, rounds_left: int
    ) -> None:
        if len(queue.calls) != seen:
            seen, rounds_left = len(queue.calls), self._idle_rounds
        if rounds_left > 0:
            loop.call_soon(self._wait_for_idle, loop, queue, seen, rounds_left - 1)
            return
        calls, queue.calls, queue.flush_scheduled = queue.calls, [], False
        self._flush(calls)

    def _flush(self, calls: Sequence[_Call[JobT, ResultT]]) -> None:
        groups: dict[Hashable, list[_Call[JobT, ResultT]]] = {}
        for call in calls:
            if not call.future.done():  # a cancelled caller leaves its batch
                groups.setdefault(call.key, []).append(call)
        for key, group in groups.items():
            for call, result in zip(group, self._results(key, group), strict=True):
                if isinstance(result, BaseException):
                    call.future.set_exception(result)
                else:
                    call.future.set_result(result)

    def _results(self, key: Hashable, group: Sequence[_Call[JobT, ResultT]]) -> Sequence[ResultT | BaseException]:
        try:
            return self._run(key, [call.job for call in group])
        except Exception as error:  # noqa: BLE001 - delivered to the callers, whose errors they are
            if len(group) == 1:
                return [error]
        # One bad job must not fail its neighbours: each runs again alone and gets its own error.
        return [result for call in group for result in self._results(key, [call])]
