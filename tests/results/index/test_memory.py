"""The memory of the index program while it builds, saves and verifies an index."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from benchmarks.bench_index import children_of, peak_of
from common.store import open_store
from results.index.job import needed_bytes
from results.result import open_result
from tests.results.index.indexed import described, settings_of, start_index
from tests.results.runs import merge_run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_the_index_program_needs_no_more_memory_than_it_says(
    tmp_path: Path, s3_environment: dict[str, str], bucket: str, place: str
) -> None:
    store = open_store(str(tmp_path) if place == "folder" else f"s3://{bucket}/run")
    merge_run(store, (20_000, 20_000))
    options = {"index_m": 8, "index_ef_construction": 10, "index_threads": 2, "index_min_recall": 0}
    peak = 0
    with start_index(store, s3_environment, **options) as process:
        while process.poll() is None:
            peak = max(peak, *map(peak_of, [process.pid, *children_of(process.pid)]))
            time.sleep(0.02)
    assert process.returncode == 0
    index = described(store)
    assert index is not None
    assert index.bytes < peak < needed_bytes(open_result(store), settings_of(store, **options), threads=2)
