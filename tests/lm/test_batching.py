"""The micro-batcher: which calls share a batch, and what happens to cancelled and failing ones."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence

import pytest

from llmrec.lm.batching import MicroBatcher


class Recorder:
    def __init__(self) -> None:
        self.batches: list[tuple[Hashable, list[int]]] = []

    def __call__(self, key: Hashable, jobs: Sequence[int]) -> list[int | BaseException]:
        self.batches.append((key, list(jobs)))
        if 13 in jobs:
            raise ValueError("unlucky")
        return [job * 10 if job != 7 else KeyError("seven") for job in jobs]


async def _worker(batcher: MicroBatcher[int, int], number: int, hops: int) -> list[int]:
    """Two calls, with some rounds of the event loop before each, as a framework would take."""
    results = []
    for step in range(2):
        for _ in range(hops):
            await asyncio.sleep(0)
        results.append(await batcher.submit("score", number + 100 * step))
    return results


def test_calls_of_tasks_that_need_different_times_share_a_batch() -> None:
    recorder = Recorder()
    batcher: MicroBatcher[int, int] = MicroBatcher(recorder)

    async def main() -> list[list[int]]:
        return await asyncio.gather(*(_worker(batcher, number, hops=number * 9) for number in range(5)))

    assert asyncio.run(main()) == [[number * 10, number * 10 + 1000] for number in range(5)]
    assert recorder.batches == [("score", [0, 1, 2, 3, 4]), ("score", [100, 101, 102, 103, 104])]
    first, recorder.batches = recorder.batches, []
    asyncio.run(main())  # the same tasks in another event loop
    assert recorder.batches == first


def test_keys_are_run_apart_in_order_of_arrival() -> None:
    recorder = Recorder()
    batcher: MicroBatcher[int, int] = MicroBatcher(recorder)

    async def main() -> None:
        await asyncio.gather(*(batcher.submit(key, job) for key, job in [("b", 1), ("a", 2), ("b", 3)]))

    asyncio.run(main())
    assert recorder.batches == [("b", [1, 3]), ("a", [2])]


def test_an_error_reaches_only_its_caller() -> None:
    batcher: MicroBatcher[int, int] = MicroBatcher(Recorder())

    async def main(jobs: Sequence[int]) -> list[int | BaseException]:
        return await asyncio.gather(*(batcher.submit("k", job) for job in jobs), return_exceptions=True)

    one, seven, two = asyncio.run(main([1, 7, 2]))  # returned as an exception
    assert (one, two) == (10, 20)
    assert isinstance(seven, KeyError)
    one, thirteen, two = asyncio.run(main([1, 13, 2]))  # raised for the whole batch
    assert (one, two) == (10, 20)
    assert isinstance(thirteen, ValueError)


def test_a_cancelled_call_leaves_its_batch() -> None:
    recorder = Recorder()
    batcher: MicroBatcher[int, int] = MicroBatcher(recorder)

    async def main() -> int:
        doomed = asyncio.create_task(batcher.submit("k", 1))
        kept = asyncio.create_task(batcher.submit("k", 2))
        await asyncio.sleep(0)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        return await kept

    assert asyncio.run(main()) == 20
    assert recorder.batches == [("k", [2])]


def test_a_loop_that_died_with_queued_calls_leaves_nothing_behind() -> None:
    recorder = Recorder()
    batcher: MicroBatcher[int, int] = MicroBatcher(recorder)

    async def dies() -> None:
        task = asyncio.create_task(batcher.submit("k", 1))
        await asyncio.sleep(0)
        assert not task.done()
        raise RuntimeError("the session failed")

    with pytest.raises(RuntimeError, match="session failed"):
        asyncio.run(dies())

    async def lives() -> int:
        return await batcher.submit("k", 2)

    assert asyncio.run(lives()) == 20
    assert recorder.batches == [("k", [2])]
