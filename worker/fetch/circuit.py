"""A circuit breaker: it stops the requests to what keeps failing, and lets a probe through after each pause.

    closed ── ten failures in a row ──▶ open ── pause ──▶ one probe ── an answer ──▶ a new, closed circuit
                                         ▲                    │
                                         └─ a longer pause ───┴─ a failure

A failure is an outcome that may pass: no connection, no complete answer, 429, 5xx. While the circuit is open, images
wait and use up no attempts, so that an outage that is shorter than the patience costs no image. After the patience the
circuit is given up: images fail at once, apart from the probes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.rows import ImageFailed

FAILURES_TO_OPEN = 10
"""The number of failures in a row that opens a circuit. If every second request fails at random, one request in a
thousand opens it, for one second."""

FIRST_PAUSE_SECONDS = 1.0
"""The pause in seconds before the first probe. It doubles with each probe that fails."""

PROBE_POLL_SECONDS = 0.5
"""The pause in seconds after which a request that waits for the outcome of a probe asks again."""


@dataclass(slots=True)
class Circuit:
    """The state of one circuit. `now` is always a time on the caller's monotonic clock, in seconds."""

    patience_seconds: float
    """The time from the first failure in a row until the circuit is given up."""
    longest_pause_seconds: float
    failures: int = 0
    """The number of failures in a row."""
    failing_since: float = 0.0
    failed_at: float = -math.inf
    """The time of the last failure."""
    last_failure: ImageFailed | None = None
    is_given_up: bool = False
    _pause_seconds: float = FIRST_PAUSE_SECONDS
    _open_until: float = 0.0
    _is_being_probed: bool = False

    @property
    def is_open(self) -> bool:
        return self.failures >= FAILURES_TO_OPEN

    def wait_seconds(self, now: float) -> float:
        """Return 0 if a request may be made now, else the time until the next look at the circuit."""
        if not self.is_open:
            return 0.0
        if now < self._open_until:
            return self._open_until - now
        return PROBE_POLL_SECONDS if self._is_being_probed else 0.0

    def note_admitted(self) -> None:
        """Note that a request was let through. It is the probe if the circuit is open."""
        self._is_being_probed = self.is_open

    def note_end(self) -> None:
        """Note that a request is over, so that another one may be the probe."""
        self._is_being_probed = False

    def note_failure(self, failure: ImageFailed, now: float, *, retry_after_seconds: float = 0.0) -> None:
        """Count a failure. An open circuit pauses for at least `retry_after_seconds`."""
        if not self.failures:
            self.failing_since = now
        self.failures += 1
        self._is_being_probed = False
        self.last_failure, self.failed_at = failure, now
        if self.is_open and now >= self._open_until:
            self._open_until = now + max(self._pause_seconds, retry_after_seconds)
            self._pause_seconds = min(self._pause_seconds * 2, self.longest_pause_seconds)
            self.is_given_up = now - self.failing_since >= self.patience_seconds
