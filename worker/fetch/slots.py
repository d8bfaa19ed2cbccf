"""How many requests may be under way, in all and to one host."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(slots=True)
class _Host:
    free: asyncio.Semaphore
    users: int = 0
    """Requests under way or waiting; the host is forgotten when there are none."""


class Slots:
    """Who waits for its host holds no place in the total, so that a slow host keeps nobody else waiting."""

    def __init__(self, *, total: int, per_host: int) -> None:
        self._total = asyncio.Semaphore(total)
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}
        self.in_use = 0

    async def acquire(self, host: str) -> None:
        """Wait for a place at the host, then for one in the total."""
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
        """Give both places back."""
        self.in_use -= 1
        self._total.release()
        slots = self._hosts[host]
        slots.free.release()
        self._forget(host, slots)

    def _forget(self, host: str, slots: _Host) -> None:
        slots.users -= 1
        if not slots.users:
            del self._hosts[host]
