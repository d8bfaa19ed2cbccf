"""A limit on the bytes of images in memory, whatever the sizes of the images."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from worker.stage_times import StageTimes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


class ByteBudget:
    """The bytes that all images may hold together. For one event loop.

    Bytes are reserved before they are read. An image of known size reserves all its bytes at once. Such images get
    their bytes in the order in which they asked, so that small images do not overtake a large one for ever. An image
    that is larger than the whole budget gets its bytes once no other image holds any. An image of unknown size has a
    `GrowingReservation`.
    """

    def __init__(self, limit: int, times: StageTimes | None = None) -> None:
        self.limit = limit
        self.reserved = 0
        self.beyond_limit = asyncio.Lock()
        """Held by the one GrowingReservation that may exceed the limit."""
        self._times = times or StageTimes(decode_threads=1)
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def reserve(self, size: int, *, deadline: asyncio.Timeout | None = None) -> None:
        """Take `size` bytes, and wait for them if too few are free. The wait moves the `deadline`."""
        if not self._queue and self._fits(size):
            self.reserved += size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size, granted))
        try:
            with self.waiting(deadline):
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

    def release(self, size: int) -> None:
        """Give back `size` bytes that were taken."""
        self.reserved -= size
        self._serve_queue()

    @contextmanager
    def waiting(self, deadline: asyncio.Timeout | None) -> Iterator[None]:
        """Count the block as waiting instead of fetching, and move the deadline by the block's duration."""
        clock = asyncio.get_running_loop().time
        started = clock()
        due = None if deadline is None else deadline.when()
        if deadline is not None:
            deadline.reschedule(None)
        with self._times.measure("fetch_waited", instead_of="fetch_worked"):
            yield
        if deadline is not None and due is not None:
            deadline.reschedule(due + clock() - started)

    def _serve_queue(self) -> None:
        while self._queue and self._fits(self._queue[0][0]):
            size, granted = self._queue.popleft()
            if not granted.cancelled():
                self.reserved += size
                granted.set_result(None)

    def _fits(self, size: int) -> bool:
        return self.has_free(size) or not self.reserved


class GrowingReservation:
    """The bytes that a body of unknown length holds while it arrives; use it as an async context manager.

    It doubles whenever the body outgrows it. Bodies that hold some bytes and need more must not wait for each other, or
    all of them would wait for ever. So a reservation that grows takes free bytes ahead of the queue. If too few are
    free, it exceeds the budget. Only one reservation at a time may do so; the others wait until its block ends.

    A block that raises gives all bytes back. After any other block they belong to the caller.
    """

    def __init__(
        self, budget: ByteBudget, *, first_bytes: int, most_bytes: int, deadline: asyncio.Timeout | None
    ) -> None:
        self.size = first_bytes
        self._budget = budget
        self._most_bytes = most_bytes
        self._deadline = deadline
        self._may_exceed = False

    async def __aenter__(self) -> Self:
        await self._budget.reserve(self.size, deadline=self._deadline)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._may_exceed:
            self._budget.beyond_limit.release()
        if error is not None:
            self._budget.release(self.size)

    async def cover(self, size: int) -> None:
        """Grow until the reservation has `size` bytes. `size` is at most `most_bytes`."""
        while self.size < size:
            more = min(self.size, self._most_bytes - self.size)
            if not self._may_exceed and not self._budget.has_free(more):
                with self._budget.waiting(self._deadline):
                    await self._budget.beyond_limit.acquire()
                self._may_exceed = True
            self._budget.take(more)
            self.size += more

    def shrink(self, size: int) -> None:
        """Give back what exceeds `size` bytes."""
        self._budget.release(self.size - size)
        self.size = size
