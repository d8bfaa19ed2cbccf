"""The metrics that Prometheus scrapes from a worker. A scrape reads the same counters as the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector as MetricsCollector

from common.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from worker.collector import Collector
    from worker.pipeline import Pipeline

NAMESPACE = "embedder"


class ChunkMetrics(MetricsCollector):
    """The metrics of one chunk, labelled with its index."""

    def __init__(self, pipeline: Pipeline, collector: Collector, *, chunk_index: int) -> None:
        self._pipeline = pipeline
        self._collector = collector
        self._chunk = str(chunk_index)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now. Prometheus computes the rates: rate(embedder_images_total[1m])."""
        requested = GaugeMetricFamily(f"{NAMESPACE}_images_requested", "Rows of the chunk.", labels=["chunk"])
        requested.add_metric([self._chunk], self._collector.requested)
        yield requested
        images = CounterMetricFamily(f"{NAMESPACE}_images", "Images embedded.", labels=["chunk"])
        images.add_metric([self._chunk], self._collector.embedded)
        yield images
        failures = CounterMetricFamily(f"{NAMESPACE}_failures", "Images that failed.", labels=["chunk", "reason"])
        for reason, count in self._collector.count_by_reason().items():
            failures.add_metric([self._chunk, str(reason)], count)
        yield failures
        received = CounterMetricFamily(f"{NAMESPACE}_received_bytes", "Bytes of images received.", labels=["chunk"])
        received.add_metric([self._chunk], self._pipeline.bytes_received)
        yield received
        seconds = CounterMetricFamily(
            f"{NAMESPACE}_stage_seconds",
            "Seconds that a stage worked or waited, of all its requests or decoders together.",
            labels=["chunk", "stage", "state"],
        )
        for name, value in self._pipeline.times.snapshot()._asdict().items():
            stage, _, state = name.partition("_")
            if state:
                seconds.add_metric([self._chunk, stage, state], value)
        yield seconds


def serve_metrics(port: int, pipeline: Pipeline, collector: Collector, *, chunk_index: int) -> None:
    """Serve the metrics at /metrics until the process ends. Raises SettingsError when the port is not available."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ChunkMetrics(pipeline, collector, chunk_index=chunk_index))
    try:
        start_http_server(port, registry=registry)
    except OSError as error:
        raise SettingsError(
            f"EMBEDDER_METRICS_PORT is {port}, which cannot be used: {error.strerror}; choose another port"
        ) from error
