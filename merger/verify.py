"""Compare the result, as the store gives it back, with the chunks that it was made from."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.chunk_file import check_norms
from common.errors import ChunkInvalid
from merger.assemble import ColumnDigest, DigestDiffers, Sources
from merger.chunks import read_rows, widen
from merger.layout import EMBEDDINGS, Piece
from merger.parallel import ordered
from merger.plan import CopyPart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from merger.layout import Column
    from merger.plan import Part
    from merger.progress import Traffic

    Read = Callable[[int, int], bytes]
    """Return bytes of the result: where from, how many."""

NEAR_BYTES = 16_384
"""Rows that lie nearer to each other than this are read by one request."""

BLOCK_BYTES = 4 << 20
"""Of one read of a full verification."""


class ResultDiffers(Exception):
    """The result is not what the chunks make."""


class Verification(NamedTuple):
    mode: str
    rows_compared: int


class RowRange(NamedTuple):
    chunk: int
    first: int
    rows: int


def verify_metadata(read: Read, sources: Sources, *, size: int) -> None:
    """Raise ResultDiffers unless the result has its size and HDF5's metadata: names, shapes, counts, provenance."""
    if size != sources.layout.size:
        raise ResultDiffers(f"it has {size} bytes instead of {sources.layout.size}")
    for offset, expected in sources.layout.metadata.items():
        if read(offset, len(expected)) != expected:
            raise ResultDiffers(f"its {len(expected)} bytes from {offset}, the metadata, are not what was written")


def verify_sample(
    read: Read, sources: Sources, parts: Sequence[Part], *, random_rows: int, concurrency: int, traffic: Traffic
) -> Verification:
    """Compare the first and last row of every chunk and of every copied part, and random rows, in all columns.

    Raises ResultDiffers where the result's rows are not the chunk's, ChunkInvalid where a chunk's row is not of norm 1.
    """

    def compare(ranges: Sequence[RowRange]) -> int:
        for each in ranges:
            for column in sources.layout.columns:
                _compare_rows(read, sources, column, each, traffic)
        return sum(each.rows for each in ranges)

    samples = _sample(sources, parts, random_rows=random_rows)
    return Verification("sample", sum(ordered(compare, samples, concurrency=concurrency)))


def _compare_rows(read: Read, sources: Sources, column: Column, where: RowRange, traffic: Traffic) -> None:
    expected = read_rows(sources.store, sources.chunks[where.chunk], column.name, where.first, where.rows)
    found = _result_rows(read, sources, column, where)
    traffic.add(read=expected.nbytes + found.nbytes)
    name = sources.store.location(sources.chunks[where.chunk].stat.key)
    if not np.array_equal(found, widen(expected, column.row_bytes)):
        raise ResultDiffers(f"{column.name} of rows {where.first} to {where.first + where.rows - 1} differ from {name}")
    if column.name == EMBEDDINGS:
        check_norms(expected.view("<f4"), name=name)


def _result_rows(read: Read, sources: Sources, column: Column, where: RowRange) -> NDArray[np.uint8]:
    start = column.offset + (sources.layout.starts[where.chunk] + where.first) * column.row_bytes
    data = read(start, where.rows * column.row_bytes)
    return np.frombuffer(data, np.uint8).reshape(where.rows, column.row_bytes)


def _sample(sources: Sources, parts: Sequence[Part], *, random_rows: int) -> list[list[RowRange]]:
    """Return the rows to compare, chunk by chunk, neighbours together."""
    layout = sources.layout
    rows: dict[int, set[int]] = defaultdict(set)
    for chunk, (_, header) in enumerate(sources.chunks):
        if header.embedded:
            rows[chunk] |= {0, header.embedded - 1}
    for part in parts:
        if isinstance(part, CopyPart):
            rows[part.piece.chunk] |= {part.piece.first, part.piece.first + part.piece.rows - 1}
    # Seeded, so that a fault that was found is found again.
    draw = random.Random(sources.chunks[0].header.fingerprint)
    for row in draw.sample(range(layout.rows), min(random_rows, layout.rows)):
        chunk = bisect_right(layout.starts, row) - 1
        rows[chunk].add(row - layout.starts[chunk])
    near = max(1, NEAR_BYTES // max(column.row_bytes for column in layout.columns))
    return [list(_ranges(chunk, sorted(found), near=near)) for chunk, found in sorted(rows.items())]


def _ranges(chunk: int, rows: Iterable[int], *, near: int) -> Iterator[RowRange]:
    first = last = -1
    for row in rows:
        if first >= 0 and row - last > near:
            yield RowRange(chunk, first, last - first + 1)
            first = row
        first = row if first < 0 else first
        last = row
    if first >= 0:
        yield RowRange(chunk, first, last - first + 1)


def verify_full(read: Read, sources: Sources, *, concurrency: int, traffic: Traffic) -> Verification:
    """Read the whole result; compare vectors with the digest of each chunk, and texts with the chunks themselves.

    Raises ResultDiffers where they differ, DigestDiffers where it is the chunk that is not as it was written, and
    ChunkInvalid where a row is no unit vector.
    """

    def fetch(piece: Piece) -> tuple[Piece, NDArray[np.uint8], NDArray[np.uint8] | None]:
        column = sources.layout.column(piece.column)
        found = _result_rows(read, sources, column, RowRange(piece.chunk, piece.first, piece.rows))
        if piece.column != EMBEDDINGS:
            chunk = sources.chunks[piece.chunk]
            return piece, found, read_rows(sources.store, chunk, piece.column, piece.first, piece.rows)
        try:
            check_norms(found.view("<f4"), name=sources.store.location(sources.chunks[piece.chunk].stat.key))
        except ChunkInvalid as error:
            raise _whose_fault(read, piece, sources, error) from error
        return piece, found, None

    digest = ColumnDigest(sources)
    pieces = (block for piece in sources.layout.pieces() if piece.chunk >= 0 for block in _blocks(piece))
    fetched = ordered(fetch, pieces, concurrency=concurrency, cost=lambda piece: 2 * piece.size, budget=8 * BLOCK_BYTES)
    for piece, found, expected in fetched:
        traffic.add(read=found.nbytes + (0 if expected is None else expected.nbytes))
        if expected is not None:
            digest.update(piece, expected)
            if not np.array_equal(found, widen(expected, piece.row_bytes)):
                raise ResultDiffers(_difference(piece, sources))
            continue
        try:
            digest.update(piece, found)
        except DigestDiffers as error:
            raise _whose_fault(read, piece, sources, error) from error
    return Verification("full", sources.layout.rows)


def _blocks(piece: Piece) -> Iterator[Piece]:
    rows = max(1, BLOCK_BYTES // piece.row_bytes)
    for start in range(0, piece.rows, rows):
        yield piece.part(start, min(rows, piece.rows - start))


def _difference(piece: Piece, sources: Sources) -> str:
    return f"{piece.column} differ from {sources.store.location(sources.chunks[piece.chunk].stat.key)}"


def _whose_fault(read: Read, piece: Piece, sources: Sources, error: Exception) -> Exception:
    """Return `error` where the result has the chunk's bytes and so the chunk is at fault, else ResultDiffers."""
    chunk = sources.chunks[piece.chunk]
    column = sources.layout.column(piece.column)
    for block in _blocks(piece._replace(first=0, rows=chunk.header.embedded)):
        expected = read_rows(sources.store, chunk, piece.column, block.first, block.rows)
        found = _result_rows(read, sources, column, RowRange(piece.chunk, block.first, block.rows))
        if not np.array_equal(found, widen(expected, column.row_bytes)):
            return ResultDiffers(_difference(piece, sources))
    return error


def column_is_damaged(sources: Sources, chunk: int, column: str) -> bool:
    """Return whether a chunk's column is not what its worker wrote."""
    digest = ColumnDigest(sources)
    span = sources.chunks[chunk].header.spans[column]
    try:
        for block in _blocks(Piece(column, chunk, 0, span.rows, span.row_bytes)):
            digest.update(block, read_rows(sources.store, sources.chunks[chunk], column, block.first, block.rows))
    except DigestDiffers:
        return True
    return False
