"""Whether all hosts fail together. Then the network or its name servers are the reason, and no image is to blame."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from common.errors import SourceUnavailable
from worker.fetch.circuit import Circuit

if TYPE_CHECKING:
    from worker.rows import ImageFailed

LONGEST_PAUSE_SECONDS = 5.0
"""The longest pause in seconds between two probes of the network. It is short, so that many hosts are asked before all
of them are given up."""


class NetworkHealth:
    """One circuit for all hosts together. It counts the failures since the last answer of any host.

    It holds requests up only while the hosts fail together: two hosts have failed since the last answer, or the only
    host of the run has. One dead host among others must not hold the others up.
    """

    def __init__(self, *, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._circuit = self._closed_circuit()
        self._hosts: set[str] = set()
        self._failing_hosts: set[str] = set()
        self._answered_at = -math.inf
        self._silent_at = -math.inf

    @property
    def has_failures(self) -> bool:
        """Whether a request failed after the last answer."""
        return self._circuit.failures > 0

    @property
    def is_open(self) -> bool:
        """Whether the hosts fail together, and have failed often enough to open the circuit."""
        return self._circuit.is_open and self._do_hosts_fail_together

    @property
    def is_given_up(self) -> bool:
        """Whether the failures have lasted for longer than the patience."""
        return self._circuit.is_given_up

    @property
    def failed_at(self) -> float:
        """The time of the last failure of any host."""
        return self._circuit.failed_at

    def wait_seconds(self, now: float) -> float:
        """Return 0 if a request may be made now, else the time until the next look."""
        return self._circuit.wait_seconds(now) if self._do_hosts_fail_together else 0.0

    def has_answered_since(self, since: float) -> bool | None:
        """Return whether a host has answered since then, None if that is not known.

        It is known that no host has answered if `note_silence` was called for a check that began after `since`.
        """
        if self._answered_at >= since:
            return True
        return False if self._silent_at >= since else None

    def check(self, now: float) -> None:
        """Raise SourceUnavailable if no host has given a usable answer for the whole patience."""
        silent_seconds = now - self._circuit.failing_since
        last_failure = self._circuit.last_failure
        if last_failure is not None and silent_seconds >= self._patience_seconds:
            raise SourceUnavailable(
                f"no image source has given a usable answer for {silent_seconds:.0f} s "
                f"({self._circuit.failures} failures in a row, the last: {last_failure.detail}); "
                "check the network, the proxy and the sources, then retry"
            )

    def note_host(self, host: str) -> None:
        """Note that requests to the host belong to this run."""
        self._hosts.add(host)

    def note_admitted(self) -> None:
        self._circuit.note_admitted()

    def note_answer(self, now: float) -> None:
        self._answered_at = now
        if self._circuit.failures:
            self._circuit = self._closed_circuit()
            self._failing_hosts.clear()

    def note_failure(self, host: str, failure: ImageFailed, now: float) -> None:
        self._failing_hosts.add(host)
        self._circuit.note_failure(failure, now)

    def note_end(self) -> None:
        self._circuit.note_end()

    def note_silence(self, *, began: float) -> None:
        """Note that no known-good URL answered in a check that began at the time `began`."""
        self._silent_at = began

    @property
    def _do_hosts_fail_together(self) -> bool:
        return len(self._failing_hosts) >= min(2, len(self._hosts))

    def _closed_circuit(self) -> Circuit:
        return Circuit(self._patience_seconds, LONGEST_PAUSE_SECONDS)
