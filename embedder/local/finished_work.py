"""What an earlier `embedder run` has left in the store, so that workers start only for chunks that need one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ChunkInvalid, StoreUnavailable
from common.format.chunk_file import count_reasons, read_header
from common.format.merged_chunks import MergedChunk, merged_chunk, read_merged_chunks
from common.format.result_file import read_result
from common.run.keys import CHUNKS_PREFIX, EARLIER_RESULT_KEY, RESULT_KEY, chunk_index
from common.run.state import find_finished

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from common.run.state import FinishedRun
    from common.store.contract import ObjectStat, Store


@dataclass(frozen=True, slots=True)
class FinishedChunk:
    fingerprint: str
    rows: int
    """Number of rows of the manifest in the chunk."""
    chunk_count: int
    table_row: MergedChunk
    """What the table of a result says of the chunk when the chunk is merged."""
    failures_by_reason: Mapping[str, int] = field(default_factory=dict)
    """Number of its failed rows by reason; empty where nobody asked for it."""


@dataclass(frozen=True, slots=True)
class FinishedWork:
    chunks: dict[int, FinishedChunk]
    """The chunk files in the store whose header is whole, by index."""
    run: FinishedRun | None
    """The finished run, None if the run is not finished."""
    merged: Mapping[int, MergedChunk] = field(default_factory=dict)
    """The chunks in the result, finished or not, by index; empty for a result of an earlier version."""
    has_interrupted_merge: bool = False
    """Whether a merge after a top-up was killed. The chunks without a file are in a result that is not finished, so
    they must not be computed: another merge completes it."""

    @property
    def has_result(self) -> bool:
        """Whether the run is finished and its result holds every chunk."""
        return self.run is not None and self.run.is_complete

    @property
    def has_unmerged(self) -> bool:
        """Whether the run is not finished, or a chunk file holds what the result may lack."""
        return self.run is None or any(
            self.merged.get(index) != chunk.table_row for index, chunk in self.chunks.items()
        )

    def rows(self, index: int) -> int | None:
        """Return the number of rows of the manifest in a chunk, None where it is not known."""
        chunk, merged = self.chunks.get(index), self.merged.get(index)
        return chunk.rows if chunk is not None else merged.requested if merged is not None else None

    def failures_by_reason(self, indexes: Collection[int]) -> Counter[str]:
        """Return the number of failed rows by reason in the chunk files of `indexes`."""
        counts: Counter[str] = Counter()
        for index in self.chunks.keys() & set(indexes):
            counts.update(self.chunks[index].failures_by_reason)
        return counts

    def reference_chunk(self, indexes: Collection[int]) -> int | None:
        """Return a chunk whose worker can tell at once whether the settings have changed, None where there is none."""
        return min(self.chunks.keys() & set(indexes), default=min(indexes) if self.has_result else None)

    def same_run_as(self, reference_chunk: int, indexes: Collection[int]) -> dict[int, int | None]:
        """Return those of `indexes` that are finished, with their numbers of rows where these are known.

        The worker of the reference chunk must have succeeded. This worker has compared the fingerprint of its settings
        with the fingerprint of its chunk, so the settings also fit every chunk with the same fingerprint. A worker
        without a chunk file has compared its settings with the result, which holds every chunk.
        """
        known = self.chunks.get(reference_chunk)
        if known is None:
            return {index: self.rows(index) for index in indexes} if self.has_result else {}
        is_of_result = self.run is not None and self.has_result and self.run.provenance.fingerprint == known.fingerprint
        return {
            index: self.rows(index)
            for index in indexes
            if (self.chunks[index].fingerprint == known.fingerprint if index in self.chunks else is_of_result)
        }


def find_finished_work(store: Store, *, with_reasons: bool = False) -> FinishedWork:
    """Return what is in the store. A chunk file with a damaged header is left out, so its worker deals with it.

    Reads 16 KiB of each chunk file, and `with_reasons` the reasons of its failed rows. Raises StoreUnavailable and
    StoreAccessDenied.
    """
    chunks = {}
    for found in store.list(CHUNKS_PREFIX):
        index = chunk_index(found.key)
        if index is not None and (chunk := _read_chunk(store, found, index, with_reasons=with_reasons)) is not None:
            chunks[index] = chunk
    run = find_finished(store)
    result = _read_table(store)
    return FinishedWork(
        chunks,
        run,
        merged=result.chunks,
        has_interrupted_merge=store.stat(EARLIER_RESULT_KEY) is not None
        or (run is None and _lacks_chunk_files(result, chunks)),
    )


class _Table(NamedTuple):
    """What a result says about its chunks."""

    fingerprint: str
    chunks: Mapping[int, MergedChunk]


def _read_table(store: Store) -> _Table:
    """Return the table of the result, an empty one where there is no result with a whole table."""
    result = store.stat(RESULT_KEY)
    if result is None:
        return _Table("", {})
    name = store.location(RESULT_KEY)
    try:
        with store.open(RESULT_KEY, result.size) as file:
            table = read_merged_chunks(file, name=name) or ()
            return _Table(read_result(file, name=name).provenance.fingerprint, {each.index: each for each in table})
    except ChunkInvalid:
        return _Table("", {})


def _lacks_chunk_files(result: _Table, chunks: Mapping[int, FinishedChunk]) -> bool:
    """Return whether the result, which is not finished, holds chunks of this run that have no file.

    A merge of a whole run deletes chunk files only when the run is finished. So this was the merge after a top-up.
    """
    is_of_this_run = any(chunk.fingerprint == result.fingerprint for chunk in chunks.values())
    return is_of_this_run and not result.chunks.keys() <= chunks.keys()


def _read_chunk(store: Store, found: ObjectStat, index: int, *, with_reasons: bool) -> FinishedChunk | None:
    try:
        with store.open(found.key, found.size) as file:
            name = store.location(found.key)
            header = read_header(file, name=name)
            reasons = count_reasons(file, header, name=name) if with_reasons else {}
    except ChunkInvalid:
        return None
    except StoreUnavailable:
        if store.stat(found.key) is not None:
            raise
        return None  # it was deleted, and the list still shows it
    if header.index != index:
        return None
    return FinishedChunk(
        header.fingerprint, header.requested, header.provenance.chunk_count, merged_chunk(header), reasons
    )
