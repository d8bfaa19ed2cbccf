"""When to stop asking a host that does not answer, and when to conclude that it is the network.

A failure is an outcome that may pass: no connection, no complete answer, 429, 5xx. After ten in a row a circuit is
open: its images wait, without spending their attempts, while one request at a time tries whether it is over. So an
outage shorter than the patience costs no image, and a longer one ends in bounded time: a host is given up, its images
fail at once but for a try now and then; when nothing answers at all, the run is told so.
"""

from __future__ import annotations

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
"""From the first failure of a row until a host, or the network, is given up. A store that restarts takes a minute."""

FIRST_PAUSE_SECONDS = 1.0
LONGEST_HOST_PAUSE_SECONDS = 30.0
LONGEST_NETWORK_PAUSE_SECONDS = 5.0
"""Short, so that many hosts are tried before the network is blamed."""

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

    @property
    def is_open(self) -> bool:
        return self.failures >= FAILURES_TO_OPEN

    def fail(self, failure: ImageFailed, now: float, *, pause: float) -> None:
        if not self.failures:
            self.failing_since = now
        self.failures += 1
        self.is_tried = False
        self.last = failure
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
    """The circuits of all hosts, and one for the network. `clock` returns seconds."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._clock = clock
        self._patience = patience_seconds
        self._hosts: dict[str, _Circuit] = {}
        self._network = _Circuit(patience_seconds, LONGEST_NETWORK_PAUSE_SECONDS)
        self._asked: set[str] = set()
        self._silent: set[str] = set()

    def admit(self, host: str) -> float:
        """Return 0 when a request to the host may be made now, else after how many seconds to ask again.

        Raises ImageFailed when the host is given up, SourceUnavailable when everything is.
        """
        host_circuit = self._hosts.get(host)
        if host_circuit is None and not self._network.failures:
            self._asked.add(host)
            return 0.0
        now = self._clock()
        self._asked.add(host)
        self._check_network(now)
        if wait := self._network.wait_seconds(now):
            return wait
        if host_circuit and (wait := host_circuit.wait_seconds(now)):
            if host_circuit.is_given_up and host_circuit.last:
                raise ImageFailed(
                    host_circuit.last.reason,
                    f"{host} was given up after {host_circuit.failures} failures in a row ({host_circuit.last.detail})",
                )
            return wait
        self._network.is_tried = self._network.is_open
        if host_circuit:
            host_circuit.is_tried = host_circuit.is_open
        return 0.0

    def succeed(self, host: str) -> None:
        """Note an answer that says what is so, be it 200 or 404."""
        if host in self._hosts:
            del self._hosts[host]
        self._reset_network()

    def fail(self, host: str, failure: ImageFailed, *, has_answered: bool, retry_after: float = 0.0) -> None:
        """Note a failure that may pass. `has_answered`: there was an HTTP answer, so it is not the network."""
        now = self._clock()
        circuit = self._hosts.setdefault(host, _Circuit(self._patience, LONGEST_HOST_PAUSE_SECONDS))
        circuit.fail(failure, now, pause=retry_after)
        if has_answered:
            self._reset_network()
        else:
            self._silent.add(host)
            self._network.fail(failure, now, pause=0.0)

    def leave(self, host: str) -> None:
        """Note that a request is over, whatever came of it."""
        self._network.is_tried = False
        if circuit := self._hosts.get(host):
            circuit.is_tried = False

    def _reset_network(self) -> None:
        if self._network.failures:
            self._network = _Circuit(self._patience, LONGEST_NETWORK_PAUSE_SECONDS)
            self._silent.clear()

    def _check_network(self, now: float) -> None:
        # One dead host among others is not the network: a stretch of the manifest may be all its own.
        if self._network.is_given_up and len(self._silent) >= min(2, len(self._asked)) and self._network.last:
            raise SourceUnavailable(
                f"no image source has answered for {now - self._network.failing_since:.0f} s "
                f"({self._network.failures} failures in a row, the last: {self._network.last.detail}); "
                "check the network, the proxy and the sources, then retry"
            )
