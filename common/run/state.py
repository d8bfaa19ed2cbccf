"""How far a run is, by the objects in its store. The one definition of a finished run is `find_finished`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.errors import ChunkInvalid, StoreUnavailable
from common.run.keys import CHUNKS_PREFIX, EARLIER_RESULT_KEY, RESULT_KEY, chunk_index
from common.run.summary import Summary, read_summary

if TYPE_CHECKING:
    from common.format.provenance import Provenance
    from common.format.result_file import ResultHeader
    from common.store.contract import ObjectStat, Store


class FinishedRun(NamedTuple):
    """A result, and the summary that belongs to it."""

    result: ObjectStat
    header: ResultHeader
    summary: Summary

    @property
    def provenance(self) -> Provenance:
        return self.header.provenance

    @property
    def is_complete(self) -> bool:
        """Whether the result holds every chunk of the run."""
        return not self.header.missing

    def holds(self, chunk: int) -> bool:
        return chunk not in self.header.missing


def find_finished(store: Store) -> FinishedRun | None:
    """Return the finished run in the store, None if the run is not finished.

    A run is finished when the store holds a result and the summary that belongs to it. A merge writes the summary last,
    so the result has been verified. A run whose result or summary is not readable, or whose two do not belong together,
    is not finished: a merge replaces them.

    The result's version is not compared: two pods that merge the same chunks write the same bytes, and the pod that
    publishes later must not make the other pod's summary wrong. The table of its chunks is compared: after a top-up, a
    result with other rows may have the same counts.
    """
    try:
        summary = read_summary(store)
        result = store.stat(RESULT_KEY)
        if summary is None or result is None:
            return None
        header = _read_header(store, result)
    except ChunkInvalid:
        return None
    return FinishedRun(result, header, summary) if _belong_together(result, header, summary) else None


def find_missing(store: Store, chunk_count: int) -> set[int]:
    """Return the chunks that are neither in the store nor in a finished result.

    After a top-up, a merge that has begun and not finished takes the chunks that have no file from the earlier result.
    """
    listed = {stat.key: stat for stat in store.list(CHUNKS_PREFIX)}
    missing = set(range(chunk_count)) - {chunk_index(key) for key in listed}
    if not missing:
        return missing
    if (finished := find_finished(store)) is not None:
        # A complete merge deletes the chunk files. A partial merge keeps the files that it has.
        return missing & set(finished.header.missing)
    if (earlier := listed.get(EARLIER_RESULT_KEY)) is not None:
        return missing - _chunks_of(store, earlier)
    return missing


def _chunks_of(store: Store, result: ObjectStat) -> set[int]:
    """Return the chunks that the copy of an earlier result holds."""
    from common.format.merged_chunks import read_merged_chunks  # noqa: PLC0415 - see _read_header

    try:
        with store.open(result.key, result.size) as file:
            chunks = read_merged_chunks(file, name=store.location(result.key))
    except ChunkInvalid:
        return set()
    except StoreUnavailable:
        if store.stat(result.key) is not None:
            raise
        return set()  # a merge has just deleted it
    return {chunk.index for chunk in chunks or ()}


def _read_header(store: Store, result: ObjectStat) -> ResultHeader:
    # A gate waits for days and needs no HDF5 before a summary is there.
    from common.format.result_file import read_result  # noqa: PLC0415

    with store.open(RESULT_KEY, result.size) as file:
        return read_result(file, name=store.location(RESULT_KEY))


def _belong_together(result: ObjectStat, header: ResultHeader, summary: Summary) -> bool:
    of_summary = (
        summary.result_bytes,
        summary.fingerprint,
        summary.rows_requested,
        summary.rows_embedded,
        summary.rows_failed,
        summary.chunks_missing,
        summary.table_digest,
    )
    return of_summary == (
        result.size,
        header.provenance.fingerprint,
        header.requested,
        header.embedded,
        header.failed,
        header.chunks_missing,
        header.table_digest,
    )
