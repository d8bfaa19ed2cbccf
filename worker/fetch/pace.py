"""The pace at which one worker sends requests to one site.

A site that answers 429 or 503 says that it bears fewer requests. That is all that a worker knows: neither the limit nor
the other workers that share it. `Pace` finds the rate from these refusals, much as a TCP connection finds its own. It
makes no request and reads no clock: `now` is always a time on the caller's monotonic clock, in seconds.

    new ── a refusal ──▶ climbing ── a refusal ──▶ steady ◀── below 0.7 requests/s ──▶ turns
     ▲                                               │
     └────────────── the pace is outgrown ───────────┘

A site that has refused everything for some time and then answers again says nothing about its limit: whatever its phase
was, the worker climbs again.

docs/decisions/0010-a-pace-for-each-site.md explains the law and has the measurements behind its constants.
"""

from __future__ import annotations

import math
from enum import Enum, auto
from random import Random

from worker.fetch.turns import HIGHEST_RATE, RATE_ABOVE, Turns

KNOWN_GOOD_ANSWERS = 64
"""Number of answers after which a new site is known to bear all the requests that a worker sends."""

FIRST_RATE = 0.5
"""Rate in requests/s after the first refusal. Workers that begin with equal rates need little correction."""

CLIMB_SECONDS = 4.2
"""Time in seconds in which the rate grows by the factor e until the climb ends: from 0.5 to 200 requests/s in 25 s.
Workers that climb by the clock keep equal rates, whoever is answered more often."""

LARGEST_CLIMB = 0.6
"""Largest growth of the rate with one answer in the climb, as a part of the rate."""

ANSWERS_TO_CLIMB = 2
"""Number of answers after the first refusal before another refusal can end the climb. Without an answer, the refusal
still belongs to the rush in which the workers began."""

RUSH_DECREASE = 0.8
"""Factor of the rate after such a refusal."""

FIRST_CUT, SMALLEST_CUT, CUT_FACTOR = 0.14, 0.07, 0.9
"""Part of the rate that the first refusal after the climb takes, the smallest such part, and the factor from one
refusal to the next. Large parts find the limit soon; small ones keep the rates equal once they are."""

CYCLE_SECONDS = 9.0
"""Time in seconds in which a rate grows back what a refusal took, at 2 requests/s and more. A worker with a higher rate
is refused as often in the same number of requests, but does not grow more in the same time, which makes the rates
equal."""

CYCLE_REQUESTS, CYCLE_POWER = 13, 0.4
"""Least number of such requests at 1 request/s (1 in 14 is refused), and the power with which it grows with the rate.
Below 2 requests/s, 9 seconds would be too few requests."""

EAGERNESS, EAGERNESS_FACTOR = 10.0, 0.75
"""Additional growth of a worker that has just come, in multiples of the usual growth, and the factor from one refusal
to the next. With it, it takes its share from those who were there before. A worker that is refused more often in these
seconds also learns its share sooner."""

CALM_CYCLES = 3
"""Number of cycles without a refusal after which the growth accelerates: the limit is higher than before."""

CYCLE_HOLDS = 12
"""Shortest cycle in lengths of the pause that the site asked for, so that at most a twelfth of the time is lost."""

LARGEST_STEP = 0.25
"""Largest growth of the rate with one answer, as a part of the rate."""

LOW_RATE = 1.0
"""Rate in requests/s below which a refusal speaks for turns."""

REFUSALS_BEFORE_TURNS, ANSWER_WEIGHT = 5, 0.08
"""Number of such refusals after which a worker takes turns, and the part of one for which an answer makes up. A few
refusals at the start, when the site's allowance is empty, do not tell a slow site from a fast one."""

ANSWERS_FOR_FAST_TURNS = 20
"""Number of answers up to then with which it begins with the highest rate of turns. Otherwise it begins with half of
that."""

LONGEST_SHIFT = 0.6
"""Longest time before the request after a refusal, as a part of the interval."""

REFUSALS_OF_OUTAGE = 8
"""Least number of refusals in a row after which a site is taken to have served nobody for some time."""

OUTAGE_SECONDS, OUTAGE_REQUESTS = 15.0, 5
"""Shortest time of such an outage in seconds, and in intervals of the rate before it. Workers that share a very slow
site are refused as often in a row, but not for as long."""

ANSWERS_AFTER_OUTAGE = 3
"""Number of answers in a row after which such an outage is over. The rate before it says nothing, so the worker climbs
again."""

CATCH_UP_SECONDS = 0.05
"""Delay in seconds that a caller may make up for at high rates, because timers are late."""

OUTGROWN_RATE = 1000.0
"""Rate in requests/s above which no pace is needed: no worker sends more to one site."""

OUTGROWN_SECONDS = 60.0
"""Time in seconds without a refusal after which a pace that the worker does not use up ends."""


class _Phase(Enum):
    NEW = auto()
    CLIMBING = auto()
    STEADY = auto()


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
        self._phase = _Phase.NEW
        self._found = math.inf
        self._turns: Turns | None = None
        """The turns of a steady worker at a very slow site."""
        self._next_at = -math.inf
        self._held_until = -math.inf
        self._hold_seconds = 0.0
        self._refused_at = -math.inf
        self._answered_at, self._answered_rate = -math.inf, FIRST_RATE
        self._grown_at = -math.inf
        """Time of the last growth in the climb."""
        self._answers = 0
        """Number of answers of a new site, or since the last refusal."""
        self._paced_answers = 0
        """Number of answers since the first refusal."""
        self._cut = FIRST_CUT
        self._eagerness = EAGERNESS
        self._refusals_at_low_rates = 0.0
        """Number of refusals for which no answers have made up."""
        self._refusals_in_a_row = 0
        self._is_after_outage = False
        """Whether the site has answered again after an outage, and has refused nothing since."""

    @property
    def rate(self) -> float | None:
        """The rate in requests/s, or None while no pace is in force."""
        if self._fixed is not None:
            return self._fixed
        rate = min(self._found, self._at_most)
        return None if math.isinf(rate) else rate

    @property
    def is_slow(self) -> bool:
        """Whether a pace is in force, because of refusals or of a setting."""
        return self.rate is not None

    @property
    def most_in_flight(self) -> int | None:
        """Number of requests that may be under way at once, or None if the pace does not bound it.

        A new site gets one request, and one more with each answer, which doubles them with each round trip. A slow site
        is thus not flooded before it can refuse.
        """
        if self._fixed is not None or self._phase is not _Phase.NEW or self._answers >= KNOWN_GOOD_ANSWERS:
            return None
        return 1 + self._answers

    def wait_seconds(self, now: float) -> float:
        """Return 0 if a request may be sent now, else the time in seconds after which the caller asks again."""
        due_at = self._held_until if self.rate is None else max(self._held_until, self._next_at)
        return max(0.0, due_at - now)

    def note_sent(self, now: float) -> None:
        """Note that a request is sent."""
        if self.rate is not None:
            interval = 1 / self.rate
            self._next_at = max(self._next_at, now - max(interval, CATCH_UP_SECONDS)) + interval

    def note_answer(self, *, sent_at: float, now: float) -> None:
        """Note an answer that is not a refusal, to the request that was sent at `sent_at`."""
        if sent_at < self._refused_at or self._fixed is not None:
            return
        self._answers += 1
        if self._refusals_in_a_row:
            self._is_after_outage = self._was_outage(now)
            self._refusals_in_a_row = 0
        self._answered_at, self._answered_rate = now, self._found
        if self._phase is _Phase.NEW:
            return
        if self._turns is not None:
            self._note_turn_answered(self._turns, sent_at, now)
        else:
            self._paced_answers += 1
            self._refusals_at_low_rates = max(0.0, self._refusals_at_low_rates - ANSWER_WEIGHT)
            self._found *= 1 + self._growth(now)
        if self._is_after_outage:
            if self._answers >= ANSWERS_AFTER_OUTAGE:
                self._climb(now, rate=max(self._found, FIRST_RATE))
            self._next_at = min(self._next_at, now + self._random.uniform(0.5, 1.0) / FIRST_RATE)
        self._found = min(self._found, self._at_most)
        if self._is_outgrown(now):
            self._phase, self._turns = _Phase.NEW, None
            self._found, self._answers = math.inf, 0

    def note_refusal(self, *, sent_at: float, now: float, retry_after_seconds: float) -> None:
        """Note a refusal (429, 503). `retry_after_seconds` is what the site asks for, 0 if it asks for nothing.

        Requests that were under way when the rate was last decreased change nothing: they were sent at the old rate.
        """
        self._held_until = max(self._held_until, now + retry_after_seconds)
        if self._fixed is not None or sent_at < self._refused_at:
            return
        self._hold_seconds = retry_after_seconds
        self._refusals_in_a_row += 1
        self._is_after_outage = False
        resumed_at = max(now, self._held_until)
        if self._turns is not None:
            self._next_at = self._turns.note_refusal(sent_at=sent_at, now=now, resumed_at=resumed_at)
            self._found = self._turns.rate
        elif self._phase is _Phase.NEW:
            self._climb(now, rate=FIRST_RATE)
            self._paced_answers = 0
            # The site's allowance is empty now. A retry at once would be refused again.
            self._next_at = resumed_at + self._random.uniform(0.5, 1.0) / self._found
        else:
            self._slow_down()
            self._next_at = resumed_at + self._random.uniform(0.0, LONGEST_SHIFT) / self._found
        self._found = min(max(self._found, self._at_least), self._at_most)
        self._refused_at = now
        self._answers = 0
        takes_turns = self._found < RATE_ABOVE and self._refusals_at_low_rates >= REFUSALS_BEFORE_TURNS
        if takes_turns and self._turns is None:
            self._take_turns(now)

    def _climb(self, now: float, *, rate: float) -> None:
        self._phase, self._found, self._grown_at = _Phase.CLIMBING, rate, now
        self._turns = None
        self._begin_search()
        self._is_after_outage = False

    def _begin_search(self) -> None:
        self._cut, self._eagerness = FIRST_CUT, EAGERNESS
        self._refusals_at_low_rates = 0.0

    def _slow_down(self) -> None:
        if self._found < LOW_RATE:
            self._refusals_at_low_rates += 1
        if self._phase is _Phase.CLIMBING and self._paced_answers < ANSWERS_TO_CLIMB:
            self._found *= RUSH_DECREASE
            return
        self._phase = _Phase.STEADY
        self._found *= 1 - self._cut
        self._cut = max(self._cut * CUT_FACTOR, SMALLEST_CUT)
        self._eagerness *= EAGERNESS_FACTOR

    def _take_turns(self, now: float) -> None:
        self._phase = _Phase.STEADY
        rate = HIGHEST_RATE if self._paced_answers >= ANSWERS_FOR_FAST_TURNS else HIGHEST_RATE / 2
        self._turns = Turns(rate, now=now, at_least=self._at_least, random=self._random)
        self._found = min(self._turns.rate, self._at_most)

    def _note_turn_answered(self, turns: Turns, sent_at: float, now: float) -> None:
        self._next_at += turns.note_answer(sent_at=sent_at, now=now)
        self._found = turns.rate
        if turns.are_outgrown:
            self._turns, self._found = None, RATE_ABOVE
            self._begin_search()

    def _growth(self, now: float) -> float:
        """Return the growth of the rate with one answer, as a part of the rate."""
        if self._phase is _Phase.CLIMBING:
            seconds, self._grown_at = now - self._grown_at, now
            return min(math.expm1(min(seconds / CLIMB_SECONDS, 1.0)), LARGEST_CLIMB)
        seconds = max(CYCLE_SECONDS, CYCLE_HOLDS * self._hold_seconds)
        requests: float = max(CYCLE_REQUESTS * self._found**CYCLE_POWER, seconds * self._found)
        requests /= 1 + self._eagerness
        calm_requests = (now - self._refused_at) * self._found
        acceleration = max(1.0, calm_requests / (CALM_CYCLES * requests))
        return min(acceleration * (1 / (1 - self._cut) - 1) / requests, LARGEST_STEP)

    def _was_outage(self, now: float) -> bool:
        seconds = max(OUTAGE_SECONDS, OUTAGE_REQUESTS / self._answered_rate)
        return self._refusals_in_a_row >= REFUSALS_OF_OUTAGE and now - self._answered_at >= seconds

    def _is_outgrown(self, now: float) -> bool:
        if self._found >= OUTGROWN_RATE:
            return True
        calm_seconds = now - self._refused_at
        return calm_seconds >= OUTGROWN_SECONDS and self._answers / calm_seconds < self._found / 2
