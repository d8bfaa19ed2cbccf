"""How many requests may be in flight, in total and to one host."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(slots=True)
class _Host:
    free: asyncio.Semaphore
    users: int = 0
    """The requests in flight or waiting. The host is forgotten when there are none."""


class Slots:
    """A request takes a slot of its host first and then one of the total, so that a slow host delays no other host."""

    def __init__(self, *, total: int, per_host: int) -> None:
        self._total = asyncio.Semaphore(total)
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}
        self.in_use = 0

    @asynccontextmanager
    async def slot(self, host: str) -> AsyncIterator[None]:
        """Hold a slot of the host and one of the total during the block."""
        await self.acquire(host)
        try:
            yield
        finally:
            self.release(host)

    async def acquire(self, host: str) -> None:
        """Wait for a slot of the host, then for one of the total."""
        slots = self._hosts.get(host)
        if slots is None:
            slots = self._hosts[host] = _Host(asyncio.Semaphore(self._per_host))
        slots.users += 1
        try:
            await slots.free.acquire()
            try:
                await self._total.acquire()
            except BaseException:
                slots.free.release()
                raise
        except BaseException:
            self._forget(host, slots)
            raise
        self.in_use += 1

    def release(self, host: str) -> None:
        """Give both slots back."""
        self.in_use -= 1
        self._total.release()
        slots = self._hosts[host]
        slots.free.release()
        self._forget(host, slots)

    def _forget(self, host: str, slots: _Host) -> None:
        slots.users -= 1
        if not slots.users:
            del self._hosts[host]
