"""A limit on the bytes of images in memory, whatever the sizes of the images and wherever the bytes are."""

from __future__ import annotations

import asyncio
from collections import deque

from worker.stage_times import StageTimes


class ByteBudget:
    """The bytes that all images may hold together, in all processes of the worker. For one event loop.

    Bytes are reserved before they are read. They are given out in the order in which they were asked for, so that small
    images do not overtake a large one for ever. An image that is larger than the whole budget gets its bytes once no
    other image holds any.
    """

    def __init__(self, limit: int, times: StageTimes | None = None) -> None:
        self.limit = limit
        self.reserved = 0
        self.beyond_limit = asyncio.Lock()
        """Held by the one Reservation that may exceed the limit."""
        self._times = times or StageTimes(decode_threads=1)
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    def try_reserve(self, size: int) -> bool:
        """Take `size` bytes if they are free and nobody waits for bytes. Return whether they were taken."""
        if self._queue or not self._fits(size):
            return False
        self.reserved += size
        return True

    async def reserve(self, size: int) -> None:
        """Take `size` bytes, and wait for them if too few are free."""
        if self.try_reserve(size):
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size, granted))
        try:
            with self._times.measure("fetch_waited", instead_of="fetch_worked"):
                await granted
        except asyncio.CancelledError:
            if not granted.cancelled():
                self.release(size)
            elif (size, granted) in self._queue:
                self._queue.remove((size, granted))
                self._serve_queue()  # the next request may fit although this one did not
            raise

    def has_free(self, size: int) -> bool:
        """Return whether `size` bytes are free, without regard to the queue."""
        return self.reserved + size <= self.limit

    def take(self, size: int) -> None:
        """Take `size` bytes, whether they are free or not."""
        self.reserved += size

    async def wait_to_exceed(self) -> None:
        """Wait until no other reservation exceeds the limit. The caller may then do so."""
        with self._times.measure("fetch_waited", instead_of="fetch_worked"):
            await self.beyond_limit.acquire()

    def release(self, size: int) -> None:
        """Give back `size` bytes that were taken."""
        self.reserved -= size
        if self._queue:
            self._serve_queue()

    def _serve_queue(self) -> None:
        while self._queue and self._fits(self._queue[0][0]):
            size, granted = self._queue.popleft()
            if not granted.cancelled():
                self.reserved += size
                granted.set_result(None)

    def _fits(self, size: int) -> bool:
        return self.has_free(size) or not self.reserved


class Reservation:
    """The bytes of the budget that one image holds.

    A request begins with a few bytes. As soon as more are needed, it gives them back and asks for as many as its body
    has, at the end of the queue; nothing of the body is kept yet. A body of unknown length asks for a fixed number of
    bytes, and doubles its reservation whenever it outgrows it.

    Bodies that hold bytes and need more must not wait for each other, or all of them would wait for ever. So a
    reservation that grows takes free bytes ahead of the queue. If too few are free, it exceeds the budget. Only one
    reservation at a time may do so. The others wait until it has given back so much that the budget is kept again.
    """

    def __init__(self, budget: ByteBudget, *, most_bytes: int) -> None:
        self.size = 0
        self._budget = budget
        self._most_bytes = most_bytes
        self._may_exceed = False

    def try_take(self, size: int) -> bool:
        """Take `size` bytes if they are free and nobody waits for bytes. Return whether they were taken."""
        if not self._budget.try_reserve(size):
            return False
        self.size = size
        return True

    async def take(self, size: int) -> None:
        """Take `size` bytes, and wait for them if too few are free."""
        await self._budget.reserve(size)
        self.size = size

    async def cover(self, size: int, *, is_first: bool) -> None:
        """Grow to `size` bytes, or to more for a body that has bytes already, and wait for them if too few are free.

        `is_first` says that none of the body's bytes is kept yet.
        """
        if is_first:
            self._give_back(self.size)
            await self.take(size)
            return
        while self.size < size:
            more = max(1, min(max(self.size, size - self.size), self._most_bytes - self.size))
            if not self._may_exceed and not self._budget.has_free(more):
                await self._budget.wait_to_exceed()
                self._may_exceed = True
            self._budget.take(more)
            self.size += more

    def settle(self, length: int) -> None:
        """Keep the `length` bytes of the body, which has arrived, and give back the others."""
        self._give_back(self.size - length)
        if self._may_exceed and self._budget.has_free(0):
            self._let_others_exceed()

    def release(self) -> None:
        """Give back all bytes."""
        self._give_back(self.size)
        if self._may_exceed:
            self._let_others_exceed()

    def _give_back(self, size: int) -> None:
        self.size -= size
        self._budget.release(size)

    def _let_others_exceed(self) -> None:
        self._may_exceed = False
        self._budget.beyond_limit.release()
