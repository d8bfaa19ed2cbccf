"""How many requests may be in flight, in total and to one host."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Turn = asyncio.Future[None]


@dataclass(slots=True)
class _Host:
    free: int
    users: int = 0
    """The requests in flight or waiting. The host is forgotten when there are none."""
    waiting: deque[Turn] = field(default_factory=deque)
    """Requests without a slot of the host, in the order in which they came."""


class Slots:
    """A request takes a slot of its host first and then one of the total, so that a slow host delays no other host.

    It waits once for both. Two semaphores would do the same, but each would wake it up.
    """

    def __init__(self, *, total: int, per_host: int) -> None:
        self.free = total
        """Number of slots of the total that no request has."""
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}
        self._line: deque[Turn] = deque()
        """Requests that have a slot of their host and none of the total."""
        self.in_use = 0
        self.on_free: Callable[[], object] = _nothing
        """Called after a slot of the total became free for which no request waits."""

    @property
    def is_no_host_full(self) -> bool:
        """Whether there are so few requests that no host can be at its limit. It may be so too if this is False."""
        return self.in_use < self._per_host and not self._line

    def free_for(self, host: str) -> int:
        """Return the number of the host's slots that no request has."""
        slots = self._hosts.get(host)
        return self._per_host if slots is None else slots.free

    @asynccontextmanager
    async def slot(self, host: str) -> AsyncIterator[None]:
        """Hold a slot of the host and one of the total during the block."""
        await self.acquire(host)
        try:
            yield
        finally:
            self.release(host)

    def try_acquire(self, host: str) -> bool:
        """Take a slot of the host and one of the total, unless others wait or none is free. Return whether it did."""
        slots = self._host(host)
        if self._line or not (slots.free and self.free):
            return False
        slots.users += 1
        slots.free -= 1
        self.free -= 1
        self.in_use += 1
        return True

    async def acquire(self, host: str) -> None:
        """Wait for a slot of the host and one of the total."""
        if self.try_acquire(host):
            return
        slots = self._host(host)
        slots.users += 1
        turn: Turn = asyncio.get_running_loop().create_future()
        if slots.free:
            slots.free -= 1
            self._line.append(turn)
        else:
            slots.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._leave(host, slots, turn)
            raise

    def _host(self, host: str) -> _Host:
        slots = self._hosts.get(host)
        if slots is None:
            slots = self._hosts[host] = _Host(self._per_host)
        return slots

    def release(self, host: str) -> None:
        """Give both slots back."""
        slots = self._hosts[host]
        self.in_use -= 1
        self.free += 1
        self._pass_on(slots)
        self._forget(host, slots)
        if self.free:
            self.on_free()

    def _pass_on(self, slots: _Host) -> None:
        """Give a slot of the host to the next request that waits for it, and all free slots of the total."""
        if slots.waiting:
            self._line.append(slots.waiting.popleft())
        else:
            slots.free += 1
        while self.free and self._line:
            turn = self._line.popleft()
            if not turn.cancelled():  # else `_leave` will pass its slot on
                self.free -= 1
                self.in_use += 1
                turn.set_result(None)

    def _leave(self, host: str, slots: _Host, turn: Turn) -> None:
        """Undo what a cancelled request has taken."""
        if not turn.cancelled():  # it had its turn a moment before
            self.release(host)
            return
        if turn in slots.waiting:
            slots.waiting.remove(turn)
        else:
            with suppress(ValueError):  # `_pass_on` has dropped it
                self._line.remove(turn)
            self._pass_on(slots)
        self._forget(host, slots)

    def _forget(self, host: str, slots: _Host) -> None:
        slots.users -= 1
        if not slots.users:
            del self._hosts[host]


def _nothing() -> None:
    pass
