"""What the tests of the manifest share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.settings import read_settings
from worker.manifest.manifest import Manifest, open_manifest
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from pathlib import Path

    from common.format.chunk_file import Failure
    from worker.rows import Row


def settings_for(uri: str | Path, **changes: Any) -> WorkerSettings:  # noqa: ANN401 - any setting
    """Return the settings of a worker with this manifest."""
    values = {"run_uri": "/nowhere", "chunk_count": 1, "JOB_COMPLETION_INDEX": 0, "manifest_uri": str(uri), **changes}
    return read_settings(WorkerSettings, **values)


def opened(uri: str | Path, **changes: Any) -> Manifest:  # noqa: ANN401 - any setting
    settings = settings_for(uri, **changes)
    return open_manifest(settings.manifest, http=settings.http)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def rows_of(manifest: Manifest) -> list[Row]:
    """Return all rows. Fails when one of them is malformed."""
    chunk = manifest.read_chunk(0, 1)
    assert not chunk.failures
    return chunk.rows


def failures_of(manifest: Manifest) -> list[Failure]:
    """Return all failures. Fails when there is any other row."""
    chunk = manifest.read_chunk(0, 1)
    assert not chunk.rows
    return chunk.failures


def everything(manifest: Manifest, *, chunks: int) -> list[tuple[object, ...]]:
    """Return what the chunks 0 to `chunks` - 1 hold, one after the other, without positions.

    Fails when the positions within a chunk do not number its rows.
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
