"""A bound on the bytes of images in memory, whatever the images' sizes."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from worker.stage_times import StageTimes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ByteBudget:
    """Bytes that are reserved before they are read, in the order of asking: all of an image's at once, or, where nobody
    knows how many there will be, more and more of them.

    First come, first served: a large image is not overtaken by small ones for ever. An image larger than the whole
    budget is let in alone, so that nothing can wait for ever. For one event loop.
    """

    def __init__(self, limit: int, times: StageTimes | None = None) -> None:
        self.limit = limit
        self.reserved = 0
        self._times = times or StageTimes(decode_threads=1)
        self._beyond = asyncio.Lock()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def reserve(self, size: int) -> None:
        """Wait until `size` bytes are free and take them; give them back with `release`."""
        if self.try_reserve(size):
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        try:
            with self._times.measure("fetch_waited", instead_of="fetch_worked"):
                await granted
        except asyncio.CancelledError:
            if not granted.cancelled():
                self.release(size)
            elif (size, granted) in self._waiting:
                self._waiting.remove((size, granted))
                self._grant()  # the next may fit where this one did not
            raise

    def try_reserve(self, size: int) -> bool:
        """Take `size` bytes and return True if they are free now and nobody waits."""
        if self._waiting or not self._fits(size):
            return False
        self.reserved += size
        return True

    def try_grow(self, size: int) -> bool:
        """Take `size` bytes more for an image that holds some, before those that hold none, and return True if they
        are free now."""
        if self.reserved + size > self.limit:
            return False
        self.reserved += size
        return True

    @asynccontextmanager
    async def beyond(self) -> AsyncIterator[None]:
        """Wait until no other image may grow beyond the limit, and let the block's do so by `grow_beyond`: images that
        hold a part of what they need must not wait for each other."""
        with self._times.measure("fetch_waited", instead_of="fetch_worked"):
            await self._beyond.acquire()
        try:
            yield
        finally:
            self._beyond.release()

    def grow_beyond(self, size: int) -> None:
        """Take `size` bytes more, free or not."""
        self.reserved += size

    def release(self, size: int) -> None:
        """Give back `size` bytes of what was reserved."""
        self.reserved -= size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, granted = self._waiting.popleft()
            if not granted.cancelled():
                self.reserved += size
                granted.set_result(None)

    def _fits(self, size: int) -> bool:
        return self.reserved + size <= self.limit or not self.reserved
