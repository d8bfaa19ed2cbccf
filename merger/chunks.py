"""The chunks of a run as they lie in the store, and the checks that they can be merged.

A chunk lies in its chunk file, or in the result of an earlier merge (see `merger.earlier_result`).
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ChunkInvalid
from common.format.chunk_file import METADATA_BYTES, ChunkHeader, read_header
from common.format.chunk_times import BriefAttempt, briefly
from common.format.merged_chunks import MergedChunk, merged_chunk
from common.parallel import ordered
from common.run.keys import CHUNKS_PREFIX, chunk_failures_index, chunk_failures_key, chunk_index, chunk_key
from common.run.summary import MOST_CHUNK_TIMES
from common.store.object_reader import ObjectReader
from merger.finding import (
    LOOKS,
    BadChunks,
    Fault,
    MergeRefused,
    MissingChunks,
    Problem,
    check_chunk_count,
    check_same_run,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence, Set

    from common.format.provenance import Provenance
    from common.store.contract import ObjectStat, Store
    from merger.earlier_result import EarlierResult
    from merger.progress import Traffic


MOST_PICTURES = 300
"""Largest number of chunks whose sample pictures the report shows."""

LOOKED_FOR = 1000
"""The largest number of chunks that are looked for one by one where the list does not show them. Some stores list an
object a moment after its write."""


class StoredChunk(NamedTuple):
    stat: ObjectStat
    """The chunk file, or the earlier result that holds the chunk's rows."""
    header: ChunkHeader
    merged: MergedChunk
    """What the table of the result says about the chunk."""
    attempts: tuple[BriefAttempt, ...] = ()
    """The attempts that computed the chunk file, in a run of so many chunks that most headers lose their times."""
    row_pitch: Mapping[str, int] | None = None
    """For a chunk in an earlier result: the distance in bytes between two rows, for each column. None for a chunk file,
    whose rows lie behind each other without a gap."""

    @property
    def is_file(self) -> bool:
        return self.row_pitch is None


class Inputs(NamedTuple):
    """The chunks to merge."""

    chunks: Sequence[StoredChunk]
    """At least one, in the order of their indexes."""
    missing: Sequence[int]
    """The indexes of the chunks that a partial merge goes without, ascending."""
    provenance: Provenance
    earlier: EarlierResult | None = None
    """The result that holds the chunks that have no chunk file, None where each has one."""

    @property
    def headers(self) -> list[ChunkHeader]:
        return [chunk.header for chunk in self.chunks]

    @property
    def table(self) -> list[MergedChunk]:
        return [chunk.merged for chunk in self.chunks]

    @property
    def files(self) -> list[StoredChunk]:
        """The chunks that have a chunk file."""
        return [chunk for chunk in self.chunks if chunk.is_file]

    @property
    def embedded_by(self) -> list[str]:
        """The versions of the program that computed the chunks."""
        earlier = () if self.earlier is None else self.earlier.embedded_by
        return sorted({chunk.header.program_version for chunk in self.files}.union(earlier))

    def moved(self, earlier: ObjectStat) -> Inputs:
        """Return the same chunks, with those of the earlier result in this copy of it."""
        if self.earlier is None:
            return self
        chunks = [chunk if chunk.is_file else chunk._replace(stat=earlier) for chunk in self.chunks]
        return self._replace(chunks=chunks, earlier=self.earlier._replace(stat=earlier))


def list_chunks(store: Store) -> dict[int, ObjectStat]:
    """Return the chunk files in the store by index, ascending."""
    found = ((chunk_index(stat.key), stat) for stat in store.list(CHUNKS_PREFIX))
    return dict(sorted((index, stat) for index, stat in found if index is not None))


def read_inputs(
    store: Store,
    *,
    chunk_count: int,
    allow_missing: bool,
    concurrency: int,
    traffic: Traffic,
    find_earlier: Callable[[Collection[int]], EarlierResult | None] = lambda _: None,
) -> Inputs:
    """Return the chunks to merge. Reads only their headers.

    `find_earlier` is asked for an earlier result with the chunks that have no chunk file, where there are any.

    Raises MergeRefused with OtherRun or OtherChunkCount where a chunk is not of this run, with BadChunks that names
    every chunk that breaks an invariant, and with MissingChunks where chunks are missing and `allow_missing` is false,
    or where there is no chunk at all.
    """
    stats = find_chunks(store, chunk_count=chunk_count, concurrency=concurrency)
    without_file = set(range(chunk_count)) - stats.keys()
    chunks, problems = read_headers(store, stats, concurrency=concurrency, traffic=traffic)
    earlier = find_earlier(without_file) if without_file else None
    if earlier is not None:
        chunks += _chunks_of(earlier, without_file)
        chunks.sort(key=lambda chunk: chunk.header.index)
    missing = sorted(without_file - {chunk.header.index for chunk in chunks})
    if chunks:
        _check_same_run(store, chunks, chunk_count=chunk_count)
        problems += _find_misfits(store, chunks)
    if problems:
        raise MergeRefused(BadChunks(tuple(problems), chunk_count))
    if missing and (not allow_missing or not chunks):
        explained_by = _find_explanations(store, missing)
        raise MergeRefused(MissingChunks(tuple(missing), chunk_count, explained_by))
    return Inputs(chunks, missing, chunks[0].header.provenance, earlier)


def find_chunks(store: Store, *, chunk_count: int, concurrency: int) -> dict[int, ObjectStat]:
    """Return the chunk files in the store by index, also those that its list does not show yet."""
    stats = list_chunks(store)
    return stats | _find_unlisted(store, set(range(chunk_count)) - stats.keys(), concurrency=concurrency)


def _chunks_of(earlier: EarlierResult, indexes: Collection[int]) -> list[StoredChunk]:
    """Return those of the chunks that the earlier result holds."""
    headers, row_pitch = earlier.headers(), earlier.row_pitch()
    return [
        StoredChunk(earlier.stat, headers[chunk.index], chunk, row_pitch=row_pitch)
        for chunk in earlier.contents.chunks
        if chunk.index in indexes
    ]


def _find_explanations(store: Store, missing: Collection[int]) -> tuple[str, ...]:
    """Return the full names of the lists of failed images that missing chunks have left, in the order of the chunks."""
    listed = {chunk_failures_index(stat.key) for stat in store.list(CHUNKS_PREFIX)}
    return tuple(store.location(chunk_failures_key(index)) for index in missing if index in listed)


def _find_unlisted(store: Store, indexes: Set[int], *, concurrency: int) -> dict[int, ObjectStat]:
    """Return those of the chunks that the store has although its list does not show them yet."""
    if len(indexes) > LOOKED_FOR:
        return {}
    stats = ordered(lambda index: (index, store.stat(chunk_key(index))), sorted(indexes), concurrency=concurrency)
    return {index: stat for index, stat in stats if stat is not None}


def read_headers(
    store: Store, stats: Mapping[int, ObjectStat], *, concurrency: int, traffic: Traffic
) -> tuple[list[StoredChunk], list[Problem]]:
    """Return the chunks whose headers are whole, and a problem for each of the others."""
    shared: dict[Provenance, Provenance] = {}

    def read(index: int) -> StoredChunk | Problem:
        header = read_header_of(store, index, stats[index], traffic)
        if isinstance(header, Problem):
            return header
        # Thousands of equal provenances become one object.
        provenance = shared.setdefault(header.provenance, header.provenance)
        header = replace(header, provenance=provenance)
        return _lightened(StoredChunk(stats[index], header, merged_chunk(header)))

    results = list(ordered(read, stats, concurrency=concurrency))
    chunks = [result for result in results if isinstance(result, StoredChunk)]
    return chunks, [result for result in results if isinstance(result, Problem)]


def _lightened(chunk: StoredChunk) -> StoredChunk:
    """Return the chunk without what a report of very many chunks does not show, so that memory stays bounded."""
    header, chunk_count = chunk.header, chunk.header.provenance.chunk_count
    if header.pictures and not is_picked(header.index, of=chunk_count, at_most=MOST_PICTURES):
        header = replace(header, pictures=())
    if chunk_count <= MOST_CHUNK_TIMES:
        return chunk._replace(header=header)
    attempts = briefly(header.times.attempts if header.times is not None else ())
    if not is_picked(header.index, of=chunk_count, at_most=MOST_CHUNK_TIMES):
        header = replace(header, times=None)
    return chunk._replace(header=header, attempts=attempts)


def is_picked(index: int, *, of: int, at_most: int) -> bool:
    """Return whether a chunk is one of those that stand for all, spread evenly, at most so many."""
    return index % max(1, -(-of // at_most)) == 0


def read_header_of(store: Store, index: int, stat: ObjectStat, traffic: Traffic) -> ChunkHeader | Problem:
    """Return the header of the chunk file whose name has this index, or what LOOKS reads find wrong with it."""
    found = _look_at_header(store, index, stat, traffic)
    for _ in range(LOOKS - 1):
        if isinstance(found, ChunkHeader):
            break
        found = _look_at_header(store, index, stat, traffic)
    return found


def _look_at_header(store: Store, index: int, stat: ObjectStat, traffic: Traffic) -> ChunkHeader | Problem:
    location = store.location(stat.key)
    reader = ObjectReader(store, stat.key, stat.size)
    try:
        header = read_header(io.BufferedReader(reader, METADATA_BYTES), name=location)
    except ChunkInvalid as error:
        return Problem(index, Fault.HEADER, message=str(error))
    traffic.add(read=reader.bytes_read)
    if header.index != index:
        return Problem(index, Fault.INDEX, message=f"{location} says that it is chunk {header.index}")
    return header


def _check_same_run(store: Store, chunks: Sequence[StoredChunk], *, chunk_count: int) -> None:
    first, provenance = chunks[0].stat, chunks[0].header.provenance
    for chunk in chunks:
        check_same_run(provenance, chunk.header.provenance, location=store.location(chunk.stat.key))
    check_chunk_count(chunk_count, provenance.chunk_count, location=store.location(first.key))


def _find_misfits(store: Store, chunks: Sequence[StoredChunk]) -> list[Problem]:
    """Return a problem for each chunk whose rows have other columns or dimensions than those of most chunks."""
    with_rows = [chunk for chunk in chunks if chunk.header.embedded]
    if not with_rows:
        return []
    ((dimensions, _),) = Counter(chunk.header.dimensions for chunk in with_rows).most_common(1)
    ((have_ids, _),) = Counter("ids" in chunk.header.spans for chunk in with_rows).most_common(1)
    problems = []
    for chunk in with_rows:
        header, location = chunk.header, store.location(chunk.stat.key)
        if header.dimensions != dimensions:
            message = f"{location} has {header.dimensions} dimensions, most chunks have {dimensions}"
            problems.append(Problem(header.index, Fault.DIMENSIONS, message=message))
        if ("ids" in header.spans) != have_ids:
            message = f"{location} has {'no ' if have_ids else ''}ids, unlike most chunks"
            problems.append(Problem(header.index, Fault.IDS, message=message))
    return problems
