"""The values that the worker derives from its settings."""

from __future__ import annotations

import os

from tests.worker.fetch.fetching import worker_settings


def test_one_spare_decoder_is_started() -> None:
    assert worker_settings(decode_threads=3).decode.decoder_count == 4
    assert worker_settings(decode_threads=0).decode.decoder_count == len(os.sched_getaffinity(0)) + 1


def test_the_spare_decoder_adds_no_bytes_in_memory() -> None:
    assert worker_settings(decode_threads=3).decode.inflight_bytes == 3 * 32 << 20
    assert worker_settings(decode_threads=3, max_inflight_bytes=1).decode.inflight_bytes == 1
