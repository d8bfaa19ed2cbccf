"""Decoders in one call, for tests: with memory for their squares and an event loop that tells them what to do."""

from __future__ import annotations

import asyncio
import mmap
import os
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from tests.worker.processes import descendants
from worker.decoders.decoder import SLOTS_AHEAD
from worker.decoders.decoders import Decoders
from worker.decoders.job import Job
from worker.decoders.settings import DecoderSettings
from worker.fetch.byte_budget import ByteBudget, Reservation
from worker.fetch.transport import Get, ReadFile
from worker.rows import LargeImage
from worker.stage_times import StageTimes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from numpy.typing import NDArray

    from worker.fetch.transport import Answered, Broken

T = TypeVar("T")

SIZE = 224
"""Side length in pixels of the squares that the decoders make."""


def decoder_settings(**changed: Any) -> DecoderSettings:  # noqa: ANN401 - the settings' own types
    settings = DecoderSettings(
        connect_seconds=5,
        read_seconds=10,
        request_seconds=30,
        max_bytes=64 << 20,
        user_agent="test",
        max_pixels=10**9,
        decode_cpu_seconds=30,
    )
    return settings._replace(**changed)


class Squares:
    """The slots of the memory for squares."""

    image_size = SIZE

    def __init__(self, descriptor: int, *, slot_count: int) -> None:
        self.slot_count = slot_count
        self.free = list(range(slot_count))
        os.ftruncate(descriptor, slot_count * SIZE * SIZE * 3)
        self.pixels: NDArray[np.uint8] = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8).reshape(-1, SIZE, SIZE, 3)

    def take_slot(self) -> int | None:
        return self.free.pop() if self.free else None

    def return_slot(self, slot: int) -> None:
        self.free.append(slot)


class Pool:
    """Decoders and their event loop. All images have one budget of bytes."""

    def __init__(self, decoders: Decoders, loop: asyncio.Runner, *, slot_count: int, inflight_bytes: int) -> None:
        self.decoders = decoders
        self.squares = Squares(decoders.squares, slot_count=slot_count)
        self.budget = ByteBudget(inflight_bytes)
        self._loop = loop
        self._is_room_open = False

    def run(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine function while the decoders are heard. Raises what no image is to blame for, too."""

        async def listen() -> T:
            with self.decoders.listening() as failed:
                if not self._is_room_open:
                    self.decoders.open_room(self.squares)
                    self._is_room_open = True
                task: asyncio.Future[T] = asyncio.ensure_future(ask())
                await asyncio.wait([task, failed], return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]  # of two types
                if not task.done():
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                    failed.result()
                return await task

        return self._loop.run(listen())

    def pixels(self, image: str | Path, *, rotation: int = 0, may_be_large: bool = True) -> NDArray[np.uint8]:
        """Return the square of one image. Raises what its decoding raises."""
        return self.run(lambda: self.square(image, rotation=rotation, may_be_large=may_be_large))

    async def square(
        self, image: str | Path, *, rotation: int = 0, may_be_large: bool = True, granted_bytes: int = 1 << 20
    ) -> NDArray[np.uint8]:
        """Return the square of a file, or of an image at an http URL. Raises what its decoding raises."""
        reservation = Reservation(self.budget, most_bytes=64 << 20)
        await reservation.take(granted_bytes)
        try:
            fetched = await self.fetch(image, reservation, rotation=rotation)
            if not isinstance(fetched, Job):
                raise LookupError(fetched)  # noqa: TRY004 - there is no image
            try:
                slot = await fetched.slot()
            except LargeImage:
                if not may_be_large:
                    raise
                slot = await fetched.slot_of_large()
        finally:
            reservation.release()
        try:
            square: NDArray[np.uint8] = self.squares.pixels[slot].copy()
            return square
        finally:
            self.squares.return_slot(slot)
            self.decoders.give_slots()

    async def fetch(self, image: str | Path, reservation: Reservation, *, rotation: int = 0) -> Job | Answered | Broken:
        if isinstance(image, Path):
            return await self.decoders.read(ReadFile(str(image), rotation, reservation.size), reservation)
        return await self.decoders.get(get_order(image, rotation=rotation, granted=reservation.size), reservation)


def get_order(url: str, *, rotation: int = 0, granted: int = 1 << 20) -> Get:
    """Return the order for an image on a server of this machine."""
    parts = urlsplit(url)
    return Get(
        url=url,
        host=parts.hostname or "",
        port=parts.port or 80,
        addresses=(),
        is_guarded=False,
        proxy="",
        is_probe=False,
        rotation=rotation,
        granted_bytes=granted,
    )


@contextmanager
def decoders(
    count: int = 1,
    *,
    slot_count: int = 4 * SLOTS_AHEAD,
    inflight_bytes: int = 256 << 20,
    **settings: Any,  # noqa: ANN401 - the settings' own types
) -> Iterator[Pool]:
    """Run decoders until the block ends. All settings are fields of DecoderSettings."""
    with (
        closing(Decoders(count, decoder_settings(**settings), times=StageTimes(decode_threads=count))) as pool,
        asyncio.Runner() as loop,
    ):
        yield Pool(pool, loop, slot_count=slot_count, inflight_bytes=inflight_bytes)


def server_of_decoders(worker: int | None = None) -> int:
    """Return the process that starts the decoders of a worker, by default of this process."""
    return next(
        process
        for process in descendants(worker or os.getpid())
        if b"worker.decoders.server" in Path(f"/proc/{process}/cmdline").read_bytes()
    )


def decoder_processes(worker: int | None = None) -> list[int]:
    """Return the decoders of a worker, by default of this process."""
    return descendants(server_of_decoders(worker))


def cpu_ticks(process: int) -> int:
    """Return the CPU time that a process has used, in hundredths of a second. Of one that has ended it is 0."""
    try:
        status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, status[11:13]))


def busy_decoders(worker: int | None = None) -> set[int]:
    """Return the decoders that have used far more CPU time than a start takes."""
    return {process for process in decoder_processes(worker) if cpu_ticks(process) >= 20}


def is_asleep(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "S"
