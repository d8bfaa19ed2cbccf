"""The rows whose turn to be fetched has not come. They wait as rows, so that hardly anything is kept for them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from worker.fetch.site_lines import SiteLines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from worker.fetch.sites import Site, Sites
    from worker.fetch.slots import Slots
    from worker.rows import Row

READ_AT_ONCE = 1000
"""Number of rows that are read before other work of the event loop has its turn."""


class Place(NamedTuple):
    """Where a row's first request goes."""

    host: str
    """The host, or any other text if that is not known."""
    site: Site | None
    """The host's site, None if no site is asked or it is not known."""


class RowsAhead:
    """Hands out rows, each to one of the tasks of one event loop, when there is a slot for its first request.

    Rows are handed out in their order. But a row whose host has no free slot is passed over, and waits for the host, so
    that a slow host does not hold up the rows of other hosts. So does a row whose site has no turn for it. At most
    `most_waiting` rows wait for hosts or for new sites; any number waits for slow sites, because other sites' rows may
    come after them. At most `most_under_way` rows are handed out and not settled.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        *,
        place_of: Callable[[Row], Place],
        slots: Slots,
        sites: Sites,
        most_waiting: int,
        most_under_way: int,
    ) -> None:
        self._rows = iter(rows)
        self._place_of = place_of
        self._slots = slots
        self._most_waiting, self._most_under_way = most_waiting, most_under_way
        self._by_host: dict[str, deque[Row]] = {}
        """The rows that wait for their hosts. No line is empty."""
        self._waiting = 0
        """Number of rows that wait for their hosts."""
        self.lines = SiteLines(sites, on_ready=self._offer_soon)
        """The rows that wait for their sites."""
        self._under_way: dict[int, Site | None] = {}
        """The sites of the rows that are handed out and not settled, by position."""
        self.held_back = 0
        """Number of rows that are not under way, wait for nothing here, and may be handed out again."""
        self.is_read = False
        """Whether no further row will be read."""
        self._loop = asyncio.get_running_loop()
        self._idle: list[asyncio.Future[Row | None]] = []
        """Tasks that wait for a row. The last one to come gets the next row, as its memory is still in the cache."""
        self._is_offer_soon = False
        slots.on_free = self._offer_soon

    @property
    def are_only_slow_left(self) -> bool:
        """Whether all rows that are not settled belong to slow sites or were refused."""
        return (
            self.is_read
            and not self._waiting
            and not self.lines.counted
            and all(site is not None and site.is_slow for site in self._under_way.values())
        )

    @property
    def under_way(self) -> int:
        """Number of rows that are handed out and not settled."""
        return len(self._under_way)

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

    def note_settled(self, row: Row) -> None:
        """Note that a row is no longer under way."""
        if len(self._under_way) == self._most_under_way:
            self._offer_soon()
        site = self._under_way.pop(row.position)
        if site is not None:
            site.under_way -= 1
            site.promised = min(site.promised, site.under_way)  # the row has made no request

    def let_idle_go(self) -> None:
        """Let tasks end that wait for a row, if there will be none."""
        if self._is_all_handed_out:
            self._let_idle_go()

    @property
    def _is_all_handed_out(self) -> bool:
        return self.is_read and not (self._waiting or self.lines.waiting or self.held_back)

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
        self.let_idle_go()

    def _let_idle_go(self) -> None:
        while self._idle:
            self._give(None)

    def _give(self, row: Row | None) -> None:
        idle = self._idle.pop()
        if not idle.done():  # else its task was cancelled, which ends the whole list
            idle.set_result(row)

    def _take(self) -> Row | None:
        """Return a row that may be begun, None if there is none."""
        if not self._slots.free or len(self._under_way) >= self._most_under_way:
            return None
        taken: tuple[Row, Site | None] | None = None
        if self.lines.waiting:
            taken = self.lines.take(may_begin=self._has_slot)
        if taken is None and self._waiting:
            taken = self._from_line()
        if taken is None:
            taken = self._read()
        if taken is None:
            return None
        row, site = taken
        self._under_way[row.position] = site
        if site is not None:
            site.under_way += 1
        return row

    def _has_slot(self, row: Row) -> bool:
        return self._slots.is_no_host_full or self._slots.free_for(self._place_of(row).host) > 0

    def _from_line(self) -> tuple[Row, Site | None] | None:
        """Return a row that waited for its host."""
        while (host := next(filter(self._slots.free_for, self._by_host), None)) is not None:
            line = self._by_host[host]
            row = line.popleft()
            if not line:
                del self._by_host[host]
            self._waiting -= 1
            if (taken := self._begun(row, self._place_of(row).site)) is not None:
                return taken
        return None

    def _read(self) -> tuple[Row, Site | None] | None:
        """Return the next row whose host has a free slot. Those before it wait for their hosts or sites."""
        for _ in range(READ_AT_ONCE):
            if self._waiting + self.lines.counted >= self._most_waiting:
                return None
            row = next(self._rows, None)
            if row is None:
                self.is_read = True
                return None
            host, site = self._place_of(row)
            if site is not None and site.line:
                self.lines.add(row, site)
            elif self._slots.free_for(host):
                if (taken := self._begun(row, site)) is not None:
                    return taken
            else:
                self._by_host.setdefault(host, deque()).append(row)
                self._waiting += 1
        self._loop.call_soon(self._offer_soon)
        return None

    def _begun(self, row: Row, site: Site | None) -> tuple[Row, Site | None] | None:
        """Return the row with its site, whose turn is taken. If the site has none, the row waits for it."""
        if site is not None and not site.is_free:
            now = time.monotonic()
            if site.line or not site.has_turn(now):
                self.lines.add(row, site)
                return None
            site.promise(now)
        return row, site
