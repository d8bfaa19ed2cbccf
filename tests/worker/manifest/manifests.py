"""Settings, files and readers that the tests of the manifest share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.retry import RetryPolicy
from common.settings import read_settings
from worker.manifest.manifest import Manifest, open_manifest
from worker.manifest.places.http_source import RETRY
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from pathlib import Path

    from common.format.chunk_file import Failure
    from worker.rows import Row


QUICK_RETRY = RetryPolicy(first_pause_seconds=0.001, longest_pause_seconds=0.001, attempts=RETRY.attempts)
"""The attempts of the real policy, almost without pauses."""


def settings_for(uri: str | Path, **changes: Any) -> WorkerSettings:  # noqa: ANN401 - any setting
    """Return the settings of a worker with this manifest."""
    values = {"run_uri": "/nowhere", "chunk_count": 1, "JOB_COMPLETION_INDEX": 0, "manifest_uri": str(uri), **changes}
    return read_settings(WorkerSettings, **values)


def opened(uri: str | Path, **changes: Any) -> Manifest:  # noqa: ANN401 - any setting
    """Return the manifest, opened with these settings and almost without pauses between attempts."""
    settings = settings_for(uri, **changes)
    return open_manifest(
        settings.manifest, http=settings.http, mirror_url=settings.fetch.mirror_url, http_retry=QUICK_RETRY
    )


def written(path: Path, content: bytes) -> Path:
    """Write the file and return its path."""
    path.write_bytes(content)
    return path


def rows_of(manifest: Manifest) -> list[Row]:
    """Return all rows. Fails if there is a failure among them."""
    chunk = manifest.read_chunk(0, 1)
    assert not chunk.failures
    return chunk.rows


def failures_of(manifest: Manifest) -> list[Failure]:
    """Return all failures. Fails if there is a row that can be used."""
    chunk = manifest.read_chunk(0, 1)
    assert not chunk.rows
    return chunk.failures


def everything(manifest: Manifest, *, chunks: int) -> list[tuple[object, ...]]:
    """Return the rows and failures of the chunks 0 to `chunks` - 1, chunk by chunk, without positions.

    Fails if the positions within a chunk do not number its rows from 0.
    """
    found: list[tuple[object, ...]] = []
    for index in range(chunks):
        chunk = manifest.read_chunk(index, chunks)
        by_position: dict[int, tuple[object, ...]] = {}
        for row in chunk.rows:
            by_position[row.position] = (row.url, row.id, row.subset, row.thumbnail, row.rotation)
        for failure in chunk.failures:
            by_position[failure.row] = (failure.url, failure.id, failure.reason, failure.detail)
        assert sorted(by_position) == list(range(len(chunk.rows) + len(chunk.failures)))
        found.extend(by_position[position] for position in sorted(by_position))
    return found
