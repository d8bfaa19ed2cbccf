"""Batches under many threads: nothing lost, nothing doubled, nothing beyond the buffers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from worker.batches import BUFFERS, Batch, Batches

if TYPE_CHECKING:
    from numpy.typing import NDArray


def batches_of(size: int) -> Batches:
    return Batches(batch_size=size, image_size=2, pinned=False)


def square(value: int) -> NDArray[np.uint8]:
    """Return a square that says which one it is, in every byte of two."""
    return np.array([value // 256, value % 256] * 6, dtype=np.uint8).reshape(2, 2, 3)


def taken(batch: Batch) -> dict[int, NDArray[np.uint8]]:
    return {position: pixels.numpy().copy() for position, pixels in zip(batch.positions, batch.pixels, strict=True)}


def drain(batches: Batches) -> list[dict[int, NDArray[np.uint8]]]:
    """Return what every batch held, giving its buffer back, until there are no more."""
    found = []
    while (batch := batches.get()) is not None:
        found.append(taken(batch))
        batches.give_back(batch)
    return found


@pytest.mark.parametrize(
    ("count", "size", "threads"), [(1000, 32, 8), (997, 10, 3), (500, 1, 5), (7, 32, 2), (64, 32, 16)]
)
def test_what_many_threads_put_is_got_once_each_with_its_own_pixels(count: int, size: int, threads: int) -> None:
    batches = batches_of(size)
    with ThreadPoolExecutor(threads) as decoders, ThreadPoolExecutor(1) as encoder:
        drained = encoder.submit(drain, batches)
        list(decoders.map(lambda position: batches.put(position, square(position)), range(count)))
        batches.close()
        got = drained.result(timeout=60)
    assert sorted(position for batch in got for position in batch) == list(range(count))
    for batch in got:
        for position, pixels in batch.items():
            assert np.array_equal(pixels, square(position))
    assert [len(batch) for batch in got[:-1]] == [size] * (len(got) - 1)
    assert len(got) == -(-count // size)


def test_the_last_batch_holds_what_is_left() -> None:
    batches = batches_of(4)
    for position in range(6):
        batches.put(position, square(position))
    batches.close()
    assert [sorted(batch) for batch in drain(batches)] == [[0, 1, 2, 3], [4, 5]]


def test_closing_an_empty_queue_yields_no_batch() -> None:
    batches = batches_of(4)
    batches.close()
    assert batches.get() is None
    assert batches.get() is None


def test_a_last_batch_that_is_full_is_not_followed_by_an_empty_one() -> None:
    batches = batches_of(2)
    for position in range(4):
        batches.put(position, square(position))
    batches.close()
    assert [sorted(batch) for batch in drain(batches)] == [[0, 1], [2, 3]]


def test_put_waits_once_all_buffers_are_in_use_and_goes_on_when_one_is_given_back() -> None:
    batches = batches_of(2)
    for position in range(2 * BUFFERS):
        batches.put(position, square(position))
    held = [batches.get() for _ in range(BUFFERS)]
    began, ended = threading.Event(), threading.Event()

    def put_one_more() -> None:
        began.set()
        batches.put(99, square(99))
        ended.set()

    decoder = threading.Thread(target=put_one_more)
    decoder.start()
    assert began.wait(10)
    assert not ended.wait(0.05)
    first = held[0]
    assert first is not None
    batches.give_back(first)
    assert ended.wait(10)
    decoder.join()
    batches.close()
    last = batches.get()
    assert last is not None
    assert last.positions == [99]
    assert last.buffer is first.buffer


def test_the_same_few_buffers_serve_any_number_of_batches() -> None:
    batches, buffers = batches_of(1), set()
    for position in range(5 * BUFFERS):
        batches.put(position, square(position))
        batch = batches.get()
        assert batch is not None
        buffers.add(batch.buffer.data_ptr())
        batches.give_back(batch)
    assert len(buffers) <= BUFFERS


def test_a_batch_that_is_not_given_back_keeps_its_pixels() -> None:
    batches = batches_of(2)
    for position in range(2):
        batches.put(position, square(position))
    kept = batches.get()
    assert kept is not None
    for position in range(10, 10 + 2 * (BUFFERS - 1)):
        batches.put(position, square(position))
    assert np.array_equal(kept.pixels.numpy(), [square(0), square(1)])


def test_get_waits_for_a_whole_batch() -> None:
    batches = batches_of(3)
    with ThreadPoolExecutor(1) as encoder:
        got = encoder.submit(batches.get)
        for position in range(3):
            assert not got.done()
            batches.put(position, square(position))
        batch = got.result(timeout=10)
    assert batch is not None
    assert batch.positions == [0, 1, 2]


def test_closing_lets_go_of_whoever_waits() -> None:
    full, empty = batches_of(1), batches_of(1)
    for position in range(BUFFERS):
        full.put(position, square(position))
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(full.put, 9, square(9)), threads.submit(full.put, 10, square(10))]
        getting = threads.submit(empty.get)
        full.close()
        empty.close()
        assert [each.result(timeout=10) for each in waiting] == [None, None]
        assert getting.result(timeout=10) is None
    assert [list(batch) for batch in drain(full)] == [[0], [1], [2], [3]][:BUFFERS]


def test_nothing_comes_of_a_square_that_is_put_after_the_end() -> None:
    batches = batches_of(2)
    batches.close()
    batches.put(0, square(0))
    assert batches.get() is None
