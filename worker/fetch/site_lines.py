"""The rows that wait for their sites. They wait as rows: no task, no slot and no bytes are held for them."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.fetch.sites import Site, Sites
    from worker.rows import Row


class SiteLines:
    """For each site a line of rows, without a limit. `on_ready` is called when a row may have become ready."""

    def __init__(self, sites: Sites, *, on_ready: Callable[[], object]) -> None:
        self._on_ready = on_ready
        self._loop = asyncio.get_running_loop()
        self._lines: dict[str, Site] = {}
        """The sites that have a line."""
        self._ready: deque[Site] = deque()
        self._resting: list[tuple[float, int, Row, Site]] = []
        """The rows that wait for themselves, as a heap: when, and a number that tells them apart."""
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self.waiting = 0
        """Number of rows that wait."""
        self.counted = 0
        """Number of them that came while their sites were not slow."""
        sites.on_turn, sites.on_slow = self._note_turn, self._note_slow

    @property
    def resting(self) -> list[Row]:
        """The rows that wait for themselves."""
        return [row for _, _, row, _ in self._resting]

    def add(self, row: Row, site: Site, *, is_first: bool = False) -> None:
        """Let the row wait for the site, as the last in its line or as the first."""
        line = site.line
        if line is None:
            line = site.line = deque()
            self._lines[site.name] = site
        self.waiting += 1
        if not site.is_slow:
            site.counted += 1
            self.counted += 1
        if is_first:
            line.appendleft(row)
        else:
            line.append(row)
        if len(line) == 1 and not site.is_ready:
            site.look_later()

    def rest(self, row: Row, site: Site, *, seconds: float) -> None:
        """Let the row wait for some time, and then for the site as the first in its line."""
        self.waiting += 1
        site.resting += 1
        heapq.heappush(self._resting, (time.monotonic() + seconds, next(self._numbers), row, site))
        self._look_later()

    def take(self, *, may_begin: Callable[[Row], bool]) -> tuple[Row, Site] | None:
        """Return a row whose site has a turn for it, which is taken, and the site."""
        now = time.monotonic()
        for _ in range(len(self._ready)):
            site = self._ready.popleft()
            line = site.line
            if line and not site.has_turn(now):
                site.is_ready = False
                site.look_later()
            elif line and may_begin(line[0]):
                row = line.popleft()
                site.promise(now)
                self._forget(site)
                return row, site
            else:
                self._ready.append(site)
        return None

    def drain(self) -> list[tuple[Row, Site]]:
        """Return all rows that wait, and forget them."""
        rows = [(row, site) for site in self._lines.values() for row in site.line or ()]
        rows += [(row, site) for _, _, row, site in self._resting]
        for site in self._lines.values():
            site.line, site.is_ready, site.counted = None, False, 0
        for _, _, _, site in self._resting:
            site.resting = 0
        self._lines.clear()
        self._ready.clear()
        self._resting.clear()
        self.waiting = self.counted = 0
        return rows

    def _forget(self, site: Site) -> None:
        """Count one row less of a ready site."""
        self.waiting -= 1
        if site.counted:
            site.counted -= 1
            self.counted -= 1
        if site.line:
            self._ready.append(site)
        else:
            site.line, site.is_ready = None, False
            del self._lines[site.name]

    def _note_turn(self, site: Site) -> None:
        if not site.is_ready:
            site.is_ready = True
            self._ready.append(site)
        self._on_ready()

    def _note_slow(self, site: Site) -> None:
        self.counted -= site.counted
        site.counted = 0
        self._on_ready()

    def _look_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._resting:
            self._timer = self._loop.call_later(max(0.0, self._resting[0][0] - time.monotonic()), self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._resting and self._resting[0][0] <= now:
            _, _, row, site = heapq.heappop(self._resting)
            site.resting -= 1
            self.waiting -= 1
            self.add(row, site, is_first=True)
        self._look_later()
