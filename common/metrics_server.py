"""Serves a program's metrics to Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server

from common.errors import SettingsError

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

NAMESPACE = "embedder"
"""First word of every metric's name."""


def serve_metrics(port: int, collector: Collector) -> None:
    """Serve what `collector` yields at /metrics until the process ends. Raises SettingsError when the port is taken."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        start_http_server(port, registry=registry)
    except OSError as error:
        raise SettingsError(
            f"EMBEDDER_METRICS_PORT is {port}, which cannot be used: {error.strerror}; choose another port"
        ) from error
