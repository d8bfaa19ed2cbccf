"""Answers 403 that may mean 429. Some sites refuse with 403 whoever asks too often.

    five in a row, at a site that has answered ── the site pauses ── one image is asked again
                                                      ▲                     │
                                     ┌────────────────┴─ 403 again ─────────┼─ 403 twice: 403 is final at this site
                                     │                                      └─ an answer: 403 asks for fewer requests

A 403 alone is final, once the site has gone on to answer others or has nothing else to be asked for. So it costs no
further request.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.fetch.failures import Forbidden
    from worker.fetch.sites import Site
    from worker.rows import ImageFailed, Row

DOUBTFUL_IN_A_ROW = 5
"""Number of answers 403 in a row from which they are in doubt."""

ANSWERS_TO_TRUST = 10
"""Number of other answers after which the answers 403 before them are final."""

FIRST_PAUSE_SECONDS = 10.0
"""Pause in seconds of a site before an image in doubt is asked again. It doubles with each 403."""

LONGEST_PAUSE_SECONDS = 60.0
"""Longest such pause in seconds."""

TRIALS_TO_BELIEVE = 2
"""Number of images in doubt that are asked again and answered with 403 until 403 is final at the site."""


class Meaning(Enum):
    """What 403 means at a site."""

    UNKNOWN = auto()
    IN_DOUBT = auto()
    DENIED = auto()
    """The image is not for everybody: the failure is final."""
    REFUSED = auto()
    """The site asks for fewer requests."""


class Doubtful(NamedTuple):
    """A row that was answered with 403."""

    row: Row
    failure: Forbidden


@dataclass(slots=True)
class _Doubt:
    site: Site
    meaning: Meaning = Meaning.UNKNOWN
    rows: list[Doubtful] = field(default_factory=list)
    """The rows that wait."""
    in_a_row: int = 0
    answers: int = -1
    """Number of the site's other answers at the last 403."""
    trials: int = 0
    """Number of trials that were answered with 403."""
    pause_seconds: float = FIRST_PAUSE_SECONDS
    trial_at: float = math.inf
    """Time of the next trial, infinite while one is under way."""
    trial: Doubtful | None = None
    """The row that is asked again."""


class Doubts:
    """The rows with an answer 403 that is not final. Call `look` now and then.

    `fail` is called with a row whose 403 is final, `ask` with a row that is asked again as the first of its site.
    """

    def __init__(self, *, fail: Callable[[Row, ImageFailed], object], ask: Callable[[Row, Site], object]) -> None:
        self._fail, self._ask = fail, ask
        self._sites: dict[str, _Doubt] = {}
        self.waiting = 0
        """Number of rows that wait for a meaning."""

    @property
    def has_trial(self) -> bool:
        """Whether a row is being asked again."""
        return any(doubt.trial is not None for doubt in self._sites.values())

    def note(self, row: Row, site: Site, failure: Forbidden) -> None:
        """Note that the row was answered with 403 by a site at which the meaning of that is not known."""
        doubt = self._sites.get(site.name)
        if doubt is None:
            doubt = self._sites[site.name] = _Doubt(site)
        self._keep(doubt, Doubtful(row, failure))
        if doubt.trial is not None and doubt.trial.row.position == row.position:
            self._note_failed_trial(doubt)
            return
        doubt.in_a_row = 1 + (doubt.in_a_row if site.answers == doubt.answers else 0)
        doubt.answers = site.answers
        if doubt.meaning is Meaning.UNKNOWN and doubt.in_a_row >= DOUBTFUL_IN_A_ROW:
            doubt.meaning = Meaning.IN_DOUBT
            self._pause(doubt)

    def look(self, *, is_idle: Callable[[Site], bool]) -> None:
        """Decide what can be decided by now. `is_idle` tells whether nothing else is left to be asked of a site."""
        now = time.monotonic()
        for doubt in self._sites.values():
            site = doubt.site
            if doubt.meaning is Meaning.UNKNOWN:
                if doubt.rows and (site.answers >= doubt.answers + ANSWERS_TO_TRUST or is_idle(site)):
                    self._deny(doubt)
            elif doubt.trial is not None and site.answers > doubt.answers:
                self._settle(doubt, Meaning.REFUSED)
            elif now >= doubt.trial_at and not doubt.rows:
                self._settle(doubt, Meaning.UNKNOWN)
            elif now >= doubt.trial_at:
                doubt.trial = doubt.rows.pop(0)
                self.waiting -= 1
                doubt.trial_at = now + LONGEST_PAUSE_SECONDS  # if it ends without any answer, another row is asked
                doubt.answers = site.answers
                site.hold_after(1)
                self._ask(doubt.trial.row, site)

    def drain(self) -> Iterator[tuple[Doubtful, Site, Meaning]]:
        """Yield all rows that wait, and forget them."""
        for doubt in self._sites.values():
            for doubtful in doubt.rows:
                yield doubtful, doubt.site, doubt.meaning
            doubt.rows = []
        self.waiting = 0

    def _keep(self, doubt: _Doubt, doubtful: Doubtful) -> None:
        doubt.rows.append(doubtful)
        self.waiting += 1

    def _pause(self, doubt: _Doubt) -> None:
        doubt.trial, doubt.trial_at = None, time.monotonic() + doubt.pause_seconds
        doubt.site.hold_after(0)
        doubt.pause_seconds = min(LONGEST_PAUSE_SECONDS, 2 * doubt.pause_seconds)

    def _note_failed_trial(self, doubt: _Doubt) -> None:
        doubt.trials += 1
        if doubt.trials < TRIALS_TO_BELIEVE:
            self._pause(doubt)
            return
        self._deny(doubt)
        self._settle(doubt, Meaning.DENIED)

    def _deny(self, doubt: _Doubt) -> None:
        rows, doubt.rows = doubt.rows, []
        self.waiting -= len(rows)
        for row, failure in rows:
            self._fail(row, failure)

    def _settle(self, doubt: _Doubt, meaning: Meaning) -> None:
        site = doubt.site
        doubt.meaning, doubt.trial, doubt.trial_at = meaning, None, math.inf
        site.refuses_with_403 = meaning is Meaning.REFUSED
        site.denies_with_403 = meaning is Meaning.DENIED
        rows, doubt.rows = doubt.rows, []
        self.waiting -= len(rows)
        if meaning is Meaning.REFUSED:
            site.note_refusal(sent_at=time.monotonic(), retry_after_seconds=0)
        for row, _ in reversed(rows):
            self._ask(row, site)
        site.hold_after(None)
