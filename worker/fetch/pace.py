"""The pace at which one worker sends requests to one site.

A site that answers 429 or 503 says that it bears fewer requests. That is all that a worker knows: neither the limit nor
the other workers that share it. `Pace` finds the rate from these refusals, as a TCP connection finds its own. It makes
no request and reads no clock: `now` is a time on the caller's monotonic clock, in seconds.
"""

from __future__ import annotations

import math
from random import Random

UNLIMITED_IN_FLIGHT = 64
"""Number of requests in flight at which a new site counts as known: it has borne all the requests of a worker."""

FIRST_RATE = 0.25
"""Lowest rate after the first refusal, in requests/s. All workers begin with it, so they begin with equal shares."""

ANSWERS_TO_REGAIN = 16
"""Number of answers in which one refusal's decrease is regained, at a rate of 1 request/s."""

DECREASE = 0.8
"""Factor of the rate after a refusal."""

OUTGROWN_RATE = 1000.0
"""Rate in requests/s from which a pace is not in force any more: no worker sends more to one site."""


class Pace:
    """The pace for one site. `at_least`, `at_most` and `fixed` are rates in requests/s; `fixed` overrules refusals."""

    def __init__(
        self,
        *,
        at_least: float,
        at_most: float = math.inf,
        fixed: float | None = None,
        random: Random | None = None,
    ) -> None:
        self._at_least = min(at_least, at_most)
        self._at_most = at_most
        self._fixed = fixed
        self._random = random or Random()
        self._found: float | None = None
        self._is_probing = True
        self._next_at = -math.inf
        self._held_until = -math.inf
        self._decreased_at = -math.inf
        self._first_sent_at: float | None = None
        self._answers = 0
        self._in_flight_allowed = 1

    @property
    def rate(self) -> float | None:
        """The rate in requests/s, or None while no pace is in force."""
        if self._fixed is not None:
            return self._fixed
        if self._found is not None:
            return self._found
        return None if math.isinf(self._at_most) else self._at_most

    @property
    def is_slow(self) -> bool:
        """Whether a pace is in force, because of refusals or of a setting."""
        return self.rate is not None

    @property
    def most_in_flight(self) -> int | None:
        """Number of requests that may be under way at once, or None if the pace does not bound it.

        A new site gets one, and twice as many after each answer, so that a slow site is not flooded before it can
        refuse.
        """
        if self._fixed is not None or self._found is not None or self._in_flight_allowed >= UNLIMITED_IN_FLIGHT:
            return None
        return self._in_flight_allowed

    def wait_seconds(self, now: float) -> float:
        """Return 0 if a request may be sent now, else the time in seconds after which the caller asks again."""
        due_at = self._held_until if self.rate is None else max(self._held_until, self._next_at)
        return max(0.0, due_at - now)

    def note_sent(self, now: float) -> None:
        """Note that a request is sent."""
        if self._first_sent_at is None:
            self._first_sent_at = now
        if self.rate is not None:
            interval = 1 / self.rate
            # A caller that is late by less than an interval keeps its rate.
            self._next_at = max(self._next_at, now - interval) + interval

    def note_answer(self, *, sent_at: float, now: float) -> None:
        """Note an answer that is not a refusal, to the request that was sent at `sent_at`."""
        del now
        self._answers += 1
        self._in_flight_allowed = min(2 * self._in_flight_allowed, UNLIMITED_IN_FLIGHT)
        if self._found is None or sent_at < self._decreased_at:
            return
        growth = (
            min(1.2, 2 ** (0.5 / self._found))
            if self._is_probing
            else 1 + (1 / DECREASE - 1) / (ANSWERS_TO_REGAIN * self._found**0.25)
        )
        self._found = min(self._found * growth, self._at_most)
        if self._found >= OUTGROWN_RATE:
            self._found = None

    def note_refusal(self, *, sent_at: float, now: float, retry_after_seconds: float) -> None:
        """Note a refusal (429, 503). `retry_after_seconds` is what the site asks for, 0 if it asks for nothing."""
        self._held_until = max(self._held_until, now + retry_after_seconds)
        if self._fixed is not None or sent_at < self._decreased_at:
            return
        if self._found is None:
            seconds = max(1.0, now - (self._first_sent_at or now))
            self._found = max(FIRST_RATE, self._answers / seconds / 12)
            self._is_probing = True
        else:
            self._found *= DECREASE
            self._is_probing = False
        self._found = min(max(self._found, self._at_least), self._at_most)
        self._decreased_at = now
        interval = 1 / self._found
        self._next_at = max(now, self._held_until) + interval * self._random.random()
