"""Vectors from a GPU equal those from the CPU, and depend on nothing but the image."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.gpu.encoders import CUDA, ROWS
from tests.worker.encode.pools import Pool
from tests.worker.encode.vectors import cosines, noise
from worker.encode.cuda_device import pin

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from worker.encode.batches import Batch
    from worker.encode.encoder import Encoder

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


BOUNDS = {torch.float32: (0.999999, 0.9999), torch.bfloat16: (0.9999, 0.98), torch.float16: (0.99999, 0.999)}
"""Smallest cosine with the vector of the CPU, of the vectors as they are and without their mean."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_vectors_of_photos_are_those_of_the_cpu(
    dtype: torch.dtype, photos: torch.Tensor, on_cpu: NDArray[np.float32], encoder_of: Callable[[torch.dtype], Encoder]
) -> None:
    bound, centred_bound = BOUNDS[dtype]
    found = encoder_of(dtype).start([photos])()
    assert cosines(found, on_cpu).min() >= bound
    assert np.abs(np.linalg.norm(found.astype(np.float64), axis=1) - 1).max() < 1e-6
    # Vectors share a direction, which hides differences. Without it, each photo is a tenth of a vector away from the
    # others at least, as measured, so the bound says something.
    mean = on_cpu.mean(axis=0)
    assert np.linalg.norm(on_cpu - mean, axis=1).min() > 0.05
    assert cosines(found - mean, on_cpu - mean).min() >= centred_bound
    assert cosines(np.roll(found, 1, axis=0) - mean, on_cpu - mean).min() < centred_bound


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_vector_depends_on_its_image_alone_to_the_bit(
    dtype: torch.dtype, photos: torch.Tensor, encoder_of: Callable[[torch.dtype], Encoder]
) -> None:
    encoder = encoder_of(dtype)
    count = len(photos)
    squares = torch.cat([photos, noise(ROWS - count, 224)])
    whole = encoder.start([squares])()
    for seed in range(4):
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
        assert np.array_equal(encoder.start([squares[order]])(), whole[order.numpy()]), f"order {seed}"
    for size in (1, 2, 7, count):  # a last batch, which is filled up
        assert np.array_equal(encoder.start([photos[:size]])(), whole[:size]), f"batch of {size}"
    others = torch.cat([noise(2 * ROWS, 224)[: ROWS - count], photos])
    assert np.array_equal(encoder.start([others])()[-count:], whole[:count]), "other neighbours"
    assert np.array_equal(encoder.start([squares, squares])(), np.concatenate([whole, whole])), "two launches"
    pieces = torch.split(squares, [1, 5, 20, ROWS - 26])
    assert np.array_equal(encoder.start(pieces)(), whole), "pieces"


def test_slots_that_are_filled_again_and_results_that_are_kept_disturb_no_vector(
    photos: torch.Tensor, encoder_of: Callable[[torch.dtype], Encoder]
) -> None:
    """Encode as a worker does: one batch behind, with slots that are overwritten as soon as they are given back."""
    encoder = encoder_of(torch.float16)
    squares = torch.cat([photos, noise(300 - len(photos), 224)])
    expected = np.concatenate([encoder.start([part])() for part in torch.split(squares, ROWS)])
    pool = Pool(batch_size=ROWS, image_size=224, pin=pin)
    kept: list[tuple[list[int], NDArray[np.float32]]] = []

    def collect(in_flight: tuple[Batch, Callable[[], NDArray[np.float32]]] | None) -> None:
        if in_flight is not None:
            batch, vectors = in_flight
            kept.append((batch.positions, vectors()))
            pool.slots[batch.slots] = 77
            pool.batches.give_back(batch)

    def encode() -> None:
        in_flight = None
        while (batch := pool.batches.get()) is not None:
            started = batch, encoder.start(batch.pieces)
            collect(in_flight)
            in_flight = started
        collect(in_flight)

    async def decode_and_encode() -> None:
        encoding = asyncio.create_task(asyncio.to_thread(encode))
        for position, square in enumerate(squares.numpy()):
            await pool.put(position, square)
        pool.batches.close()
        await encoding

    asyncio.run(decode_and_encode())
    positions = [position for batch, _ in kept for position in batch]
    assert sorted(positions) == list(range(300))
    assert np.array_equal(np.concatenate([vectors for _, vectors in kept]), expected[positions])


def test_pools_are_pinned_one_after_the_other_without_a_copy() -> None:
    kept: list[torch.Tensor] = []

    def pin_and_keep(tensor: torch.Tensor) -> None:
        pin(tensor)
        kept.append(tensor)

    for _ in range(3):
        pool = Pool(batch_size=ROWS, image_size=224, pin=pin_and_keep)
        pool.slots[3] = 5
        assert kept[0].is_pinned()
        assert kept[0][3].to(CUDA).eq(5).all()
        # Its memory may come again for the next pool, so it must not stay pinned.
        del pool
        kept.clear()
