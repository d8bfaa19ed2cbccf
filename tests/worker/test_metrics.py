"""The metrics of a worker, scraped while a pipeline runs."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from prometheus_client import GC_COLLECTOR

from common.errors import SettingsError
from common.metrics_server import serve_metrics
from tests.image_server import answer, held, image_server
from tests.scrape import free_port, scrape
from tests.worker.images import encoded
from tests.worker.pipelines import run_pipeline
from tests.worker.processes import wait_until

if TYPE_CHECKING:
    from tests.scrape import Scrape
    from worker.pipeline import Pipeline


def test_a_scrape_says_how_far_the_chunk_is_and_when_it_last_went_on() -> None:
    port, release = free_port(), threading.Event()
    picture = answer(encoded(Image.new("RGB", (64, 48)), "PNG"))
    scrapes: list[tuple[float, Scrape]] = []

    def watch(_: Pipeline) -> None:
        # Batches have four images. One batch and the failure are settled; four images are held.
        wait_until(lambda: scrape(port)("embedder_batches_total", chunk="0") == 1)
        wait_until(lambda: scrape(port).labels_by_name.get("embedder_failures_total") is not None)
        settled = time.time()
        time.sleep(0.2)
        scrapes.append((settled, scrape(port)))
        release.set()

    started = time.time()
    with image_server() as server:
        urls = [
            server.url("/none.png"),
            *(server.on(f"/{number}.png", picture) for number in range(4)),
            *(server.on(f"/late-{number}.png", held(release, then=picture)) for number in range(4)),
        ]
        site = f"127.0.0.1:{server.port}"
        run_pipeline(urls, metrics_port=port, while_running=watch, max_failure_ratio=0.5, max_rate_per_site=500)

    ((settled, held_up),) = scrapes
    assert held_up("embedder_images_requested", chunk="0") == 9
    assert held_up("embedder_images_total", chunk="0") == 4
    assert held_up("embedder_failures_total", chunk="0", reason="not_found") == 1
    assert held_up("embedder_failure_ratio_limit", chunk="0") == 0.5
    assert held_up("embedder_requests_total", chunk="0") == 9
    assert held_up("embedder_slow_site_rate", chunk="0", site=site) == 500
    assert held_up("embedder_slow_site_images_left", chunk="0", site=site) == 4
    assert held_up("embedder_stage_seconds_total", chunk="0", stage="encode", state="waited") > 0.1
    assert started < held_up("embedder_last_progress_timestamp_seconds", chunk="0") < settled
    end = scrape(port)
    assert end("embedder_images_total", chunk="0") == 8
    assert end("embedder_last_progress_timestamp_seconds", chunk="0") > settled


def test_a_port_that_is_taken_is_a_wrong_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"EMBEDDER_METRICS_PORT is {port}, which cannot be used"):
            serve_metrics(port, GC_COLLECTOR)
