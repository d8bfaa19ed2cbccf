"""Rows that have to wait again after they were handed out, and the end of the wait for slow sites."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from common.format.reasons import Reason
from worker.fetch.doubts import Doubts, Meaning
from worker.fetch.must_wait import MustWait
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.fetch.refusals import Refusals
    from worker.fetch.rows_ahead import RowsAhead
    from worker.fetch.sites import Site, Sites
    from worker.rows import Row

LOOK_SECONDS = 0.25
"""Time in seconds between two looks at what is left."""


class RowsLater:
    """Takes rows back that `ahead` has handed out. For one event loop.

    When only rows of slow sites have been left for `slow_site_seconds`, those that wait fail as `deferred`, and those
    under way are finished. `fail` is called with a row that is not under way. A row that its site refuses alone is
    asked for at most `attempts` times once nothing else is left.
    """

    def __init__(
        self,
        ahead: RowsAhead,
        *,
        sites: Sites,
        refusals: Refusals,
        slow_site_seconds: float,
        attempts: int,
        fail: Callable[[Row, ImageFailed], object],
    ) -> None:
        self._ahead, self._lines = ahead, ahead.lines
        self._sites, self._refusals = sites, refusals
        self._slow_site_seconds, self._attempts = slow_site_seconds, attempts
        self._fail = fail
        self._doubts = Doubts(fail=fail, ask=self._ask_first)
        self._slow_since: float | None = None
        """Time since which only rows of slow sites are left."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def close(self) -> None:
        self._timer.cancel()

    def put_back(self, row: Row, wait: MustWait) -> None:
        """Let a row wait that is under way."""
        site = wait.site
        self._ahead.note_settled(row)
        pause = 0.0
        if (refusal := wait.refusal) is not None:
            pause = self._refusals.note(row, site, refusal)
            if refusal.status == 403 and self._is_refused_for_good(row):
                self._fail(row, ImageFailed(Reason.ACCESS_DENIED, f"403 after {self._refusals.count(row)} attempts"))
                return
        if self._sites.is_ending:
            self._defer(row, site)
        elif wait.forbidden is not None:
            self._doubts.note(row, site, wait.forbidden)
            self._ahead.held_back = self._doubts.waiting
        elif refusal is not None:
            self._lines.rest(row, site, seconds=pause)
        else:
            self._ask_first(row, site)

    def pause_seconds(self, row: Row, wait: MustWait) -> float:
        """Return the pause of a row that stays under way. Raises ImageFailed if no row waits any more."""
        if self._sites.is_ending:
            raise self._deferred(wait.site)
        if wait.forbidden is not None:
            raise wait.forbidden
        if wait.refusal is not None:
            return self._refusals.note(row, wait.site, wait.refusal)
        return max(LOOK_SECONDS, wait.site.wait_seconds(time.monotonic()))

    def _ask_first(self, row: Row, site: Site) -> None:
        self._lines.add(row, site, is_first=True)

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)
        if self._doubts.waiting or self._doubts.has_trial:
            self._doubts.look(is_idle=self._is_idle)
            self._ahead.held_back = self._doubts.waiting
            self._ahead.let_idle_go()
        if not self._ahead.are_only_slow_left:
            self._slow_since = None
            return
        now = time.monotonic()
        if self._slow_since is None:
            self._slow_since = now
        if now - self._slow_since >= self._slow_site_seconds or self._are_only_refused_left:
            self._end()

    def _is_idle(self, site: Site) -> bool:
        return self._ahead.is_read and not site.left

    @property
    def _are_only_refused_left(self) -> bool:
        resting = self._lines.resting
        return (
            self._lines.waiting == len(resting) > 0
            and not self._ahead.under_way
            and not self._doubts.waiting
            and all(map(self._is_refused_for_good, resting))
        )

    def _is_refused_for_good(self, row: Row) -> bool:
        return self._refusals.is_rows_own(row) and self._refusals.count(row) >= self._attempts

    def _end(self) -> None:
        """Let the rows fail that wait, and let no further row wait."""
        self._sites.end(MustWait)
        for row, site in self._lines.drain():
            self._defer(row, site)
        for doubtful, site, meaning in self._doubts.drain():
            if meaning is Meaning.UNKNOWN:
                self._fail(doubtful.row, doubtful.failure)
            else:
                self._defer(doubtful.row, site)
        self._ahead.held_back = 0
        self._ahead.let_idle_go()

    def _defer(self, row: Row, site: Site) -> None:
        self._fail(row, self._deferred(site))

    def _deferred(self, site: Site) -> ImageFailed:
        rate = site.pace.rate
        pace = f" is asked {rate:.2g} times a second" if rate is not None else " has refused this image"
        detail = (
            f"{site.name}{pace}, and the chunk waits {self._slow_site_seconds:g} s for slow sites when nothing else is "
            "left (EMBEDDER_SLOW_SITE_SECONDS); a top-up fetches the image"
        )
        return ImageFailed(Reason.DEFERRED, detail)
