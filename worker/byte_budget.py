"""A bound on the bytes of images in memory, whatever the images' sizes."""

from __future__ import annotations

import asyncio
from collections import deque


class ByteBudget:
    """Bytes that are reserved before they are read, all of an image's at once, in the order of asking.

    First come, first served: a large image is not overtaken by small ones for ever. An image larger than the whole
    budget is let in alone, so that nothing can wait for ever. For one event loop.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reserved = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def reserve(self, size: int) -> None:
        """Wait until `size` bytes are free and take them; give them back with `release`."""
        if self.try_reserve(size):
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        try:
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
