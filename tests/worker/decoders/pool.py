"""Decoders and the memory for their squares, without a pipeline."""

from __future__ import annotations

import asyncio
import itertools
import mmap
import os
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from worker.decoders.decoders import Decoders, error_of
from worker.decoders.job import Job, Lost
from worker.decoders.settings import DecoderSettings
from worker.fetch.byte_budget import ByteBudget, Reservation
from worker.fetch.transport import Broken, ReadFile
from worker.rows import LargeImage
from worker.stage_times import StageTimes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from worker.fetch.transport import Answered, Get

T = TypeVar("T")

SIZE = 224
SLOTS = 64


class Pool:
    """Decoders, their event loop and their slots. Images are files in `folder`."""

    slot_count = SLOTS
    image_size = SIZE

    def __init__(self, decoders: Decoders, loop: asyncio.Runner, folder: Path) -> None:
        self.decoders = decoders
        self._loop = loop
        self._folder = folder
        self._names = itertools.count()
        self._free = list(range(SLOTS))
        os.ftruncate(decoders.squares, SLOTS * 3 * SIZE**2)
        memory = mmap.mmap(decoders.squares, SLOTS * 3 * SIZE**2)
        self._squares = np.frombuffer(memory, np.uint8).reshape(SLOTS, SIZE, SIZE, 3)
        self.budget = ByteBudget(1 << 30)

    def take_slot(self) -> int | None:
        return self._free.pop() if self._free else None

    def return_slot(self, slot: int) -> None:
        self._free.append(slot)

    def run(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Call `ask` in the event loop, and return what it returns. Raises what the decoders fail with."""

        async def listen() -> T:
            with self.decoders.listening() as failed:
                self.decoders.open_room(self)
                asked = asyncio.ensure_future(ask())
                failed.add_done_callback(lambda _: asked.cancel())
                try:
                    return await asked
                except asyncio.CancelledError:
                    await failed
                    raise

        return self._loop.run(listen())

    def pixels(self, data: bytes, *, rotation: int = 0, may_be_large: bool = True) -> NDArray[np.uint8]:
        return self.run(lambda: self.ask(data, rotation=rotation, may_be_large=may_be_large))

    async def ask(self, data: bytes, *, rotation: int = 0, may_be_large: bool = True) -> NDArray[np.uint8]:
        """Return the image's square, as a pipeline that tries an image with a second decoder."""
        path = self._folder / str(next(self._names))
        path.write_bytes(data)
        blames = 0
        while True:
            try:
                job = await self.read(path, rotation=rotation)
                return await self.square(job, may_be_large=may_be_large)
            except Lost as lost:
                blames += lost.is_blamed
                if blames == 2:
                    raise error_of(lost) from lost

    async def read(self, path: Path, *, rotation: int = 0) -> Job:
        reservation = Reservation(self.budget, most_bytes=1 << 30)
        await reservation.take(1 << 20)
        job = await self.decoders.read(ReadFile(str(path), rotation, reservation.size), reservation)
        if isinstance(job, Broken):
            raise TypeError(job.detail)
        return job

    async def get(self, order: Get) -> Job | Answered | Broken:
        reservation = Reservation(self.budget, most_bytes=1 << 30)
        await reservation.take(order.granted_bytes)
        return await self.decoders.get(order, reservation)

    async def square(self, job: Job, *, may_be_large: bool = True) -> NDArray[np.uint8]:
        try:
            slot = await job.slot
        except LargeImage:
            if not may_be_large:
                raise
            slot = await job.slot_of_large()
        square: NDArray[np.uint8] = self._squares[slot].copy()
        self.return_slot(slot)
        self.decoders.give_slots()
        return square


@contextmanager
def pool_of(folder: Path, count: int = 1, *, timeout_seconds: float = 30, max_bytes: int = 64 << 20) -> Iterator[Pool]:
    settings = DecoderSettings(
        connect_seconds=10,
        read_seconds=20,
        request_seconds=60,
        max_bytes=max_bytes,
        user_agent="tests",
        max_pixels=10**9,
        decode_cpu_seconds=timeout_seconds,
    )
    times = StageTimes(decode_threads=count)
    with closing(Decoders(count, settings, times=times)) as decoders, asyncio.Runner() as loop:
        yield Pool(decoders, loop, folder)
