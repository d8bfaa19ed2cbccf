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
        self._loop = asyncio.get_running_loop()
        self._idle: list[asyncio.Future[Row | None]] = []
        """Tasks that wait for a row. The last one to come gets the next row, as its memory is still in the cache."""
        self._is_offer_soon = False
        slots.on_free = self._offer_soon

    async def next(self) -> Row | None:
        """Wait for a row, and return it. Return None once all rows have been handed out."""
        row = self._take()
        if row is not None:
            return row
        if self._is_all_handed_out:
            self._let_idle_go()
            return None
        idle: asyncio.Future[Row | None] = self._loop.create_future()
        self._idle.append(idle)
        return await idle

    def note_settled(self) -> None:
        """Note that a row is no longer under way."""
        if self._under_way == self._most_under_way:
            self._offer_soon()
        self._under_way -= 1

    @property
    def _is_all_handed_out(self) -> bool:
        return self._is_read and not self._waiting

    def _offer_soon(self) -> None:
        # Later, because the task that gives a slot back usually asks for its next row at once.
        if self._idle and not self._is_offer_soon:
            self._is_offer_soon = True
            self._loop.call_soon(self._offer)

    def _offer(self) -> None:
        """Give rows to idle tasks, as many as there are slots."""
        self._is_offer_soon = False
        for _ in range(self._slots.free):
            if not self._idle or (row := self._take()) is None:
                break
            self._give(row)
        if self._is_all_handed_out:
            self._let_idle_go()

    def _let_idle_go(self) -> None:
        while self._idle:
            self._give(None)

    def _give(self, row: Row | None) -> None:
        idle = self._idle.pop()
        if not idle.done():  # else its task was cancelled, which ends the whole list
            idle.set_result(row)

    def _take(self) -> Row | None:
        """Return a row that may be begun, None if there is none."""
        if not self._slots.free or self._under_way >= self._most_under_way:
            return None
        row = self._from_line() if self._waiting else None
        if row is None:
            row = self._read()
        if row is not None:
            self._under_way += 1
        return row

    def _from_line(self) -> Row | None:
        """Return a row that waited for its host."""
        for host, line in self._by_host.items():
            if self._slots.free_for(host):
                self._waiting -= 1
                if len(line) == 1:
                    del self._by_host[host]
                return line.popleft()
        return None

    def _read(self) -> Row | None:
        """Return the next row whose host has a free slot. Those before it wait for their hosts."""
        while self._waiting < self._most_waiting:
            row = next(self._rows, None)
            if row is None:
                self._is_read = True
                return None
            host = self._host_of(row)
            if self._slots.free_for(host):
                return row
            self._by_host.setdefault(host, deque()).append(row)
            self._waiting += 1
        return None
