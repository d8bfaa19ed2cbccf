"""The progress of a build, which is logged every few seconds."""

from __future__ import annotations

import time
from collections import deque

from common.logs import log

INDEX_PROGRESS = "index_progress"
"""The event with which a build says how many vectors are in the index (`rows`, `of`), at which rate, and when it will
have all of them (`eta_s`). `embedder index` reads it."""

INDEX_STEP = "index_step"
"""The event with which the index program names the step that it begins. `embedder index` reads it."""

WINDOW_SECONDS = 30
"""The time in seconds over which the rate is measured. The more vectors an index has, the longer the next one takes."""


class Progress:
    def __init__(self, total: int, *, interval_seconds: float) -> None:
        self._total, self._interval_seconds = total, interval_seconds
        self._done = 0
        self._began = self._logged = time.monotonic()
        self._recent = deque([(self._began, 0)])

    @property
    def seconds(self) -> float:
        """Duration so far."""
        return time.monotonic() - self._began

    def step(self, name: str) -> None:
        """Log that a step begins."""
        log.info(INDEX_STEP, step=name)

    def add(self, rows: int) -> None:
        """Count rows that are in the index now, and log the progress where it is time to."""
        now = time.monotonic()
        self._done += rows
        self._recent.append((now, self._done))
        while len(self._recent) > 2 and now - self._recent[0][0] > WINDOW_SECONDS:
            self._recent.popleft()
        if now - self._logged >= self._interval_seconds or self._done == self._total:
            self._logged = now
            self.log()

    def log(self) -> None:
        (first_time, first_done), (last_time, last_done) = self._recent[0], self._recent[-1]
        rate = (last_done - first_done) / (last_time - first_time) if last_time > first_time else 0
        eta = round((self._total - self._done) / rate) if rate else "unknown"
        log.info(INDEX_PROGRESS, rows=self._done, of=self._total, rate_per_s=round(rate), eta_s=eta)
