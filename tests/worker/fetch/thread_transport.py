"""A transport whose requests are made by a thread of this process, and which keeps the images' bytes."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Self

from worker.fetch.file_reads import FileReads
from worker.fetch.transfer import TransferLimits
from worker.fetch.transfers import Transfers

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.fetch.byte_budget import Reservation
    from worker.fetch.transport import Answered, Broken, Get, ReadFile
    from worker.settings import WorkerSettings


@dataclass
class Image:
    data: bytes

    @property
    def length(self) -> int:
        return len(self.data)


class ThreadTransport:
    """Runs the real `Transfers` and `FileReads`; use it as an async context manager."""

    def __init__(self, settings: WorkerSettings) -> None:
        limits = TransferLimits(
            connect_seconds=settings.http.connect_timeout_seconds,
            read_seconds=settings.http.read_timeout_seconds,
            request_seconds=settings.fetch.fetch_timeout_seconds,
            max_bytes=settings.fetch.max_image_bytes,
            user_agent=settings.http.user_agent_header,
        )
        self._sink = _Sink(self)
        self._transfers = Transfers(limits, self._sink)
        self._files = FileReads(self._sink, max_bytes=limits.max_bytes)
        self._orders: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._wake_read, self._wake_write = os.pipe()
        self._transfers.watch(self._wake_read, self._obey)
        self._is_running = True
        self._thread = threading.Thread(target=self._run, name="transfers")
        self._jobs: dict[int, tuple[asyncio.Future[Image | Answered | Broken], Reservation | None]] = {}
        self._growing: dict[int, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._order(None)
        await asyncio.to_thread(self._thread.join)
        os.close(self._wake_read)
        os.close(self._wake_write)

    async def get(self, order: Get, reservation: Reservation | None) -> Image | Answered | Broken:
        return await self._begin(reservation, lambda job: self._transfers.start(job, order))

    async def read(self, order: ReadFile, reservation: Reservation) -> Image | Broken:
        return await self._begin(reservation, lambda job: self._files.start(job, order))  # type: ignore[return-value]

    async def _begin(
        self, reservation: Reservation | None, start: Callable[[int], object]
    ) -> Image | Answered | Broken:
        job = len(self._jobs)
        future: asyncio.Future[Image | Answered | Broken] = self._loop.create_future()
        self._jobs[job] = (future, reservation)
        self._order(lambda: start(job))
        try:
            return await future
        finally:
            if job in self._growing:
                self._growing.pop(job).cancel()

    def _grant(self, job: int, size: int) -> None:
        self._transfers.grant(job, size)
        self._files.grant(job, size)

    def _order(self, order: Callable[[], object] | None) -> None:
        self._orders.put(order)
        os.write(self._wake_write, b".")

    def _obey(self) -> None:
        os.read(self._wake_read, 1)
        order = self._orders.get()
        if order is None:
            self._is_running = False
        else:
            order()

    def _run(self) -> None:
        try:
            while self._is_running:
                self._transfers.run_once()
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            self.fail(error)
        finally:
            self._transfers.close()

    def fail(self, error: BaseException) -> None:
        def settle() -> None:
            for future, _ in self._jobs.values():
                if not future.done():
                    future.set_exception(error)

        self._loop.call_soon_threadsafe(settle)

    def settle(self, job: int, outcome: Image | Answered | Broken) -> None:
        def settle() -> None:
            future, _ = self._jobs[job]
            if not future.done():
                future.set_result(outcome)

        self._loop.call_soon_threadsafe(settle)

    def grow(self, job: int, size: int, *, is_first: bool) -> None:
        _, reservation = self._jobs[job]
        assert reservation is not None

        async def cover() -> None:
            await reservation.cover(size, is_first=is_first)
            self._order(lambda: self._grant(job, reservation.size))

        def begin() -> None:
            if not self._jobs[job][0].done():
                self._growing[job] = self._loop.create_task(cover())

        self._loop.call_soon_threadsafe(begin)


class _Sink:
    def __init__(self, transport: ThreadTransport) -> None:
        self._transport = transport

    def need(self, job: int, size: int, *, is_first: bool) -> None:
        self._transport.grow(job, size, is_first=is_first)

    def fetched(self, job: int, body: bytes | list[bytes], order: ReadFile | None = None) -> None:  # noqa: ARG002 - nothing is decoded
        self._transport.settle(job, Image(body if isinstance(body, bytes) else b"".join(body)))

    def ended(self, job: int, outcome: Answered | Broken) -> None:
        self._transport.settle(job, outcome)

    def failed(self, error: BaseException) -> None:
        self._transport.fail(error)
