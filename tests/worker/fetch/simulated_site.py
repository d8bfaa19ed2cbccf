"""A simulated site with a limit, and workers that send it all the requests that their paces allow."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from enum import IntEnum
from random import Random
from typing import NamedTuple

from worker.fetch.pace import Pace

MOST_IN_FLIGHT = 48


class Limit(NamedTuple):
    """A token bucket: `rate` requests/s, and at most `burst` of them at once."""

    rate: float
    burst: float


@dataclass(slots=True)
class SimulatedSite:
    limit: Limit
    retry_after_seconds: float = 0.0
    tokens: float = 0.0
    filled_at: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = self.limit.burst

    def answers(self, now: float) -> bool:
        """Return whether a request at this time is answered. Otherwise it is refused, which costs no token."""
        self.tokens = min(self.limit.burst, self.tokens + (now - self.filled_at) * self.limit.rate)
        self.filled_at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class _What(IntEnum):
    LOOK = 0
    ARRIVAL = 1
    ANSWER = 2
    REFUSAL = 3


@dataclass(slots=True)
class SimulatedWorker:
    pace: Pace
    in_flight: int = 0
    looks_at: float = -1.0
    answered_at: list[float] = field(default_factory=list)
    refused_at: list[float] = field(default_factory=list)
    sent_at: list[float] = field(default_factory=list)


class Outcome(NamedTuple):
    """What happened from `begin` to the end. `used` is the answered part of the limit."""

    used: float
    refused: float
    """Refused part of the requests."""
    fewest_share: float
    """Answers of the worker with the fewest, as a part of an equal share."""


class Simulation:
    """Runs workers against a site. Equal seeds give equal runs."""

    def __init__(
        self, site: SimulatedSite, *, workers: int, seed: int, at_most: float = float("inf"), spread: float = 2
    ) -> None:
        self.site = site
        self._random = Random(seed)
        self.workers = [
            SimulatedWorker(Pace(at_least=1 / 60, at_most=at_most, random=Random(self._random.random())))
            for _ in range(workers)
        ]
        self._events: list[tuple[float, int, _What, int, float]] = []
        self._count = 0
        self.now = 0.0
        for number in range(workers):
            self._at(self._random.uniform(0, spread), _What.LOOK, number)

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what, number, sent_at = heapq.heappop(self._events)
            worker = self.workers[number]
            match what:
                case _What.LOOK:
                    if self.now + 1e-9 < worker.looks_at:
                        continue
                    worker.looks_at = -1.0
                case _What.ARRIVAL:
                    is_answered = self.site.answers(self.now)
                    outcome = _What.ANSWER if is_answered else _What.REFUSAL
                    self._at(self.now + self._random.uniform(0.01, 0.04), outcome, number, sent_at)
                    continue
                case _What.ANSWER:
                    worker.in_flight -= 1
                    worker.answered_at.append(self.now)
                    worker.pace.note_answer(sent_at=sent_at, now=self.now)
                case _What.REFUSAL:
                    worker.in_flight -= 1
                    worker.refused_at.append(self.now)
                    worker.pace.note_refusal(
                        sent_at=sent_at, now=self.now, retry_after_seconds=self.site.retry_after_seconds
                    )
            self._send(number)

    def outcome(self, *, begin: float, end: float) -> Outcome:
        answered = [sum(begin < at <= end for at in worker.answered_at) for worker in self.workers]
        refused = sum(begin < at <= end for worker in self.workers for at in worker.refused_at)
        return Outcome(
            used=sum(answered) / (self.site.limit.rate * (end - begin)),
            refused=refused / (refused + sum(answered)),
            fewest_share=min(answered) * len(answered) / sum(answered),
        )

    def _send(self, number: int) -> None:
        worker = self.workers[number]
        while True:
            most = worker.pace.most_in_flight
            if worker.in_flight >= (MOST_IN_FLIGHT if most is None else min(most, MOST_IN_FLIGHT)):
                return
            seconds = worker.pace.wait_seconds(self.now)
            if seconds > 0:
                at = self.now + seconds + 1e-6
                if worker.looks_at <= self.now or at < worker.looks_at:
                    worker.looks_at = at
                    self._at(at, _What.LOOK, number)
                return
            worker.pace.note_sent(self.now)
            worker.in_flight += 1
            worker.sent_at.append(self.now)
            self._at(self.now + self._random.uniform(0.01, 0.04), _What.ARRIVAL, number, self.now)

    def _at(self, time: float, what: _What, number: int, sent_at: float = 0.0) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, what, number, sent_at))
