"""The metrics that Prometheus scrapes from the gate: how much of the run is there, and what the merge waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from common.metrics_server import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from k8s.gate.gate import Gate


class GateMetrics(Collector):
    """The chunks of the run, as `gate` saw them last."""

    def __init__(self, gate: Gate, *, chunk_count: int) -> None:
        self._gate, self._chunk_count = gate, chunk_count

    def collect(self) -> Iterator[Metric]:
        """Yield the number of chunks, and those in the store and those that failed once the store has answered."""
        yield GaugeMetricFamily(f"{NAMESPACE}_run_chunks", "Chunks of the run.", value=self._chunk_count)
        if (waiting := self._gate.waiting) is not None:
            yield GaugeMetricFamily(
                f"{NAMESPACE}_run_chunks_in_store", "Chunks that are in the store.", value=waiting.in_store
            )
            yield GaugeMetricFamily(
                f"{NAMESPACE}_run_chunks_failed",
                "Chunks that are missing and that the worker Job has given up.",
                value=waiting.given_up,
            )
