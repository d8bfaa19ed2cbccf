"""The comparison of the result, as the store returns it, with the chunks that it was made from."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.errors import ChunkInvalid
from common.format.rows import check_norms
from common.parallel import ordered
from common.run.summary import Verification
from merger.finding import LOOKS, BadChunks, Fault, MergeRefused, Problem
from merger.layout import EMBEDDINGS, Piece
from merger.sample import stretches
from merger.sources import ColumnDigest, DigestDiffers, blocks, widen

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from merger.sample import KeptRows, Sample, Stretch
    from merger.sources import Sources

BLOCK_BYTES = 4 << 20
"""Size of one read of a full verification, in bytes."""

AHEAD_BYTES = 16 << 20
"""Largest number of bytes that a full verification has requested and not yet compared."""


class ResultDiffers(Exception):
    """The result does not have the bytes that the chunks give."""


class Result(NamedTuple):
    """The result that is verified. It may not be published yet."""

    size: int
    """Bytes."""
    read: Callable[[int, int], bytes]
    """A function that returns bytes of the result, for a start and a length."""
    sources: Sources

    def bytes_at(self, start: int, length: int) -> bytes:
        """Return `length` bytes of the result from `start`, and count them as traffic."""
        data = self.read(start, length)
        self.sources.traffic.add(read=len(data))
        return data

    def rows(self, stretch: Stretch) -> list[NDArray[np.uint8]]:
        """Return the rows of each piece as the result has them, (rows, row_bytes), with one request."""
        layout = self.sources.layout
        column = layout.column(stretch[0].column)
        start = column.offset + (layout.starts[stretch[0].chunk] + stretch[0].first) * column.row_bytes
        data = np.frombuffer(self.bytes_at(start, sum(piece.size for piece in stretch)), np.uint8)
        ends = list(accumulate(piece.rows for piece in stretch))
        return np.split(data.reshape(-1, column.row_bytes), ends[:-1])


def verify_metadata(result: Result) -> None:
    """Raise ResultDiffers unless the size and HDF5's metadata are right: names, shapes, counts and provenance."""
    layout = result.sources.layout
    if result.size != layout.size:
        raise ResultDiffers(f"it has {result.size} bytes instead of {layout.size}")
    for offset, expected in layout.metadata.items():
        if result.bytes_at(offset, len(expected)) != expected:
            raise ResultDiffers(f"its metadata at byte {offset} is not what was written")


def verify_sample(result: Result, sample: Sample, *, kept: KeptRows, concurrency: int) -> Verification:
    """Compare the rows of the sample with the rows of the chunks.

    Raises ResultDiffers where a row of the result is not the chunk's row, and MergeRefused where a chunk's vector does
    not have norm 1.
    """
    sources = result.sources

    def compare(stretch: Stretch) -> int:
        compared = 0
        for piece, found in zip(stretch, result.rows(stretch), strict=True):
            expected = kept.get(piece)
            if expected is None:
                expected = sources.read(piece)
            if not np.array_equal(found, widen(expected, piece.row_bytes)):
                raise _differs(result, piece)
            if piece.column == EMBEDDINGS:
                _check_norms(expected, piece, result)
                compared += piece.rows
        return compared

    return Verification(
        mode="sample", rows_compared=sum(ordered(compare, stretches(sources.layout, sample), concurrency=concurrency))
    )


def verify_full(result: Result, *, concurrency: int) -> Verification:
    """Compare the whole result: its vectors with the digest of each chunk, its texts with the chunks themselves.

    Raises ResultDiffers where the result does not have the chunk's bytes, DigestDiffers where a chunk is not what its
    worker wrote, and MergeRefused where a vector does not have norm 1.
    """
    sources = result.sources
    digest = ColumnDigest(sources)

    def fetch(piece: Piece) -> tuple[Piece, NDArray[np.uint8], NDArray[np.uint8] | None]:
        (found,) = result.rows((piece,))
        return piece, found, None if piece.column == EMBEDDINGS else sources.read(piece)

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
            _check_norms(found, piece, result)
        except (DigestDiffers, MergeRefused):
            # The chunk is at fault only if the result has the chunk's bytes.
            _compare_vectors(result, piece.chunk)
            raise
    return Verification(mode="full", rows_compared=sources.layout.rows)


def _compare_vectors(result: Result, chunk: int) -> None:
    """Raise ResultDiffers unless the result has the chunk's vectors, damaged or not."""
    header = result.sources.chunks[chunk].header
    whole = Piece(EMBEDDINGS, chunk, 0, header.embedded, header.spans[EMBEDDINGS].row_bytes)
    for piece in blocks(whole, BLOCK_BYTES):
        (found,) = result.rows((piece,))
        if not np.array_equal(found, result.sources.read(piece)):
            raise _differs(result, piece)


def _check_norms(vectors: NDArray[np.uint8], piece: Piece, result: Result) -> None:
    """Check that each of the vectors, (rows, row_bytes), which the chunk should have at `piece`, has norm 1.

    Raises MergeRefused where the chunk's vectors are at fault, and ResultDiffers where only those read before were.
    """
    if _bad_norms(vectors, piece, result.sources) is None:
        return
    for _ in range(LOOKS):
        bad = _bad_norms(result.sources.read(piece), piece, result.sources)
        if bad is None:
            raise _differs(result, piece)
    header = result.sources.chunks[piece.chunk].header
    problem = Problem(header.index, Fault.NORMS, message=str(bad))
    raise MergeRefused(BadChunks((problem,), header.provenance.chunk_count))


def _bad_norms(vectors: NDArray[np.uint8], piece: Piece, sources: Sources) -> ChunkInvalid | None:
    try:
        check_norms(vectors.view("<f4"), name=sources.location(piece.chunk), first_row=piece.first)
    except ChunkInvalid as error:
        return error
    return None


def _differs(result: Result, piece: Piece) -> ResultDiffers:
    last = piece.first + piece.rows - 1
    location = result.sources.location(piece.chunk)
    return ResultDiffers(
        f"its {piece.column} for rows {piece.first} to {last} of {location} are not those of the chunk"
    )
