"""The pace at which one worker sends requests to one site.

A site that answers 429 or 503 says that it bears fewer requests. That is all that a worker knows: neither the limit nor
the other workers that share it. `Pace` finds the rate from these refusals, much as a TCP connection finds its own. It
makes no request and reads no clock: `now` is always a time on the caller's monotonic clock, in seconds.

    new ── a refusal ──▶ climbing ── a refusal ──▶ steady ◀── below 0.35 requests/s ──▶ turns
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

KNOWN_GOOD_ANSWERS = 64
"""Number of answers after which a new site is known to bear all the requests that a worker sends."""

FIRST_RATE = 0.5
"""Lowest rate in requests/s after the first refusal. Workers that begin with equal rates need little correction."""

FIRST_PART = 1 / 12
"""Part of the measured rate with which a worker begins. The measured rate is too high: it has emptied the site's
allowance, and the other workers have done the same."""

ANSWERS_TO_CLIMB = 2
"""Number of answers after the first refusal before another refusal can end the climb. Without an answer, the refusal
still belongs to the rush in which the workers began."""

CLIMB = 0.6
"""Growth of the square root of the rate, per second, until the climb ends: 200 requests/s take 25 s. Rates that
grow so become more equal while they grow."""

DECREASE = 0.8
"""Factor of the rate after a refusal."""

CYCLE_SECONDS = 7.0
"""Shortest time in seconds in which the rate grows back what a refusal took. Since it is the same at all rates, all
workers bear the same number of refusals a second. This is what makes their rates equal."""

CYCLE_HOLDS = 12
"""The same time, in lengths of the pause that the site asked for, so that at most a twelfth of the time is lost."""

LARGEST_STEP = 0.25
"""Largest growth of the rate with one answer, as a part of the rate."""

SMALLEST_STEP = 0.03
"""Smallest growth of the rate with one answer, as a part of the rate."""

STEP_INCREASE, STEP_DECREASE = 1.02, 1 / 1.3
"""Factors of the step after an answer and after a refusal. They balance at 1 refusal in 13 requests, which bounds the
refusals at rates at which the cycle of 7 seconds would cause more."""

TURN_RATE = 0.35
"""Rate in requests/s below which a worker takes turns."""

STEP_BEFORE_TURNS = 0.11
"""Largest step with which a worker begins to take turns: it has been refused at least four times. A few refusals at the
start, when the site's allowance is empty, do not tell a slow site from a fast one."""

TURN_SHIFT = 0.25
"""Longest shift of a refused turn, as a part of the interval."""

REFUSALS_TO_YIELD = 8
"""Number of refusals after which a worker takes half as many turns. Four answers make up for one refusal."""

TRIAL_TURNS = 4
"""Number of turns that must be answered before twice as many turns are kept."""

PATIENCE = 8
"""Time before a worker tries twice as many turns, in seconds at 1 request/s. It grows with the square
of the interval."""

LONGEST_PATIENCE_SECONDS = 120.0
"""Longest such time in seconds."""

TURNS_TO_POSTPONE = 12
"""Number of turns by which a refusal puts off such a trial."""

STEP_AFTER_TURNS = 0.05
"""Step with which a worker leaves the turns."""

REFUSALS_OF_OUTAGE = 8
"""Number of refusals in a row after which a site is taken to have served nobody for some time. Workers that share a
site are seldom refused so often in a row. The number doubles with each such outage, because many workers at a very slow
site are refused as often."""

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
    TURNS = auto()


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
        self._step = LARGEST_STEP
        self._next_at = -math.inf
        self._held_until = -math.inf
        self._hold_seconds = 0.0
        self._refused_at = -math.inf
        self._first_sent_at: float | None = None
        self._answers = 0
        """Number of answers of a new site, or since the last refusal."""
        self._climbed_answers = 0
        self._refusals_in_a_row = 0
        self._refusals_of_outage = REFUSALS_OF_OUTAGE
        self._is_after_outage = False
        """Whether the site has answered again after an outage, and has refused nothing since."""
        self._patience_ends_at = math.inf
        self._trial_turns_left = 0
        self._strikes = 0.0

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
        if self._first_sent_at is None:
            self._first_sent_at = now
        if self.rate is not None:
            interval = 1 / self.rate
            self._next_at = max(self._next_at, now - max(interval, CATCH_UP_SECONDS)) + interval

    def note_answer(self, *, sent_at: float, now: float) -> None:
        """Note an answer that is not a refusal, to the request that was sent at `sent_at`."""
        if sent_at < self._refused_at or self._fixed is not None:
            return
        self._answers += 1
        if self._refusals_in_a_row:
            self._is_after_outage = self._refusals_in_a_row >= self._refusals_of_outage
            self._refusals_in_a_row = 0
        match self._phase:
            case _Phase.NEW:
                return
            case _Phase.TURNS:
                self._note_turn_answered(now)
            case _Phase.CLIMBING | _Phase.STEADY:
                self._climbed_answers += 1
                self._found *= 1 + min(self._step, self._largest_step(now))
                self._step = min(self._step * STEP_INCREASE, LARGEST_STEP)
        if self._is_after_outage and self._answers >= ANSWERS_AFTER_OUTAGE:
            self._climb_again(now)
        self._found = min(self._found, self._at_most)
        if self._is_outgrown(now):
            self._phase, self._found, self._answers, self._first_sent_at = _Phase.NEW, math.inf, 0, None
            self._refusals_of_outage = REFUSALS_OF_OUTAGE

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
        match self._phase:
            case _Phase.NEW:
                self._begin(now)
                # The site's allowance is empty now. A retry at once would be refused again.
                self._next_at = resumed_at + self._random.uniform(0.5, 1.0) / self._found
            case _Phase.CLIMBING | _Phase.STEADY:
                if self._climbed_answers >= ANSWERS_TO_CLIMB:
                    self._phase = _Phase.STEADY
                self._found *= DECREASE
                self._step = max(self._step * STEP_DECREASE, SMALLEST_STEP)
                self._next_at = resumed_at + self._random.random() / self._found
            case _Phase.TURNS:
                self._note_turn_refused(sent_at, now, resumed_at)
        self._found = min(max(self._found, self._at_least), self._at_most)
        self._refused_at = now
        self._answers = 0
        takes_turns = self._found < TURN_RATE and self._step <= STEP_BEFORE_TURNS
        if takes_turns and self._phase is not _Phase.TURNS:
            self._phase = _Phase.TURNS
            # Turns of all workers have intervals of a power of two, so that they keep their places among each other.
            self._found = max(math.ldexp(1.0, round(math.log2(self._found))), self._at_least)
            self._strikes, self._trial_turns_left = 0.0, 0
            self._wait_patiently(now)

    def _begin(self, now: float) -> None:
        seconds = max(1.0, now - (now if self._first_sent_at is None else self._first_sent_at))
        self._phase = _Phase.CLIMBING
        self._found = max(FIRST_RATE, FIRST_PART * self._answers / seconds)
        self._step = LARGEST_STEP
        self._climbed_answers = 0

    def _climb_again(self, now: float) -> None:
        self._is_after_outage = False
        self._refusals_of_outage *= 2
        self._phase = _Phase.CLIMBING
        self._found = max(self._found, FIRST_RATE)
        self._step = LARGEST_STEP
        self._next_at = min(self._next_at, now + self._random.uniform(0.5, 1.0) / self._found)

    def _largest_step(self, now: float) -> float:
        """Return the largest growth with one answer that keeps the growth in time within its bounds."""
        if self._phase is _Phase.CLIMBING:
            return 2 * CLIMB / (self._found * math.sqrt(self._found))
        seconds = max(CYCLE_SECONDS, CYCLE_HOLDS * self._hold_seconds)
        # A site that has refused nothing for several cycles has a higher limit than before: the growth accelerates.
        acceleration = max(1.0, (now - self._refused_at) / (3 * seconds))
        return acceleration * (1 / DECREASE - 1) / (seconds * self._found)

    def _is_outgrown(self, now: float) -> bool:
        if self._found >= OUTGROWN_RATE:
            return True
        calm_seconds = now - self._refused_at
        return calm_seconds >= OUTGROWN_SECONDS and self._answers / calm_seconds < self._found / 2

    def _note_turn_answered(self, now: float) -> None:
        self._strikes = max(0.0, self._strikes - 0.25)
        if self._trial_turns_left:
            self._trial_turns_left -= 1
            if not self._trial_turns_left:
                self._wait_patiently(now)
        elif now >= self._patience_ends_at:
            self._rise(now)

    def _rise(self, now: float) -> None:
        self._wait_patiently(now)
        if 2 * self._found > TURN_RATE:
            self._phase, self._found, self._step = _Phase.STEADY, TURN_RATE, STEP_AFTER_TURNS
            return
        # The new turns lie between the old ones.
        self._next_at -= 0.5 / self._found
        self._found *= 2
        self._trial_turns_left = TRIAL_TURNS

    def _note_turn_refused(self, sent_at: float, now: float, resumed_at: float) -> None:
        interval = 1 / self._found
        if self._trial_turns_left:
            # The next turn after a refused one is the other half of the turns. They are kept.
            self._trial_turns_left = 0
            self._found /= 2
            self._wait_patiently(now)
            self._next_at = sent_at + interval
            if self._next_at <= resumed_at:
                self._next_at += 2 * interval * math.ceil((resumed_at - self._next_at) / (2 * interval))
            return
        self._strikes += 1
        if self._strikes >= REFUSALS_TO_YIELD:
            self._strikes = 0.0
            self._found /= 2
            self._wait_patiently(now)
        self._patience_ends_at += TURNS_TO_POSTPONE * interval
        self._next_at = resumed_at + TURN_SHIFT * self._random.random() / self._found

    def _wait_patiently(self, now: float) -> None:
        # Workers that tried at the same time would all be refused.
        seconds = min(PATIENCE / min(self._found, 1.0) ** 2, LONGEST_PATIENCE_SECONDS)
        self._patience_ends_at = now + seconds * self._random.uniform(0.5, 1.5)
