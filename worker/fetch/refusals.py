"""The rows that their sites have refused with 429 and its like.

A refusal slows its site. But an image may be refused for ever, at a site that answers for all others. It must not slow
the site for ever, so its refusals soon count for nothing but its own pauses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.fetch.must_wait import Refusal
    from worker.fetch.sites import Site
    from worker.rows import Row

MAX_REFUSALS_IN_COMPANY = 3
"""Number of refusals of a row, with answers to other rows in between, that slow its site."""

FIRST_PAUSE_SECONDS = 1.0
"""Pause in seconds of a row after its first refusal. It doubles with each further one."""

LONGEST_PAUSE_SECONDS = 60.0
"""Longest pause in seconds of a row between two requests."""


@dataclass(slots=True)
class _Refused:
    site: Site
    count: int = 0
    in_company: int = 0
    """Number of refusals before which the site has answered other rows, the first one included."""
    answers: int = -1
    """Number of the site's answers at the last refusal."""


class Refusals:
    """The refusals of the rows that are not settled."""

    def __init__(self) -> None:
        self._rows: dict[int, _Refused] = {}

    def count(self, row: Row) -> int:
        """Return how often the row was refused."""
        known = self._rows.get(row.position)
        return 0 if known is None else known.count

    def is_rows_own(self, row: Row) -> bool:
        """Return whether further refusals of the row say nothing about its site."""
        known = self._rows.get(row.position)
        return known is not None and known.in_company >= MAX_REFUSALS_IN_COMPANY

    def note(self, row: Row, site: Site, refusal: Refusal) -> float:
        """Note a refusal, let it slow the site unless it is the row's own, and return the row's pause in seconds."""
        known = self._rows.get(row.position)
        if known is None or known.site is not site:
            known = self._rows[row.position] = _Refused(site)
        is_own = known.in_company >= MAX_REFUSALS_IN_COMPANY
        known.count += 1
        known.in_company += site.answers > known.answers
        known.answers = site.answers
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(known.count - 1, 10))
        if is_own:
            return max(pause, refusal.retry_after_seconds)
        is_alone = not site.is_slow and not refusal.retry_after_seconds
        if is_alone and (known.count > 1 or not site.refuses_often()):
            return pause
        site.note_refusal(sent_at=refusal.sent_at, retry_after_seconds=refusal.retry_after_seconds)
        return pause

    def forget(self, row: Row) -> None:
        """Forget a row that is settled."""
        if self._rows:
            self._rows.pop(row.position, None)
