"""Compare the result, as the store gives it back, with the chunks that it was made from."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.chunk_file import check_norms
from common.errors import ChunkInvalid
from merger.layout import EMBEDDINGS, Piece
from merger.parallel import ordered
from merger.plan import CopyPart
from merger.sources import ColumnDigest, DigestDiffers, blocks, widen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from merger.plan import Part
    from merger.sources import Sources

NEAR_BYTES = 8192
"""Rows that lie nearer to each other than this are read by one request."""

BLOCK_BYTES = 4 << 20
"""Of one read of a full verification."""

AHEAD_BYTES = 16 << 20
"""Of what a full verification has asked for and not yet compared."""


class ResultDiffers(Exception):
    """The result is not what the chunks make."""


class Verification(NamedTuple):
    mode: str
    rows_compared: int


class Result(NamedTuple):
    """The result to be verified."""

    size: int
    read: Callable[[int, int], bytes]
    """Return bytes of the result: from where, and how many."""
    sources: Sources

    def rows(self, piece: Piece) -> NDArray[np.uint8]:
        """Return the rows of a piece as they lie in the result, (rows, bytes of a row there)."""
        layout = self.sources.layout
        column = layout.column(piece.column)
        start = column.offset + (layout.starts[piece.chunk] + piece.first) * column.row_bytes
        data = self.read(start, piece.rows * column.row_bytes)
        self.sources.traffic.add(read=len(data))
        return np.frombuffer(data, np.uint8).reshape(piece.rows, column.row_bytes)


def verify_metadata(result: Result) -> None:
    """Raise ResultDiffers unless the result has its size and HDF5's metadata: names, shapes, counts, provenance."""
    layout = result.sources.layout
    if result.size != layout.size:
        raise ResultDiffers(f"it has {result.size} bytes instead of {layout.size}")
    for offset, expected in layout.metadata.items():
        if result.read(offset, len(expected)) != expected:
            raise ResultDiffers(f"its metadata at byte {offset} is not what was written")


def verify_sample(result: Result, parts: Sequence[Part], *, random_rows: int, concurrency: int) -> Verification:
    """Compare the first and last row of every chunk and of every copied part, and random rows, in all columns.

    Raises ResultDiffers where the result's rows are not the chunk's, ChunkInvalid where a chunk's row is not of norm 1.
    """

    def compare(piece: Piece) -> int:
        expected = result.sources.read(piece)
        if not np.array_equal(result.rows(piece), widen(expected, piece.row_bytes)):
            raise _differs(result, piece)
        if piece.column != EMBEDDINGS:
            return 0
        check_norms(expected.view("<f4"), name=result.sources.name(piece.chunk))
        return piece.rows

    samples = _sample(result.sources, parts, random_rows=random_rows)
    return Verification("sample", sum(ordered(compare, samples, concurrency=concurrency)))


def _sample(sources: Sources, parts: Sequence[Part], *, random_rows: int) -> Iterator[Piece]:
    """Yield the rows to compare, chunk by chunk, in all columns, neighbours together."""
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
    for chunk, found in sorted(rows.items()):
        for column in layout.columns:
            for first, last in _ranges(sorted(found), near=max(1, NEAR_BYTES // column.row_bytes)):
                yield Piece(column.name, chunk, first, last - first + 1, column.row_bytes)


def _ranges(rows: Iterable[int], *, near: int) -> list[tuple[int, int]]:
    """Return first and last of the ranges that cover the rows, which ascend, with no gap longer than `near` inside."""
    ranges: list[tuple[int, int]] = []
    for row in rows:
        if ranges and row - ranges[-1][1] <= near:
            ranges[-1] = (ranges[-1][0], row)
        else:
            ranges.append((row, row))
    return ranges


def verify_full(result: Result, *, concurrency: int) -> Verification:
    """Read the whole result; compare vectors with the digest of each chunk, and texts with the chunks themselves.

    Raises ResultDiffers where the result is not what the chunks make, DigestDiffers where a chunk is not as it was
    written, and ChunkInvalid where a row is not of norm 1.
    """
    sources = result.sources
    digest = ColumnDigest(sources)

    def fetch(piece: Piece) -> tuple[Piece, NDArray[np.uint8], NDArray[np.uint8] | None]:
        return piece, result.rows(piece), None if piece.column == EMBEDDINGS else sources.read(piece)

    pieces = (block for piece in sources.layout.pieces() if piece.chunk >= 0 for block in blocks(piece, BLOCK_BYTES))
    for piece, found, expected in ordered(
        fetch, pieces, concurrency=concurrency, cost=lambda piece: 2 * piece.size, budget=AHEAD_BYTES
    ):
        if expected is not None:
            digest.update(piece, expected)
            if not np.array_equal(found, widen(expected, piece.row_bytes)):
                raise _differs(result, piece)
            continue
        try:
            digest.update(piece, found)
            check_norms(found.view("<f4"), name=sources.name(piece.chunk))
        except (DigestDiffers, ChunkInvalid):
            # Whose fault is it? Where the result has the chunk's bytes, it is the chunk's.
            _compare_vectors(result, piece.chunk)
            raise
    return Verification("full", sources.layout.rows)


def _compare_vectors(result: Result, chunk: int) -> None:
    """Raise ResultDiffers unless the result has the chunk's vectors, whatever they are."""
    header = result.sources.chunks[chunk].header
    whole = Piece(EMBEDDINGS, chunk, 0, header.embedded, header.spans[EMBEDDINGS].row_bytes)
    for piece in blocks(whole, BLOCK_BYTES):
        if not np.array_equal(result.rows(piece), result.sources.read(piece)):
            raise _differs(result, piece)


def _differs(result: Result, piece: Piece) -> ResultDiffers:
    last = piece.first + piece.rows - 1
    name = result.sources.name(piece.chunk)
    return ResultDiffers(f"its {piece.column} of rows {piece.first} to {last} of {name} are not those of the chunk")
