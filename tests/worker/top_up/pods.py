"""A pod that tops a chunk up, without its pipeline: the test says which rows it embeds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from common.format.chunk_file import write_chunk
from common.format.reasons import MAY_PASS, Reason
from common.run.keys import FAILURES_KEY, REPORT_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store
from merger.merge import merge
from tests.merger.runs import DIMENSIONS, make_chunk, provenance, put_chunk, settings_for
from worker.chunk_job.chunk_in_store import ChunkInStore
from worker.chunk_job.outcome import NothingToTopUp
from worker.chunk_job.top_up import TopUp
from worker.manifest.manifest import ManifestChunk
from worker.rows import ImageFailed, Row
from worker.vector_file import VectorFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from common.format.chunk_file import Chunk
    from common.store.contract import ObjectStat, Store
    from worker.chunk_job.outcome import AlreadyMerged, AlreadyStored
    from worker.collector import Collector

COUNT = 3
"""Number of chunks of the run."""

INDEX = 1
"""The chunk that is topped up."""

ROWS = 12
"""Number of its rows."""

REASONS = {0: Reason.TIMEOUT, 1: Reason.NOT_FOUND, 2: Reason.SERVER_ERROR, 3: Reason.DEFERRED}
"""Why its first rows failed."""

MAY_BE_EMBEDDED = (0, 2, 3)


def earlier_chunk(**other: Any) -> Chunk:  # noqa: ANN401 - of make_chunk
    """Return the chunk as its worker stored it."""
    chunk = make_chunk(INDEX, ROWS - len(REASONS), chunk_count=COUNT, failed=len(REASONS), **other)
    failures = [replace(failure, reason=REASONS[failure.row], detail="=the detail") for failure in chunk.failures]
    return replace(chunk, failures=failures)


def manifest_chunk(chunk: Chunk) -> ManifestChunk:
    """Return the rows of the list that belong to the chunk."""
    rows = [Row(failure.row, failure.url, id=failure.id) for failure in chunk.failures]
    for url, row_id in zip(chunk.urls, chunk.ids or [], strict=True):
        rows.append(Row(len(rows), url, id=row_id))
    return ManifestChunk(rows, [])


def put_earlier_run(store: Store, *, is_merged: bool = False) -> Chunk:
    """Put the whole run into the store, and return the chunk that is topped up."""
    chunk = earlier_chunk()
    for each in (make_chunk(0, 5, chunk_count=COUNT, failed=2), chunk, make_chunk(2, 4, chunk_count=COUNT, failed=1)):
        put_chunk(store, each)
    if is_merged:
        merge(store, settings_for(store, COUNT))
    return chunk


def merge_again(store: Store, folder: Path) -> None:
    """Make the result of what a merge after a top-up finds: the chunk file in the store, and the other chunks."""
    other = open_store(str(folder / "merged-again"))
    put_earlier_run(other)
    other.put_bytes(chunk_key(INDEX), store.read(chunk_key(INDEX)))
    merge(other, settings_for(other, COUNT))
    for key in (RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY):
        store.put_bytes(key, other.read(key))
    store.delete([chunk_key(INDEX)])


def vector(row: int) -> NDArray[np.float32]:
    """Return the vector, (1, dimensions), that every pod computes for the row."""
    return np.eye(DIMENSIONS, dtype=np.float32)[[row]]


class Pod:
    """Use it as a context manager."""

    def __init__(
        self,
        store: Store,
        *,
        listed: ManifestChunk | None = None,
        after_put: Callable[[], object] = lambda: None,
        **other: Any,  # noqa: ANN401 - any field of the provenance
    ) -> None:
        self._provenance = provenance(COUNT, **other)
        self._listed = listed or manifest_chunk(earlier_chunk())
        self._vectors = VectorFile()
        self.place = PlaceWithEvent(store, INDEX, lambda: self._provenance, after_put)
        self.top_up = TopUp(
            store,
            INDEX,
            lambda other, name: self._provenance.check_same(other, name=name),
            MAY_PASS,
            deletion_seconds=0.5,
        )
        self.collector: Collector

    def __enter__(self) -> Self:
        self._vectors.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._vectors.__exit__(kind, error, trace)

    def begin(self) -> list[int]:
        """Take the earlier rows over, and return the positions of the rows that are left."""
        collector = self.top_up.collector(self._listed, self._vectors)
        assert not isinstance(collector, NothingToTopUp)
        self.collector = collector
        return [row.position for row in collector.unsettled_rows()]

    def embed(self, *rows: int, failing: Mapping[int, Reason] | None = None) -> None:
        """Embed these rows of those that are left, and let all others fail."""
        for row in self.collector.unsettled_rows():
            if row.position in rows:
                self.collector.embed([row.position], vector(row.position))
            else:
                reason = (failing or {}).get(row.position, Reason.TIMEOUT)
                self.collector.fail(row.position, ImageFailed(reason, "again"))

    def store(self) -> ObjectStat | AlreadyStored | AlreadyMerged:
        return self.top_up.store(self.collector, self.place, self._write)

    def _write(self, path: Path) -> None:
        chunk = self.collector.chunk(index=INDEX, dimensions=DIMENSIONS, has_ids=True, provenance=self._provenance)
        write_chunk(path, chunk)


class PlaceWithEvent(ChunkInStore):
    """Something happens in the store right after the chunk was put there."""

    def __init__(self, store: Store, index: int, provenance: Callable[[], Any], event: Callable[[], object]) -> None:
        super().__init__(store, index, provenance)
        self._event = event

    def check_peers(self, *, unknown: Any = frozenset()) -> None:  # noqa: ANN401 - as in ChunkInStore
        self._event()
        super().check_peers(unknown=unknown)
