"""Batches between an event loop and a thread: no square is lost or doubled, and no slot is added."""

from __future__ import annotations

import asyncio
import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.worker.encode.pools import Pool
from worker.encode.batches import BUFFERS, Batch, Batches

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def square(value: int) -> NDArray[np.uint8]:
    """Return a square whose bytes hold its number, again and again."""
    return np.array([value // 256, value % 256] * 6, dtype=np.uint8).reshape(2, 2, 3)


def taken(batch: Batch) -> dict[int, NDArray[np.uint8]]:
    return dict(zip(batch.positions, torch.cat(batch.pieces).numpy(), strict=True))


def drain(batches: Batches) -> list[dict[int, NDArray[np.uint8]]]:
    """Return the content of every batch until the queue ends, and give the batches back."""
    found = []
    while (batch := batches.get()) is not None:
        found.append(taken(batch))
        batches.give_back(batch)
    return found


async def put_all(pool: Pool, positions: Iterable[int]) -> None:
    for position in positions:
        await pool.put(position, square(position))


def got(batches: Batches) -> Batch:
    batch = batches.get()
    assert batch is not None
    return batch


@pytest.mark.parametrize(
    ("count", "size", "decoders"), [(1000, 32, 8), (997, 10, 3), (500, 1, 5), (7, 32, 2), (64, 32, 16)]
)
def test_each_square_of_many_decoders_is_got_once_with_its_own_pixels(count: int, size: int, decoders: int) -> None:
    pool = Pool(batch_size=size)

    async def decode(positions: range) -> None:
        for position in positions:
            await pool.put(position, square(position), seconds=random.choice([0, 0, 0.001]))

    async def decode_all() -> None:
        await asyncio.gather(*(decode(range(first, count, decoders)) for first in range(decoders)))

    with ThreadPoolExecutor(1) as encoder:
        drained = encoder.submit(drain, pool.batches)
        asyncio.run(decode_all())
        pool.batches.close()
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
    pool = Pool(batch_size=size)
    asyncio.run(put_all(pool, range(count)))
    pool.batches.close()
    assert [list(batch) for batch in drain(pool.batches)] == expected


def test_the_pool_is_the_file_and_has_room_for_a_fixed_number_of_batches() -> None:
    descriptor = os.memfd_create("squares")
    batches = Batches(batch_size=3, image_size=5, descriptor=descriptor)
    assert (batches.slot_count, batches.image_size, batches.descriptor) == (3 * BUFFERS, 5, descriptor)
    assert os.fstat(descriptor).st_size == 3 * BUFFERS * 5 * 5 * 3
    os.close(descriptor)


def test_a_pool_is_pinned_as_a_whole_before_it_is_used() -> None:
    pinned: list[torch.Tensor] = []
    pool = Pool(batch_size=3, pin=pinned.append)
    (tensor,) = pinned
    assert tensor.shape == pool.slots.shape
    assert tensor.nbytes == pool.slots.nbytes
    pool.slots[7] = 9
    assert np.array_equal(tensor[7].numpy(), np.full((2, 2, 3), 9))


def test_no_slot_is_given_while_all_are_in_use_and_the_loop_is_told_when_some_are_free() -> None:
    pool = Pool(batch_size=2)
    batches = pool.batches

    async def run() -> None:
        await put_all(pool, range(2 * BUFFERS))
        first, *_ = [got(batches) for _ in range(BUFFERS)]
        assert batches.take_slot() is None
        waiting = asyncio.create_task(pool.put(99, square(99)))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await asyncio.to_thread(batches.give_back, first)
        await asyncio.wait_for(waiting, 10)
        batches.close()
        last = got(batches)
        assert (last.positions, [slot in first.slots for slot in last.slots]) == ([99], [True])

    asyncio.run(run())


def test_a_slot_that_is_returned_unused_is_free_again_and_the_loop_is_told() -> None:
    pool = Pool(batch_size=1)

    async def run() -> list[int]:
        slots = [await pool.take() for _ in range(BUFFERS)]
        waiting = asyncio.create_task(pool.take())
        await asyncio.sleep(0)
        pool.batches.return_slot(slots[2])
        return [slots[2], await asyncio.wait_for(waiting, 10)]

    returned, again = asyncio.run(run())
    assert returned == again


def test_the_same_few_slots_serve_any_number_of_batches() -> None:
    pool, slots = Pool(batch_size=1), set()

    async def put_and_get() -> None:
        for position in range(5 * BUFFERS):
            await pool.put(position, square(position))
            batch = got(pool.batches)
            slots.update(batch.slots)
            pool.batches.give_back(batch)

    asyncio.run(put_and_get())
    assert slots <= set(range(BUFFERS))


def test_a_batch_comes_in_few_pieces_also_after_many_batches() -> None:
    pool, pieces = Pool(batch_size=64), []

    async def decode(positions: range) -> None:
        for position in positions:
            await pool.put(position, square(position), seconds=random.expovariate(2000))

    def encode() -> None:
        while (batch := pool.batches.get()) is not None:
            pieces.append(len(batch.pieces))
            pool.batches.give_back(batch)

    async def decode_all() -> None:
        await asyncio.gather(*(decode(range(first, 64 * 60, 8)) for first in range(8)))

    with ThreadPoolExecutor(1) as encoder:
        encoded = encoder.submit(encode)
        asyncio.run(decode_all())
        pool.batches.close()
        encoded.result(timeout=60)
    assert len(pieces) == 60
    assert max(pieces[30:]) <= 2 * 8  # a batch of 64 random slots of 256 has 48


def test_a_batch_that_is_not_given_back_keeps_its_pixels() -> None:
    pool = Pool(batch_size=2)

    async def put_more() -> Batch:
        await put_all(pool, range(2))
        kept = got(pool.batches)
        await put_all(pool, range(10, 10 + 2 * (BUFFERS - 1)))
        return kept

    kept = taken(asyncio.run(put_more()))
    assert {position: pixels.tolist() for position, pixels in kept.items()} == {
        position: square(position).tolist() for position in range(2)
    }


def test_get_waits_for_a_whole_batch() -> None:
    pool = Pool(batch_size=3)
    with ThreadPoolExecutor(1) as encoder:
        waiting = encoder.submit(got, pool.batches)

        async def put_a_batch() -> None:
            for position in range(3):
                assert not waiting.done()
                await pool.put(position, square(position))

        asyncio.run(put_a_batch())
        assert waiting.result(timeout=10).positions == [0, 1, 2]


def test_a_batch_is_ready_when_it_is_full_or_the_last() -> None:
    pool, ready = Pool(batch_size=2), []
    batches = pool.batches

    async def put_three() -> None:
        for position in range(3):
            ready.append(batches.is_ready)
            await pool.put(position, square(position))

    asyncio.run(put_three())
    assert [*ready, batches.is_ready] == [False, False, True, True]
    assert (got(batches).positions, batches.is_ready) == ([0, 1], False)
    batches.close()
    assert batches.is_ready
    assert [list(batch) for batch in drain(batches)] == [[2]]


def test_abandoning_the_queue_ends_the_wait_for_a_batch() -> None:
    pool = Pool(batch_size=2)
    asyncio.run(put_all(pool, [0]))
    with ThreadPoolExecutor(1) as encoder:
        waiting = encoder.submit(pool.batches.get)
        pool.batches.abandon()
        assert waiting.result(timeout=10) is None


def test_a_batch_can_be_given_back_after_the_event_loop_has_ended() -> None:
    pool = Pool(batch_size=1)
    asyncio.run(put_all(pool, [0]))
    pool.batches.give_back(got(pool.batches))
