"""The rows whose turn to be fetched has not come. They wait as rows, so that hardly anything is kept for them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from worker.fetch.slots import Slots
    from worker.rows import Row


class RowsAhead:
    """Hands out rows, each to one of the tasks of one event loop, when there is a slot for its first request.

    Rows are handed out in their order. But a row whose host has no free slot is passed over, and waits for the host, so
    that a slow host does not hold up the rows of other hosts. At most `most_waiting` rows wait for their hosts, and at
    most `most_under_way` rows are handed out and not settled. `host_of` returns the host of a row's first request, or
    any other text if that is not known.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        *,
        host_of: Callable[[Row], str],
        slots: Slots,
        most_waiting: int,
        most_under_way: int,
    ) -> None:
        self._rows = iter(rows)
        self._host_of = host_of
        self._slots = slots
        self._most_waiting, self._most_under_way = most_waiting, most_under_way
        self._by_host: dict[str, deque[Row]] = {}
        """The rows that wait for their hosts. No line is empty."""
        self._waiting = self._under_way = 0
        self._is_read = False
        self._idle: list[asyncio.Future[None]] = []
        """Tasks that wait for a row. The last one to come gets the next row, as its memory is still in the cache."""
        self._held_up = 0
        """Number of tasks that wait because too many rows are under way."""
        slots.on_free = self._wake_one

    async def next(self) -> Row | None:
        """Wait for a row, and return it. Return None once all rows have been handed out."""
        while True:
            if self._under_way >= self._most_under_way:
                self._held_up += 1
            elif self._slots.has_free and (row := self._take()) is not None:
                self._under_way += 1
                return row
            if self._is_read and not self._waiting:
                self._wake_all()
                return None
            idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle

    def note_settled(self) -> None:
        """Note that a row is no longer under way."""
        self._under_way -= 1
        if self._held_up:
            self._held_up -= 1
            self._wake_one()

    def _take(self) -> Row | None:
        """Return a row whose host has a free slot, None if there is none."""
        for host, line in self._by_host.items():
            if self._slots.has_free_for(host):
                self._waiting -= 1
                if len(line) == 1:
                    del self._by_host[host]
                return line.popleft()
        while self._waiting < self._most_waiting:
            row = next(self._rows, None)
            if row is None:
                self._is_read = True
                return None
            host = self._host_of(row)
            if self._slots.has_free_for(host):
                return row
            self._by_host.setdefault(host, deque()).append(row)
            self._waiting += 1
        return None

    def _wake_one(self) -> None:
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():  # else its task was cancelled
                idle.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._idle:
            self._wake_one()
