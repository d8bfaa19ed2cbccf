"""Decides whether a host may be asked now. It makes no request itself.

Three things are known about the hosts: `HostCircuits` (which of them fail), `NetworkHealth` (whether all of them fail)
and `KnownGoodUrls` (which URLs have answered).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from worker.fetch.host_circuits import HostCircuits
from worker.fetch.known_good_urls import KnownGoodUrls
from worker.fetch.network_health import NetworkHealth
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.fetch.failures import Unanswered
    from worker.fetch.request import Request


class Admit(NamedTuple):
    """The request may be made now."""

    is_probe: bool = False
    """Whether the request itself is the probe of an open circuit, because its host has no known-good URL."""


class Probe(NamedTuple):
    """The circuit is open and its pause is over: ask for this URL first, and make the request if it answers.

    The request itself would be a worse probe, because its own image may be at fault.
    """

    known_good_url: Request


class Wait(NamedTuple):
    """Ask again after the pause."""

    seconds: float


class HostGivenUp(NamedTuple):
    """The host has failed for longer than the patience, and the next probe is not due."""

    host: str
    failures: int
    last_failure: ImageFailed
    failed_at: float

    def image_failed(self) -> ImageFailed:
        """Return the failure of an image that needs this host."""
        detail = f"{self.host} was given up after {self.failures} failures in a row ({self.last_failure.detail})"
        return ImageFailed(self.last_failure.reason, detail)


class NetworkGivenUp(NamedTuple):
    """All hosts have failed for longer than the patience, and the next probe is not due."""

    failed_at: float


Decision: TypeAlias = Admit | Probe | Wait | HostGivenUp | NetworkGivenUp

_ADMIT = Admit()


class Admission:
    """Decides by what is known about the hosts. `clock` returns seconds."""

    def __init__(self, *, patience_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.circuits = HostCircuits(patience_seconds=patience_seconds)
        self.network = NetworkHealth(patience_seconds=patience_seconds)
        self.known_good_urls = KnownGoodUrls()

    def is_well(self, host: str) -> bool:
        """Note that requests to the host belong to this run, and return whether `decide` would admit one at once.

        That is so while the last request to the host has not failed, and some host has answered after the last failure.
        """
        self.network.note_host(host)
        return not (self.network.has_failures or self.circuits.is_failing(host))

    def decide(self, host: str) -> Decision:
        """Return whether a request to the host may be made now. Call `note_end` after a request that was admitted."""
        if self.is_well(host):
            return _ADMIT
        now = self._clock()
        return self._held_by_network(now) or self._held_by_host(host, now) or self._admitted(host)

    def _held_by_network(self, now: float) -> Wait | NetworkGivenUp | None:
        seconds = self.network.wait_seconds(now)
        if not seconds:
            return None
        return NetworkGivenUp(self.network.failed_at) if self.network.is_given_up else Wait(seconds)

    def _held_by_host(self, host: str, now: float) -> Wait | HostGivenUp | None:
        circuit = self.circuits.of(host)
        seconds = circuit.wait_seconds(now) if circuit is not None else 0.0
        if circuit is None or not seconds:
            return None
        if circuit.is_given_up and circuit.last_failure is not None:
            return HostGivenUp(host, circuit.failures, circuit.last_failure, circuit.failed_at)
        return Wait(seconds)

    def _admitted(self, host: str) -> Admit | Probe:
        self.network.note_admitted()
        self.circuits.note_admitted(host)
        if not (self.network.is_open or self.circuits.is_open(host)):
            return _ADMIT
        known_good_url = self.known_good_urls.of(host)
        return Admit(is_probe=True) if known_good_url is None else Probe(known_good_url)

    def note_answer(self, request: Request) -> None:
        """Note an answer that is final for its image, such as 200 or 404."""
        self.circuits.note_answer(request.host)
        self.network.note_answer(self._clock())
        self.known_good_urls.note_answer(request)

    def note_failure(self, host: str, failure: Unanswered, *, is_last_resort: bool = True) -> None:
        """Note a failure that may pass.

        It counts against the network only if the image has no source left (`is_last_resort`): a mirror that is down
        must not stop the images that another source has. A failure that is the host's own shows that the network is
        well.
        """
        now = self._clock()
        self.circuits.note_failure(host, failure, now)
        if failure.is_hosts_fault:
            self.network.note_answer(now)
        elif is_last_resort:
            self.network.note_failure(host, failure, now)

    def note_contact(self) -> None:
        """Note that a host has sent something, however useless."""
        self.network.note_answer(self._clock())

    def note_refusal(self, host: str) -> None:
        """Note that a host has asked for fewer requests. So it is well, and its site's pace does the rest."""
        self.circuits.note_answer(host)
        self.network.note_answer(self._clock())

    def note_end(self, host: str) -> None:
        """Note that a request is over, with an answer, a failure or neither."""
        self.network.note_end()
        self.circuits.note_end(host)

    def most_promising_urls(self, count: int) -> list[Request]:
        """Return at most `count` known-good URLs: those that answered last first, those of failing hosts last."""
        return self.known_good_urls.newest_first(is_failing=self.circuits.is_failing)[:count]

    def check_network(self) -> None:
        """Raise SourceUnavailable if no host has given a usable answer for the whole patience."""
        self.network.check(self._clock())
