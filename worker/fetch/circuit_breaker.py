"""When to stop asking a host that fails, and when to conclude that no source can be had at all.

A failure is an outcome that may pass: no connection, no complete answer, 429, 5xx. After ten in a row a circuit is
open: its images wait, without spending their attempts, while one request at a time tries whether it is over. So an
outage shorter than the patience costs no image, and a longer one ends in bounded time: a host is given up, its images
fail at once but for a try now and then; when everything fails, images are not to blame and the run is told so.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import SourceUnavailable
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import Callable

FAILURES_TO_OPEN = 10
"""In a row. With one request in two failing at random, one in a thousand opens it, for a second."""

PATIENCE_SECONDS = 90.0
"""From the first failure of a row until a host, or everything, is given up. A store that restarts takes a minute."""

FIRST_PAUSE_SECONDS = 1.0
LONGEST_HOST_PAUSE_SECONDS = 30.0
LONGEST_COMMON_PAUSE_SECONDS = 5.0
"""Short, so that many hosts are tried before all are given up."""

PROBE_POLL_SECONDS = 0.5
"""How often those who wait for the outcome of a try look again."""


@dataclass(slots=True)
class _Circuit:
    patience: float
    longest_pause: float
    pause: float = FIRST_PAUSE_SECONDS
    failures: int = 0
    failing_since: float = 0.0
    open_until: float = 0.0
    is_tried: bool = False
    is_given_up: bool = False
    last: ImageFailed | None = None
    failed_at: float = -math.inf

    @property
    def is_open(self) -> bool:
        return self.failures >= FAILURES_TO_OPEN

    def fail(self, failure: ImageFailed, now: float, *, pause: float) -> None:
        if not self.failures:
            self.failing_since = now
        self.failures += 1
        self.is_tried = False
        self.last, self.failed_at = failure, now
        if self.is_open and now >= self.open_until:
            self.open_until = now + max(self.pause, pause)
            self.pause = min(self.pause * 2, self.longest_pause)
            self.is_given_up = now - self.failing_since >= self.patience

    def wait_seconds(self, now: float) -> float:
        if not self.is_open:
            return 0.0
        if now < self.open_until:
            return self.open_until - now
        return PROBE_POLL_SECONDS if self.is_tried else 0.0


class CircuitBreaker:
    """The circuits of all hosts, and one for all together. `clock` returns seconds."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._clock = clock
        self._patience = patience_seconds
        self._hosts: dict[str, _Circuit] = {}
        self._all = _Circuit(patience_seconds, LONGEST_COMMON_PAUSE_SECONDS)
        self._asked: set[str] = set()
        self._failing: set[str] = set()

    def admit(self, host: str) -> float:
        """Return 0 when a request to the host may be made now, else after how many seconds to ask again.

        Raises ImageFailed when the host is given up, SourceUnavailable when everything is.
        """
        host_circuit = self._hosts.get(host)
        if host_circuit is None and not self._all.failures:
            self._asked.add(host)
            return 0.0
        now = self._clock()
        self._asked.add(host)
        if self._are_all_failing() and (wait := self._all.wait_seconds(now)):
            if self._all.is_given_up:
                self.check_everything()
            return wait
        if host_circuit and (wait := host_circuit.wait_seconds(now)):
            if host_circuit.is_given_up and host_circuit.last:
                raise ImageFailed(
                    host_circuit.last.reason,
                    f"{host} was given up after {host_circuit.failures} failures in a row ({host_circuit.last.detail})",
                )
            return wait
        self._all.is_tried = self._all.is_open
        if host_circuit:
            host_circuit.is_tried = host_circuit.is_open
        return 0.0

    def is_open(self, host: str) -> bool:
        """Return whether a request to the host is a try, since its circuit or that of all is open."""
        circuit = self._hosts.get(host)
        return (circuit is not None and circuit.is_open) or (self._are_all_failing() and self._all.is_open)

    def is_failing(self, host: str) -> bool:
        """Return whether the host's last answer was of no use."""
        return host in self._hosts

    def failed_at(self, host: str | None = None) -> float:
        """Return when the host failed last, or any."""
        circuit = self._all if host is None else self._hosts.get(host)
        return circuit.failed_at if circuit else -math.inf

    def check_everything(self) -> None:
        """Raise SourceUnavailable where nobody has given an answer of use for as long as the patience lasts."""
        silent = self._clock() - self._all.failing_since
        if self._all.last and silent >= self._patience:
            raise SourceUnavailable(
                f"no image source has given an answer of use for {silent:.0f} s "
                f"({self._all.failures} failures in a row, the last: {self._all.last.detail}); "
                "check the network, the proxy and the sources, then retry"
            )

    def _are_all_failing(self) -> bool:
        # One dead host among others is not everything, and must not hold them up.
        return len(self._failing) >= min(2, len(self._asked))

    def succeed(self, host: str) -> None:
        """Note an answer that says what is so, be it 200 or 404."""
        if host in self._hosts:
            del self._hosts[host]
        if self._all.failures:
            self._all = _Circuit(self._patience, LONGEST_COMMON_PAUSE_SECONDS)
            self._failing.clear()

    def fail(self, host: str, failure: ImageFailed, *, retry_after: float = 0.0, is_last_resort: bool = True) -> None:
        """Note a failure that may pass; `retry_after` is for how many seconds the host asked to be left alone.

        Unless it was the image's last resort, it says nothing about whether everything fails.
        """
        now = self._clock()
        circuit = self._hosts.setdefault(host, _Circuit(self._patience, LONGEST_HOST_PAUSE_SECONDS))
        circuit.fail(failure, now, pause=retry_after)
        if is_last_resort:
            self._failing.add(host)
            self._all.fail(failure, now, pause=0.0)

    def leave(self, host: str) -> None:
        """Note that a request is over, whatever came of it."""
        self._all.is_tried = False
        if circuit := self._hosts.get(host):
            circuit.is_tried = False
