"""The metrics that Prometheus scrapes from a worker. A scrape reads the same counters as the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector as MetricsCollector

from common.format.provenance import program_version
from common.metrics_server import NAMESPACE, serve_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from worker.collector import Collector
    from worker.pipeline import Pipeline

MAX_SITES = 10
"""Largest number of slow sites with metrics of their own: those with the most images left."""


class ChunkMetrics(MetricsCollector):
    """The metrics of one chunk, labelled with its index."""

    def __init__(self, pipeline: Pipeline, collector: Collector, *, chunk_index: int, max_failure_ratio: float) -> None:
        self._pipeline = pipeline
        self._collector = collector
        self._chunk = str(chunk_index)
        self._max_failure_ratio = max_failure_ratio

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now. Prometheus computes the rates: rate(embedder_images_total[1m])."""
        collector, pipeline = self._collector, self._pipeline
        yield InfoMetricFamily(f"{NAMESPACE}_worker", "Version of the worker.", value={"version": program_version()})
        yield self._gauge("images_requested", "Rows of the chunk.", collector.requested)
        yield self._counter("images", "Images embedded.", collector.embedded)
        failures = CounterMetricFamily(f"{NAMESPACE}_failures", "Images that failed.", labels=["chunk", "reason"])
        for reason, count in collector.count_by_reason().items():
            failures.add_metric([self._chunk, str(reason)], count)
        yield failures
        yield self._gauge(
            "failure_ratio_limit", "Share of the rows that may fail before the chunk fails.", self._max_failure_ratio
        )
        yield self._gauge(
            "last_progress_timestamp_seconds",
            "Unix time at which the last image was embedded or failed; at first, the time of the start.",
            pipeline.last_progress_time,
        )
        yield self._counter("requests", "Requests for images, repeated ones included.", pipeline.requests)
        yield self._counter("received_bytes", "Bytes of images received.", pipeline.bytes_received)
        yield self._counter("batches", "Batches that the encoder has computed.", pipeline.batches_encoded)
        seconds = CounterMetricFamily(
            f"{NAMESPACE}_stage_seconds",
            "Seconds that a stage worked or waited, of all its requests or decoders together.",
            labels=["chunk", "stage", "state"],
        )
        for name, value in pipeline.times.snapshot()._asdict().items():
            stage, _, state = name.partition("_")
            if state:
                seconds.add_metric([self._chunk, stage, state], value)
        yield seconds
        rates = GaugeMetricFamily(
            f"{NAMESPACE}_slow_site_rate",
            "Requests a second to a site that is asked at a limited rate.",
            labels=["chunk", "site"],
        )
        left = GaugeMetricFamily(
            f"{NAMESPACE}_slow_site_images_left", "Images of such a site that are left.", labels=["chunk", "site"]
        )
        for site in pipeline.slow_sites()[:MAX_SITES]:
            rates.add_metric([self._chunk, site.name], site.rate)
            left.add_metric([self._chunk, site.name], site.left)
        yield from (rates, left)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"{NAMESPACE}_{name}", text, labels=["chunk"])
        family.add_metric([self._chunk], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"{NAMESPACE}_{name}", text, labels=["chunk"])
        family.add_metric([self._chunk], value)
        return family


def serve_chunk_metrics(
    port: int, pipeline: Pipeline, collector: Collector, *, chunk_index: int, max_failure_ratio: float
) -> None:
    """Serve the metrics at /metrics until the process ends. Raises SettingsError when the port is not available."""
    serve_metrics(port, ChunkMetrics(pipeline, collector, chunk_index=chunk_index, max_failure_ratio=max_failure_ratio))
