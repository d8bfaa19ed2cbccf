"""Which hosts fail, each with its circuit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.fetch.circuit import Circuit

if TYPE_CHECKING:
    from worker.fetch.failures import Unanswered

LONGEST_PAUSE_SECONDS = 30.0
"""The longest pause in seconds between two probes of one host."""


class HostCircuits:
    """The circuits of the hosts whose last request failed. A host that answers has no circuit."""

    def __init__(self, *, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._circuits: dict[str, Circuit] = {}

    def of(self, host: str) -> Circuit | None:
        """Return the host's circuit, None if the host answers or has not been asked."""
        return self._circuits.get(host)

    def is_failing(self, host: str) -> bool:
        """Return whether the host's last request failed."""
        return host in self._circuits

    def is_open(self, host: str) -> bool:
        """Return whether the host has failed often enough to open its circuit."""
        circuit = self._circuits.get(host)
        return circuit is not None and circuit.is_open

    def note_answer(self, host: str) -> None:
        self._circuits.pop(host, None)

    def note_failure(self, host: str, failure: Unanswered, now: float) -> None:
        circuit = self._circuits.get(host)
        if circuit is None:
            circuit = self._circuits[host] = Circuit(self._patience_seconds, LONGEST_PAUSE_SECONDS)
        circuit.note_failure(failure, now, retry_after_seconds=failure.retry_after_seconds)

    def note_admitted(self, host: str) -> None:
        circuit = self._circuits.get(host)
        if circuit is not None:
            circuit.note_admitted()

    def note_end(self, host: str) -> None:
        circuit = self._circuits.get(host)
        if circuit is not None:
            circuit.note_end()
