"""Whether a finished run needs another merge: after a top-up, chunk files hold rows that the result does not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.errors import StoreUnavailable
from common.format.chunk_file import ChunkHeader
from common.format.merged_chunks import merged_chunk
from common.parallel import ordered
from merger.chunks import find_chunks, list_chunks, read_header_of
from merger.earlier_result import read_earlier_result
from merger.progress import Traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.format.provenance import Provenance
    from common.run.state import FinishedRun
    from common.store.contract import ObjectStat, Store
    from merger.settings import MergerSettings


class FileBesideResult(NamedTuple):
    """A chunk file beside a finished result."""

    stat: ObjectStat
    provenance: Provenance | None
    """None for a damaged file. It is of no use to any run."""
    is_new: bool
    """Whether the result does not hold its rows."""


def is_sufficient(store: Store, finished: FinishedRun, settings: MergerSettings) -> bool:
    """Return whether a finished run needs no other merge.

    A run needs one while the store has chunk files with rows that the result does not hold. A partial run also needs
    one while partial results are not allowed.
    """
    if not finished.is_complete:
        if settings.on_missing_chunks == "refuse":
            return False
        if list_chunks(store).keys() & set(finished.header.missing):
            return False
    return not any(file.is_new for file in look_at_files(store, finished, settings))


def look_at_files(store: Store, finished: FinishedRun, settings: MergerSettings) -> Sequence[FileBesideResult]:
    """Return the chunk files that lie beside the finished result. Reads their headers.

    A result of an earlier version has no table of its chunks. Its chunk files count as new only if all are there: then
    the merge makes a result with a table. Otherwise they are what a killed merge has not deleted.
    """
    stats = find_chunks(store, chunk_count=settings.chunk_count, concurrency=settings.merge_concurrency)
    if not stats:
        return []
    result = read_earlier_result(store, finished.result)
    table = {} if result is None else result.chunks
    are_all = len(stats) == settings.chunk_count

    def look(index: int) -> FileBesideResult | None:
        stat = stats[index]
        try:
            header = read_header_of(store, index, stat, Traffic())
        except StoreUnavailable:
            if store.stat(stat.key) is not None:
                raise
            return None  # it was deleted, and the list still shows it
        if not isinstance(header, ChunkHeader):
            return FileBesideResult(stat, None, is_new=False)
        is_of_run = header.fingerprint == finished.provenance.fingerprint
        is_new = are_all if result is None else merged_chunk(header) != table.get(index)
        return FileBesideResult(stat, header.provenance, is_new=is_new and is_of_run)

    return [file for file in ordered(look, stats, concurrency=settings.merge_concurrency) if file is not None]
