"""Batches between an event loop and a thread: no square is lost or doubled, and no buffer is added."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from worker.encode.batches import BUFFERS, Batch, Batches

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def batches_of(size: int) -> Batches:
    return Batches(batch_size=size, image_size=2, pinned=False)


def square(value: int) -> NDArray[np.uint8]:
    """Return a square whose bytes hold its number, again and again."""
    return np.array([value // 256, value % 256] * 6, dtype=np.uint8).reshape(2, 2, 3)


def taken(batch: Batch) -> dict[int, NDArray[np.uint8]]:
    return {position: pixels.numpy().copy() for position, pixels in zip(batch.positions, batch.pixels, strict=True)}


def drain(batches: Batches) -> list[dict[int, NDArray[np.uint8]]]:
    """Return the content of every batch until the queue ends, and give the buffers back."""
    found = []
    while (batch := batches.get()) is not None:
        found.append(taken(batch))
        batches.give_back(batch)
    return found


async def put_all(batches: Batches, positions: Iterable[int]) -> None:
    for position in positions:
        await batches.put(position, square(position))


def got(batches: Batches) -> Batch:
    batch = batches.get()
    assert batch is not None
    return batch


@pytest.mark.parametrize(
    ("count", "size", "tasks"), [(1000, 32, 8), (997, 10, 3), (500, 1, 5), (7, 32, 2), (64, 32, 16)]
)
def test_each_square_that_many_tasks_put_is_got_once_with_its_own_pixels(count: int, size: int, tasks: int) -> None:
    batches = batches_of(size)

    async def put_slowly(positions: range) -> None:
        for position in positions:
            await asyncio.sleep(random.choice([0, 0, 0.001]))
            await batches.put(position, square(position))

    async def put_from_many_tasks() -> None:
        await asyncio.gather(*(put_slowly(range(first, count, tasks)) for first in range(tasks)))

    with ThreadPoolExecutor(1) as encoder:
        drained = encoder.submit(drain, batches)
        asyncio.run(put_from_many_tasks())
        batches.close()
        found = drained.result(timeout=60)
    assert sorted(position for batch in found for position in batch) == list(range(count))
    for batch in found:
        for position, pixels in batch.items():
            assert np.array_equal(pixels, square(position))
    assert [len(batch) for batch in found[:-1]] == [size] * (len(found) - 1)
    assert len(found) == -(-count // size)


@pytest.mark.parametrize(
    ("size", "count", "expected"), [(4, 6, [[0, 1, 2, 3], [4, 5]]), (2, 4, [[0, 1], [2, 3]]), (4, 0, [])]
)
def test_the_last_batch_holds_the_remaining_squares(size: int, count: int, expected: list[list[int]]) -> None:
    batches = batches_of(size)
    asyncio.run(put_all(batches, range(count)))
    batches.close()
    assert [list(batch) for batch in drain(batches)] == expected


def test_put_waits_while_all_buffers_are_in_use() -> None:
    batches = batches_of(2)

    async def put_one_too_many() -> None:
        await put_all(batches, range(2 * BUFFERS))
        first, *_ = [got(batches) for _ in range(BUFFERS)]
        waiting = asyncio.create_task(batches.put(99, square(99)))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await asyncio.to_thread(batches.give_back, first)
        await asyncio.wait_for(waiting, 10)
        batches.close()
        last = got(batches)
        assert last.positions == [99]
        assert last.buffer is first.buffer

    asyncio.run(put_one_too_many())


def test_the_same_few_buffers_serve_any_number_of_batches() -> None:
    batches, buffers = batches_of(1), set()

    async def put_and_get() -> None:
        for position in range(5 * BUFFERS):
            await batches.put(position, square(position))
            batch = got(batches)
            buffers.add(batch.buffer.data_ptr())
            batches.give_back(batch)

    asyncio.run(put_and_get())
    assert len(buffers) <= BUFFERS


def test_a_batch_that_is_not_given_back_keeps_its_pixels() -> None:
    batches = batches_of(2)

    async def put_more() -> Batch:
        await put_all(batches, range(2))
        kept = got(batches)
        await put_all(batches, range(10, 10 + 2 * (BUFFERS - 1)))
        return kept

    assert np.array_equal(asyncio.run(put_more()).pixels.numpy(), [square(0), square(1)])


def test_get_waits_for_a_whole_batch() -> None:
    batches = batches_of(3)
    with ThreadPoolExecutor(1) as encoder:
        waiting = encoder.submit(got, batches)

        async def put_a_batch() -> None:
            for position in range(3):
                assert not waiting.done()
                await batches.put(position, square(position))

        asyncio.run(put_a_batch())
        assert waiting.result(timeout=10).positions == [0, 1, 2]


def test_a_batch_is_ready_when_it_is_full_or_the_last() -> None:
    batches, ready = batches_of(2), []

    async def put_three() -> None:
        for position in range(3):
            ready.append(batches.is_ready)
            await batches.put(position, square(position))

    asyncio.run(put_three())
    assert [*ready, batches.is_ready] == [False, False, True, True]
    assert (got(batches).positions, batches.is_ready) == ([0, 1], False)
    batches.close()
    assert batches.is_ready
    assert [list(batch) for batch in drain(batches)] == [[2]]


def test_abandoning_the_queue_ends_the_wait_for_a_batch() -> None:
    batches = batches_of(2)
    asyncio.run(put_all(batches, [0]))
    with ThreadPoolExecutor(1) as encoder:
        waiting = encoder.submit(batches.get)
        batches.abandon()
        assert waiting.result(timeout=10) is None


def test_a_batch_can_be_given_back_after_the_event_loop_has_ended() -> None:
    batches = batches_of(1)
    asyncio.run(put_all(batches, [0]))
    batches.give_back(got(batches))
