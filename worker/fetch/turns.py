"""The turns of a worker at a site that bears less than a request a second from it.

So slow a site refuses too seldom for a rate to be found from the refusals: a worker with one request in four seconds
may be refused once in 40. Workers with equal intervals need to learn nothing more,
once each has a place among the others.
Therefore the intervals are powers of two seconds, and a worker that is refused tries again shortly after. It has its
place when it is not refused any more. If it waits long in each interval, the interval is too short.

docs/decisions/0010-a-pace-for-each-site.md explains the law and has the measurements behind its constants.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

HIGHEST_RATE = 0.5
"""Highest rate of turns in requests/s."""

RATE_ABOVE = math.sqrt(2) * HIGHEST_RATE
"""Rate in requests/s with which a worker leaves the turns, and below which it may begin to take turns: between the
highest rate of turns and the next power of two."""

FIRST_RETRY_SECONDS = 0.4
"""Longest time in seconds before a refused turn is tried again. It is the same for all workers, whatever their
intervals, so that they all have the same chance."""

RETRY_GROWTH = 1.2
"""Factor of this time after each retry: a site that serves nobody is asked less and less."""

LONGEST_RETRY = 0.5
"""Longest such time, as a part of the interval."""

WAIT_WEIGHT = 0.2
"""Weight of the newest turn in the mean time for which turns wait, so that it covers about the last five turns."""

LONGEST_WAIT = 0.12
"""Longest mean wait as a part of the interval. A worker that waits longer doubles its interval. Those with short
intervals do so first, which makes the intervals equal."""

LONGEST_FIRST_WAIT = 0.45
"""The same in the first seconds, in which the workers look for their places."""

FIRST_SECONDS = 30.0
"""Duration in seconds of this search."""

MOST_RETRIES = 16
"""Number of retries of one turn after which a worker doubles its interval in any case."""

TRIAL_TURNS = 10
"""Number of turns in a row that must be answered before half the interval is kept."""

TRIAL_SHIFT = 0.3
"""Longest shift of each of these turns, as a part of the interval. Without it they could keep the places of others."""

PATIENCE_SECONDS = 100.0
"""Mean time in seconds before a worker tries half the interval. Each trial at a site that is used up costs a refusal
or two. With 8 workers at 2 requests/s, one in 100 s each means 4 to 8 % of refusals."""

LEAST_PATIENCE = 3
"""The same at least in turns."""

POSTPONE_SECONDS = 48.0
"""Time in seconds by which a refusal puts off such a trial."""


class Turns:
    """The turns of one worker at one site. Times are those of the caller's monotonic clock, in seconds."""

    def __init__(self, rate: float, *, now: float, at_least: float, random: Random) -> None:
        self.rate = max(rate, at_least)
        """Turns a second."""
        self._at_least = at_least
        self._random = random
        self._first_until = now + FIRST_SECONDS
        self._mean_wait = 0.0
        self._due_at: float | None = None
        """The time at which a turn was due that has been refused since, without the pauses that the site asked for."""
        self._retries = 0
        self._trial_turns_left = 0
        self._patience_ends_at = 0.0
        self._wait_patiently(now)

    @property
    def are_outgrown(self) -> bool:
        """Whether the worker has waited long enough to try more requests than turns are for."""
        return self.rate > RATE_ABOVE

    def note_answer(self, *, sent_at: float, now: float) -> float:
        """Note an answered turn. Return the time in seconds by which the next turn comes later, or earlier if < 0."""
        wait = 0.0 if self._due_at is None else max(0.0, sent_at - self._due_at)
        self._due_at = None
        self._mean_wait += WAIT_WEIGHT * (wait - self._mean_wait)
        if self._trial_turns_left:
            self._trial_turns_left -= 1
            shift = self._random.uniform(-TRIAL_SHIFT, TRIAL_SHIFT) / self.rate
            if not self._trial_turns_left:
                self._wait_patiently(now)
            return shift
        return self._rise(now) if now >= self._patience_ends_at else 0.0

    def _rise(self, now: float) -> float:
        self._wait_patiently(now)
        interval = 1 / self.rate
        self.rate *= 2
        self._trial_turns_left = TRIAL_TURNS
        self._mean_wait = 0.0
        # The new turns lie between the old ones.
        return -interval / 2

    def note_refusal(self, *, sent_at: float, now: float, resumed_at: float) -> float:
        """Note a refused turn. Return the time of the next request. The site wants none before `resumed_at`."""
        interval = 1 / self.rate
        if self._trial_turns_left:
            return self._end_trial(sent_at + interval, now, resumed_at)
        if self._due_at is None:
            self._due_at, self._retries = sent_at, 0
        wait = sent_at - self._due_at
        self._due_at += resumed_at - now
        mean_wait = self._mean_wait + WAIT_WEIGHT * (wait - self._mean_wait)
        longest_mean = (LONGEST_FIRST_WAIT if now < self._first_until else LONGEST_WAIT) * interval
        if mean_wait > longest_mean or self._retries % MOST_RETRIES == MOST_RETRIES - 1:
            self.rate = max(self.rate / 2, self._at_least)
            self._mean_wait, self._due_at = 0.0, now
            self._wait_patiently(now)
        self._patience_ends_at += POSTPONE_SECONDS
        self._retries += 1
        longest = min(FIRST_RETRY_SECONDS * RETRY_GROWTH**self._retries, LONGEST_RETRY / self.rate)
        return resumed_at + self._random.uniform(0.0, longest)

    def _end_trial(self, next_at: float, now: float, resumed_at: float) -> float:
        """Return to the interval before the trial. `next_at` is the next turn of the old half of the turns."""
        self._trial_turns_left = 0
        self.rate = max(self.rate / 2, self._at_least)
        self._wait_patiently(now)
        late = max(0.0, resumed_at - next_at)
        return next_at + math.ceil(late * self.rate) / self.rate

    def _wait_patiently(self, now: float) -> None:
        # Workers that tried at the same time would all be refused.
        seconds = max(PATIENCE_SECONDS, LEAST_PATIENCE / self.rate)
        self._patience_ends_at = now + seconds * self._random.uniform(0.5, 1.5)
