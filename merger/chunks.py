"""The chunks of a run as they lie in the store, and whether they may be merged."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ChunkInvalid, ChunksMissing, FingerprintMismatch
from common.format.chunk_file import METADATA_BYTES, ChunkHeader, read_header
from common.indexes import format_indexes
from common.logs import CHUNK_REFUSED, log
from common.run.keys import CHUNKS_PREFIX, chunk_index
from common.store.object_reader import ObjectReader
from merger.parallel import ordered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.format.provenance import Provenance
    from common.store.contract import ObjectStat, Store
    from merger.progress import Traffic

NAMED_PROBLEMS = 20
"""Bad chunks that one message names; a log line and a termination log hold no more."""


class StoredChunk(NamedTuple):
    stat: ObjectStat
    header: ChunkHeader


class Inputs(NamedTuple):
    """What is to be merged: at least one chunk, in the order of their indexes."""

    chunks: Sequence[StoredChunk]
    missing: Sequence[int]
    provenance: Provenance


def list_chunks(store: Store) -> dict[int, ObjectStat]:
    """Return the chunk files in the store by index, ascending."""
    found = ((chunk_index(stat.key), stat) for stat in store.list(CHUNKS_PREFIX))
    return dict(sorted((index, stat) for index, stat in found if index is not None))


def read_inputs(store: Store, *, chunk_count: int, allow_missing: bool, concurrency: int, traffic: Traffic) -> Inputs:
    """Return the chunks to merge, by their headers alone.

    Raises FingerprintMismatch where chunks are of different runs or of another chunk count, ChunkInvalid that names
    every chunk that breaks an invariant, and ChunksMissing where chunks are missing and that is not allowed, or there
    are none at all.
    """
    stats = list_chunks(store)
    missing = sorted(set(range(chunk_count)) - stats.keys())
    chunks, problems = _read_headers(store, stats, concurrency=concurrency, traffic=traffic)
    if chunks:
        _check_same_run(store, chunks, chunk_count=chunk_count)
        problems += _check_alike(store, chunks)
    if problems:
        raise ChunkInvalid(describe_problems(problems, store=store))
    if missing and (not allow_missing or not chunks):
        raise ChunksMissing(
            f"{len(missing)} of {chunk_count} chunks are missing: {format_indexes(missing)}; run the worker for them "
            "with EMBEDDER_CHUNK_INDEXES set to these indexes, then merge again"
            + ("" if not chunks else ", or merge what is there with EMBEDDER_ON_MISSING_CHUNKS=partial")
        )
    return Inputs(chunks, missing, chunks[0].header.provenance)


def _read_headers(
    store: Store, stats: dict[int, ObjectStat], *, concurrency: int, traffic: Traffic
) -> tuple[list[StoredChunk], list[str]]:
    """Return the chunks whose headers add up, and what is wrong with the others."""
    shared: dict[Provenance, Provenance] = {}

    def read(index: int) -> StoredChunk | str:
        stat = stats[index]
        try:
            header = read_header_of(store, stat, traffic)
        except ChunkInvalid as error:
            return str(error)
        # Thousands of headers that say the same share one object.
        return StoredChunk(stat, replace(header, provenance=shared.setdefault(header.provenance, header.provenance)))

    results = list(ordered(read, stats, concurrency=concurrency))
    chunks = [result for result in results if isinstance(result, StoredChunk)]
    return chunks, [result for result in results if isinstance(result, str)]


def read_header_of(store: Store, stat: ObjectStat, traffic: Traffic) -> ChunkHeader:
    """Return the header of the chunk file. Raises ChunkInvalid where it does not add up."""
    reader = ObjectReader(store, stat.key, stat.size)
    header = read_header(io.BufferedReader(reader, METADATA_BYTES), name=store.location(stat.key))
    traffic.add(read=reader.bytes_read)
    if header.index != chunk_index(stat.key):
        raise ChunkInvalid(f"{store.location(stat.key)} says that it is chunk {header.index}")
    for name, span in header.spans.items():
        if span.offset + span.rows * span.row_bytes > stat.size:
            raise ChunkInvalid(f"{store.location(stat.key)} has {stat.size} bytes, too few for its {name}")
    return header


def _check_same_run(store: Store, chunks: Sequence[StoredChunk], *, chunk_count: int) -> None:
    known = chunks[0].header.provenance
    for stat, header in chunks:
        known.check_same(header.provenance, name=store.location(stat.key))
    if known.chunk_count != chunk_count:
        raise FingerprintMismatch(
            f"{store.location(chunks[0].stat.key)} is one of {known.chunk_count} chunks, EMBEDDER_CHUNK_COUNT is "
            f"{chunk_count}; set it to {known.chunk_count}, or choose another EMBEDDER_RUN_URI"
        )


def _check_alike(store: Store, chunks: Sequence[StoredChunk]) -> list[str]:
    """Return what keeps the chunks with rows from standing in one file."""
    with_rows = [chunk for chunk in chunks if chunk.header.embedded]
    problems = []
    dimensions = Counter(chunk.header.dimensions for chunk in with_rows)
    with_ids = Counter("ids" in chunk.header.spans for chunk in with_rows)
    for stat, header in with_rows:
        (usual, _), *_ = dimensions.most_common(1)
        if header.dimensions != usual:
            problems.append(f"{store.location(stat.key)} has {header.dimensions} dimensions, the others {usual}")
        (have_ids, _), *_ = with_ids.most_common(1)
        if ("ids" in header.spans) != have_ids:
            problems.append(f"{store.location(stat.key)} has {'no ' if have_ids else ''}ids, unlike the others")
    return problems


def describe_problems(problems: Sequence[str], *, store: Store) -> str:
    """Return the sentence that names the bad chunks and what to do about them; the log has them all, one a line."""
    for problem in problems:
        log.warning(CHUNK_REFUSED, message=problem)
    more = len(problems) - NAMED_PROBLEMS
    return (
        f"{len(problems)} chunk files in {store.uri} cannot be merged: "
        + "; ".join(problems[:NAMED_PROBLEMS])
        + (f"; and {more} more" if more > 0 else "")
        + ". Delete these files, run the worker for their indexes with EMBEDDER_CHUNK_INDEXES, then merge again"
    )
